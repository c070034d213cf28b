"""Every attention backend against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import BackendError
from modernbert.kernels import Rope, available_backends, calibration, default_backend, native, varlen_attention
from modernbert.packed import Sequences

NATIVE = [f"native/{level}" for level in native.LEVELS]


@pytest.fixture(autouse=True)
def _level_as_it_was():
    yield
    native.select("")


# name, device, dtype, relative tolerance against the fp32 oracle: forward, gradient
SETTINGS = [
    pytest.param("reference", "cpu", torch.float64, 1e-12, 1e-12, id="reference-fp64"),
    pytest.param("blocked", "cpu", torch.float64, 1e-12, 1e-12, id="blocked-fp64"),
    pytest.param("blocked", "cpu", torch.float32, 1e-5, 1e-5, id="blocked-fp32"),
    pytest.param("blocked", "cpu", torch.bfloat16, 1e-2, 2e-2, id="blocked-bf16"),
    *(pytest.param(name, "cpu", torch.float32, 1e-5, 1e-5, id=f"{name}-fp32") for name in NATIVE),
    *(pytest.param(name, "cpu", torch.bfloat16, 1e-2, 2e-2, id=f"{name}-bf16") for name in NATIVE),
    pytest.param("blocked", "cuda", torch.float32, 1e-4, 1e-4, id="blocked-cuda-fp32", marks=pytest.mark.gpu),
    pytest.param("blocked", "cuda", torch.bfloat16, 1e-2, 2e-2, id="blocked-cuda-bf16", marks=pytest.mark.gpu),
    pytest.param("flash", "cuda", torch.float16, 2e-3, 4e-3, id="flash-fp16", marks=pytest.mark.gpu),
    pytest.param("flash", "cuda", torch.bfloat16, 1e-2, 2e-2, id="flash-bf16", marks=pytest.mark.gpu),
    pytest.param("triton", "cuda", torch.float32, 1e-5, 1e-5, id="triton-fp32", marks=pytest.mark.gpu),
    pytest.param("triton", "cuda", torch.float16, 2e-3, 4e-3, id="triton-fp16", marks=pytest.mark.gpu),
    pytest.param("triton", "cuda", torch.bfloat16, 1e-2, 2e-2, id="triton-bf16", marks=pytest.mark.gpu),
]
LENGTHS = [[1], [2, 1], [63, 64, 65], [1, 513, 17], [129, 0, 130, 300], [64] * 5, [1030]]
WINDOWS = [None, 0, 1, 31, 64, 65, 200]


def random_qkv(
    lengths: list[int], dtype: torch.dtype = torch.float64, heads: int = 2, head_dim: int = 16, seed: int = 0
):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, heads, head_dim, dtype=torch.float64, generator=generator)
    return qkv.to(dtype), Sequences.from_lengths(lengths)


def attend(qkv: torch.Tensor, sequences: Sequences, window: int | None, backend: str) -> torch.Tensor:
    """A backend by name, `native` followed by a level; tests of levels that this processor lacks are skipped."""
    name, _, level = backend.partition("/")
    if level:
        native.select(level)
        if reason := native.unavailable():
            pytest.skip(f"{level} {reason}")
    return varlen_attention(qkv, sequences, window, backend=name)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().double().cpu(), expected.detach()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize(("backend", "device", "dtype", "forward", "gradient"), SETTINGS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_every_backend_answers_to_the_oracle(backend, device, dtype, forward, gradient, window, lengths):
    head_dim = 16 if backend in ("reference", "blocked") else 64
    qkv, sequences = random_qkv(lengths, dtype, head_dim=head_dim)
    weights = torch.randn(sum(lengths), 2, head_dim, generator=torch.Generator().manual_seed(1)).to(dtype)

    precise = qkv.double().requires_grad_()
    expected = attend(precise, sequences, window, "reference")
    expected_grad = torch.autograd.grad(expected, precise, weights.double())[0]
    ours = qkv.to(device).requires_grad_()
    actual = attend(ours, sequences.to(device), window, backend)
    actual_grad = torch.autograd.grad(actual, ours, weights.to(device))[0]

    assert actual.dtype == dtype
    assert relative_error(actual, expected) < forward
    # one token attends only to itself: the gradients of q and k are zero, so compare the gradient of v
    assert relative_error(actual_grad, expected_grad) < gradient


@pytest.mark.parametrize("window", [None, 0, 3, 64])
def test_the_oracle_is_softmax_attention_written_out(window):
    qkv, sequences = random_qkv([5, 70])
    q, k, v = qkv.unbind(1)
    output = attend(qkv, sequences, window, "reference")
    for begin, end in ((0, 5), (5, 75)):
        for i in range(begin, end):
            seen = [j for j in range(begin, end) if window is None or abs(i - j) <= window]
            for head in range(2):
                scores = [math.exp(float(q[i, head] @ k[j, head]) / 4) for j in seen]
                expected = sum(s * v[j, head] for s, j in zip(scores, seen, strict=True)) / sum(scores)
                torch.testing.assert_close(output[i, head], expected)


@pytest.mark.parametrize("backend", ["reference", "blocked", *NATIVE])
@pytest.mark.parametrize("window", [None, 2, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_never_sees_its_neighbour_to_the_last_bit(backend, window, dtype):
    lengths = [70, 3, 200, 1, 16]
    qkv, sequences = random_qkv(lengths, dtype, heads=3, head_dim=32)
    together = attend(qkv, sequences, window, backend).split(lengths)
    for part, alone in zip(together, qkv.split(lengths), strict=True):
        assert torch.equal(part, attend(alone, Sequences.from_lengths([len(alone)]), window, backend))


@pytest.mark.parametrize("backend", ["reference", "blocked", *NATIVE])
@pytest.mark.parametrize("window", [None, 2, 64])
def test_a_nan_stays_in_its_sequence(backend, window):
    lengths = [70, 30, 200]
    qkv, sequences = random_qkv(lengths, torch.float32, head_dim=32)
    qkv[70:100] = float("nan")
    qkv.requires_grad_()
    output = attend(qkv, sequences, window, backend)
    grad = torch.autograd.grad(output.sum(), qkv)[0]
    for values in (output, grad):
        first, poisoned, last = values.split(lengths)
        assert first.isfinite().all()
        assert last.isfinite().all()
        assert poisoned.isnan().any()


@pytest.mark.parametrize("backend", ["reference", "blocked", *NATIVE])
@pytest.mark.parametrize("window", [0, 1, 5, 64, 65])
def test_a_window_is_inclusive_on_both_sides(backend, window):
    qkv, sequences = random_qkv([300], torch.float32, head_dim=32)
    middle = 150
    for j in range(300):
        changed = qkv.clone()
        changed[j, 2] += 1.0  # the value of token j
        if j in (middle - window - 1, middle - window, middle, middle + window, middle + window + 1):
            difference = attend(changed, sequences, window, backend) - attend(qkv, sequences, window, backend)
            assert bool(difference[middle].abs().max() > 0) == (abs(j - middle) <= window)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=6).filter(any),
    window=st.none() | st.integers(0, 140),
    heads=st.integers(1, 3),
)
def test_blocked_equals_the_oracle_for_any_lengths_and_window(lengths, window, heads):
    qkv, sequences = random_qkv(lengths, heads=heads, head_dim=8)
    torch.testing.assert_close(
        attend(qkv, sequences, window, "blocked"), attend(qkv, sequences, window, "reference"), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("backend", NATIVE)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 600), min_size=1, max_size=5).filter(any),
    window=st.none() | st.integers(0, 300),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([32, 64, 96, 128]),
)
def test_native_equals_the_oracle_for_any_shape(backend, lengths, window, heads, head_dim):
    qkv, sequences = random_qkv(lengths, torch.float32, heads=heads, head_dim=head_dim)
    qkv.requires_grad_()
    found = attend(qkv, sequences, window, backend)
    wanted = attend(qkv, sequences, window, "reference")
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    grads = [torch.autograd.grad(output, qkv, weights)[0] for output in (found, wanted)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["blocked", *NATIVE])
def test_a_rotation_belongs_to_queries_and_keys(backend):
    """The rotation gives the same result inside the backend and before it."""
    qkv, sequences = random_qkv([100, 30], torch.float32, head_dim=64)
    rope = Rope.of(sequences.positions, 64, 160_000.0)
    weights = torch.randn(130, 2, 64, generator=torch.Generator().manual_seed(1))
    before = torch.stack((rope(qkv[:, 0]), rope(qkv[:, 1]), qkv[:, 2]), dim=1)
    expected = attend(before, sequences, 20, "reference")
    qkv.requires_grad_()
    attend(qkv, sequences, 20, backend)  # chooses the level
    output = varlen_attention(qkv, sequences, 20, rope, backend.partition("/")[0])
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-5)
    [grad] = torch.autograd.grad(output, qkv, weights)
    turned = before.requires_grad_()
    [wanted] = torch.autograd.grad(attend(turned, sequences, 20, "reference"), turned, weights)
    back = Rope(rope.cos, -rope.sin)
    wanted = torch.stack((back(wanted[:, 0]), back(wanted[:, 1]), wanted[:, 2]), dim=1)
    torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-4)


def test_windows_cost_memory_in_proportion_to_tokens():
    """At window 64, four times the tokens use about four times the memory, not sixteen times."""

    def largest(tokens: int) -> int:
        qkv, sequences = random_qkv([tokens], torch.float32, heads=1, head_dim=8)
        sizes: list[int] = []

        class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                sizes.extend(x.numel() for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, torch.Tensor))
                return result

        qkv.requires_grad_()
        with Sizes():
            attend(qkv, sequences, 64, "blocked").sum().backward()
        return max(sizes)

    assert largest(8192) <= 4.5 * largest(2048)
    assert largest(8192) < 8192 * 8192 / 16


def test_an_unknown_backend_is_refused_by_name():
    qkv, sequences = random_qkv([3])
    with pytest.raises(BackendError, match=r"'fast'.*reference, blocked, native, flash, triton"):
        attend(qkv, sequences, None, "fast")


def test_flash_refuses_a_cpu_with_the_remedy():
    qkv, sequences = random_qkv([3], torch.bfloat16)
    with pytest.raises(BackendError, match="use backend='blocked'"):
        attend(qkv, sequences, None, "flash")


def test_native_refuses_unsupported_arguments_with_the_remedy():
    qkv, sequences = random_qkv([3], torch.float64)
    with pytest.raises(BackendError, match="use backend='blocked'"):
        attend(qkv, sequences, None, "native")


def test_the_default_on_the_cpu_is_native_where_it_runs_and_blocked_otherwise():
    cpu = torch.device("cpu")
    best = "blocked" if native.unavailable() else "native"
    assert default_backend(cpu, torch.bfloat16) == default_backend(cpu, torch.float32) == best
    assert default_backend(cpu, torch.float64) == default_backend(cpu, torch.float32, head_dim=16) == "blocked"
    native.select("off")
    assert default_backend(cpu, torch.bfloat16) == "blocked"
    assert available_backends()["blocked"] is None
    assert "switched off" in available_backends()["native"]


@pytest.mark.gpu
def test_the_default_on_cuda_is_triton_for_windows_and_the_faster_backend_otherwise():
    cuda = torch.device("cuda")
    calibration.forget()
    assert default_backend(cuda, torch.bfloat16, window=64) == "triton"
    for length in (128, 8192):
        assert default_backend(cuda, torch.bfloat16, longest=length, training=True) in ("triton", "flash")
    assert len(calibration.chosen()) == 2
    assert default_backend(cuda, torch.float32) == "blocked"
