"""Residual + norm and GeGLU: the native kernels against plain PyTorch, at every instruction level."""

import pytest
import torch
from torch.nn import functional as F

from modernbert.kernels import add_norm, geglu, native

DTYPES = [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)]


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rows", [1, 64, 130])
@pytest.mark.parametrize(("stream", "dtype"), DTYPES, ids=str)
def test_add_norm_and_its_gradients(level, stream, dtype, rows):
    torch.manual_seed(0)
    x, y = torch.randn(rows, 208, dtype=torch.float64) * 3 + 1, torch.randn(rows, 208, dtype=torch.float64)
    weight = torch.rand(208, dtype=torch.float64) + 0.5
    x, y = x.to(stream), y.to(dtype)
    given = torch.randn(rows, 208).to(stream), torch.randn(rows, 208).to(dtype)
    precise = [t.double().requires_grad_() for t in (x, y, weight.float())]
    total = precise[0] + precise[1]
    wanted = total, F.layer_norm(total, (208,), precise[2], None, 1e-5)
    wanted_grads = torch.autograd.grad(wanted, precise, [g.double() for g in given])
    norm = torch.nn.LayerNorm(208, eps=1e-5, bias=False)
    norm.weight.data = weight.float()
    ours = [x.requires_grad_(), y.requires_grad_(), norm.weight]
    with torch.autocast("cpu", torch.bfloat16, enabled=stream != dtype):
        found = add_norm(x, y, norm)
    assert (found[0].dtype, found[1].dtype) == (stream, dtype)
    assert "add_norm" in str(found[1].grad_fn)  # the operator, not plain PyTorch
    grads = torch.autograd.grad(found, ours, given)
    half = torch.bfloat16 in (stream, dtype)
    for value, expected in zip((*found, *grads), (*wanted, *wanted_grads), strict=True):
        assert error(value, expected) < (8e-3 if half else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_geglu_and_its_gradient(level, dtype):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(33, 96) * 4, torch.tensor([[-40.0, -9, -1e-3, 0, 1e-3, 9, 40, 100] * 12])]).to(dtype)
    given = torch.randn(34, 48).to(dtype)
    precise = x.double().requires_grad_()
    activated, gate = precise.chunk(2, -1)
    wanted = F.gelu(activated) * gate
    [wanted_grad] = torch.autograd.grad(wanted, precise, given.double())
    found = geglu(x.requires_grad_())
    assert "geglu" in str(found.grad_fn)
    [grad] = torch.autograd.grad(found, x, given)
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-6
    assert error(found, wanted) < tolerance
    assert error(grad, wanted_grad) < tolerance


def test_unsupported_tensors_use_pytorch():
    x = torch.randn(5, 20, requires_grad=True)  # the width is not a multiple of 16
    total, normed = add_norm(x, x, torch.nn.LayerNorm(20))
    torch.testing.assert_close(normed, F.layer_norm(2 * x, (20,)))
    torch.testing.assert_close(geglu(x), F.gelu(x[:, :10]) * x[:, 10:])
    assert total.requires_grad


@pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")
def test_operators_pass_the_checks_of_torch():
    """Shapes, gradients and aliases are as declared to torch.compile and export, and the same at every level."""
    x, y, weight = torch.randn(7, 32), torch.randn(7, 32), torch.rand(32)
    qkv, boundaries = torch.randn(7, 3, 2, 32), torch.tensor([0, 3, 7], dtype=torch.int32)
    cos, sin = torch.rand(7, 16), torch.rand(7, 16)
    ours = torch.ops.modernbert
    torch.library.opcheck(ours.geglu.default, (x.clone().requires_grad_(),))
    torch.library.opcheck(ours.add_norm.default, (x, y.clone().requires_grad_(), weight, 1e-5, torch.float32))
    torch.library.opcheck(ours.attention.default, (qkv.clone().requires_grad_(), cos, sin, boundaries, 2))
