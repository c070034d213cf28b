"""The functions that a model calls use the Triton kernels, and compute the same as the modules of PyTorch."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modernbert.kernels import add_norm, elementwise, embedding_norm, geglu, layer_norm
from modernbert.kernels import triton as triton_kernels

HALF = torch.bfloat16

COMPILED = """
import sys, torch
from torch import nn
from modernbert.kernels import add_norm, elementwise, geglu, layer_norm, triton

device = torch.device(sys.argv[1])
asked = triton.supports
elementwise._on_triton = lambda x: asked(torch.device("cuda"), x.dtype) or asked(x.device, x.dtype)
norm = nn.LayerNorm(32, bias=False, device=device)

def layer(x, y):
    total, normed = add_norm(x, y, norm)
    return total.sum() + geglu(normed).sum() + layer_norm(total, norm).square().sum()

x, y = (torch.randn(5, 32, device=device, requires_grad=True) for _ in range(2))
compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
found = torch.autograd.grad(compiled(x, y), (x, y, norm.weight))
torch.testing.assert_close(found, torch.autograd.grad(layer(x, y), (x, y, norm.weight)))
"""


@pytest.fixture
def device(triton_device, monkeypatch) -> torch.device:
    """The device of the kernels. The functions use them there; by default they use them only on CUDA."""
    monkeypatch.setattr(elementwise, "_on_triton", lambda x: triton_kernels.supports(x.device, x.dtype))
    return triton_device


def norm_of(width, device):
    norm = nn.LayerNorm(width, eps=1e-5, bias=False, device=device)
    norm.weight.data.uniform_(0.5, 1.5)
    return norm


@pytest.mark.parametrize("autocast", [True, False])
def test_the_kernels_are_used_and_agree_with_pytorch(device, autocast):
    torch.manual_seed(0)
    norm, embedding = norm_of(48, device), nn.Embedding(30, 48, device=device)
    x, tokens = torch.randn(9, 48, device=device, requires_grad=True), torch.randint(0, 30, (9,), device=device)
    dtype = HALF if autocast else torch.float32
    y = torch.randn(9, 48, device=device).to(dtype)
    with torch.autocast(device.type, HALF, enabled=autocast):
        found = {
            "triton_add_norm": add_norm(x, y, norm)[1],
            "triton_layer_norm": layer_norm(x, norm),
            "triton_embedding_norm": embedding_norm(tokens, embedding, norm, half=True),
            "triton_geglu": geglu(x),
        }
        stream = embedding_norm(tokens, embedding, norm)
    assert stream.dtype == torch.float32  # by default, the residual stream is in the dtype of the weights
    torch.testing.assert_close(stream, norm(embedding(tokens)))
    wanted = [norm(x + y), norm(x), norm(embedding(tokens)), F.gelu(x[:, :24]) * x[:, 24:]]
    for (name, result), expected in zip(found.items(), wanted, strict=True):
        assert name in str(result.grad_fn)
        assert result.dtype == (torch.float32 if name == "triton_geglu" else dtype)
        tolerance = 8e-3 if autocast else 1e-6
        assert (result.float() - expected).norm() <= tolerance * expected.norm()


def test_a_norm_with_a_bias_and_other_dtypes_go_through_pytorch(device):
    norm = nn.LayerNorm(8, device=device)
    x = torch.randn(3, 8, device=device)
    assert torch.equal(layer_norm(x, norm), norm(x))
    double = norm_of(8, device).double()
    assert torch.equal(layer_norm(x.double(), double), double(x.double()))
    assert torch.equal(add_norm(x.double(), x.double(), double)[1], double(x.double() + x.double()))


def test_on_a_cpu_they_are_the_modules_of_pytorch():
    torch.manual_seed(0)
    norm, embedding, tokens = norm_of(48, "cpu"), nn.Embedding(30, 48), torch.randint(0, 30, (9,))
    assert torch.equal(embedding_norm(tokens, embedding, norm), norm(embedding(tokens)))
    assert torch.equal(layer_norm(embedding(tokens), norm), norm(embedding(tokens)))


@pytest.mark.slow
def test_compiled_code_goes_through_the_operators_without_a_break(triton_device):
    """In a separate process: the shape checks that run under pytest cannot be traced."""
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if triton_device.type == "cpu" else {})
    subprocess.run([sys.executable, "-c", COMPILED, triton_device.type], check=True, env=environment)


@pytest.mark.gpu
def test_a_captured_graph_repeats_with_new_values(device):
    norm, embedding = norm_of(64, device), nn.Embedding(30, 64, device=device)
    tokens, y = torch.randint(0, 30, (50,), device=device), torch.randn(50, 64, device=device)

    def run():
        x = embedding_norm(tokens, embedding, norm)
        total, normed = add_norm(x, y, norm)
        loss = geglu(normed).sum() + layer_norm(total, norm).square().sum()
        gradients = torch.autograd.grad(loss, (norm.weight, embedding.weight))
        return loss.detach(), *gradients  # no autograd graph is shared between streams

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    y.copy_(torch.randn_like(y))
    tokens.copy_(torch.randint_like(tokens, 30))
    graph.replay()
    torch.testing.assert_close(captured, run())


def test_importing_the_package_does_not_import_triton():
    script = "import sys, modernbert.kernels; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_a_device_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(triton_kernels, "_devices", {})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_kernels.unavailable() == "needs a CUDA device"
    assert not triton_kernels.supports(torch.device("cuda"), torch.float32)
    assert not triton_kernels.supports(torch.device("cpu"), torch.float32)
    monkeypatch.setattr(triton_kernels, "_devices", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "7.5" in triton_kernels.unavailable()
