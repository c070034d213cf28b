"""Inconsistent arguments give the same one-sentence error on every backend, and never a crash.

`make check-native` runs these under the address sanitizer.
"""

from dataclasses import replace

import jaxtyping
import pytest
import torch

from modernbert.errors import BackendError, DataError
from modernbert.kernels import Rope, native, native_operators, varlen_attention
from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.kernels.elementwise import add_norm
from modernbert.packed import Sequences, pack

LENGTHS = [70, 1, 30]
TOKENS = sum(LENGTHS)
BACKENDS = ["reference", "blocked", *(f"native/{level}" for level in native.LEVELS), None]


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Switch off the shape checks that only test runs make."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    native.select("")


def good(tokens: int = TOKENS) -> dict:
    qkv = torch.randn(tokens, 3, 2, 32, generator=torch.Generator().manual_seed(0))
    sequences = Sequences.from_lengths(LENGTHS)
    return {"qkv": qkv, "sequences": sequences, "window": 16, "rope": Rope.of(torch.arange(TOKENS), 32, 10_000.0)}


def rope(change) -> Rope:
    whole = good()["rope"]
    return Rope(change(whole.cos), change(whole.sin))


ATTENTION = {
    "fewer tokens than sequences": ({"qkv": torch.randn(50, 3, 2, 32)}, "qkv has 50 tokens but the sequences have 101"),
    "more tokens than sequences": ({"qkv": torch.randn(102, 3, 2, 32)}, "qkv has 102 tokens but the sequences have"),
    "one part": ({"qkv": torch.randn(TOKENS, 1, 2, 32)}, "tokens, 3, heads, head_dim"),
    "two parts": ({"qkv": torch.randn(TOKENS, 2, 2, 32)}, "tokens, 3, heads, head_dim"),
    "no heads": ({"qkv": torch.randn(TOKENS, 3, 0, 32)}, "tokens, 3, heads, head_dim"),
    "no width": ({"qkv": torch.randn(TOKENS, 3, 2, 0)}, "tokens, 3, heads, head_dim"),
    "three dimensions": ({"qkv": torch.randn(TOKENS, 3, 64)}, "tokens, 3, heads, head_dim"),
    "integers": ({"qkv": torch.ones(TOKENS, 3, 2, 32, dtype=torch.int64)}, "in a floating dtype"),
    "a negative window": ({"window": -1}, "window must be the number of visible tokens on each side"),
    "a window of a float": ({"window": 16.0}, "window must be the number of visible tokens on each side"),
    "a rope too short": ({"rope": rope(lambda x: x[:50])}, r"the cos of rope must be \(101, 1, 32\)"),
    "a rope too narrow": ({"rope": rope(lambda x: x[..., :16])}, r"the cos of rope must be \(101, 1, 32\)"),
    "a rope in bf16": ({"rope": rope(torch.Tensor.bfloat16)}, "in torch.float32 on cpu"),
    "a rope elsewhere": ({"rope": rope(lambda x: x.to("meta"))}, "on cpu, not .* on meta"),
    "sequences elsewhere": ({"sequences": Sequences.from_lengths(LENGTHS).to("meta")}, "the sequences on meta"),
}


def choose(backend: str | None) -> str | None:
    name, _, level = (backend or "").partition("/")
    if level:
        native.select(level)
        if reason := native.unavailable():
            pytest.skip(f"{level} {reason}")
    return name or None


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", ATTENTION)
def test_every_backend_refuses_the_same_arguments_with_the_same_sentence(case, backend):
    changes, sentence = ATTENTION[case]
    with pytest.raises(BackendError, match=f"Attention cannot run on these arguments: .*{sentence}"):
        varlen_attention(**good() | changes, backend=choose(backend))


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("window", [TOKENS, 2**31, 2**63 - 1, 2**80], ids=["tokens", "2^31", "2^63 - 1", "2^80"])
def test_a_window_wider_than_every_sequence_is_global(window, backend):
    arguments, name = good(), choose(backend)
    wanted = varlen_attention(**arguments | {"window": None}, backend="reference")
    found = varlen_attention(**arguments | {"window": window}, backend=name)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_no_tokens_give_no_rows_and_an_empty_gradient(backend):
    qkv = torch.randn(0, 3, 2, 32, requires_grad=True)
    output = varlen_attention(qkv, Sequences.from_lengths([0, 0]), 16, backend=choose(backend))
    assert output.shape == (0, 2, 32)
    [gradient] = torch.autograd.grad(output.sum(), qkv)
    assert gradient.shape == qkv.shape


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_strided_arguments_are_read_as_they_are(backend):
    arguments, name = good(), choose(backend)
    wanted = varlen_attention(**arguments, backend="reference")
    twice = arguments["qkv"].repeat_interleave(2, dim=3)[..., ::2]
    turned = Rope(arguments["rope"].cos.repeat_interleave(2, dim=2)[..., ::2], arguments["rope"].sin.mT.contiguous().mT)
    found = varlen_attention(twice, arguments["sequences"], 16, turned, backend=name)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def ends(*numbers, dtype=torch.int32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


SEQUENCES = {
    "past the tokens": ({"cu_seqlens": ends(0, 70, 71, 5000)}, "does not rise from 0 to the 101 tokens"),
    "short of the tokens": ({"cu_seqlens": ends(0, 70, 71, 90)}, "does not rise from 0 to the 101 tokens"),
    "negative": ({"cu_seqlens": ends(-70, 70, 71, 101)}, "does not rise from 0"),
    "not from 0": ({"cu_seqlens": ends(1, 70, 71, 101)}, "does not rise from 0"),
    "decreasing": ({"cu_seqlens": ends(0, 71, 70, 101)}, "does not rise from 0"),
    "empty": ({"cu_seqlens": ends()}, "one number more than there are sequences"),
    "one number": ({"cu_seqlens": ends(0)}, "one number more than there are sequences"),
    "floats": ({"cu_seqlens": ends(0, 70, 71, 101, dtype=torch.float32)}, "and int32"),
    "int64": ({"cu_seqlens": ends(0, 70, 71, 101, dtype=torch.int64)}, "and int32"),
    "strided": ({"cu_seqlens": ends(0, 0, 70, 70, 71, 71, 101, 101)[::2]}, "contiguous"),
    "two dimensions": ({"cu_seqlens": ends(0, 70, 71, 101).view(2, 2)}, "one-dimensional"),
    "a list": ({"cu_seqlens": [0, 70, 71, 101]}, "must be tensors"),
    "elsewhere": ({"cu_seqlens": ends(0, 70, 71, 101).to("meta")}, "cu_seqlens is on meta"),
    "a longest too short": ({"max_length": 69}, "max_length is 69 where the longest sequence has 70"),
    "a longest too long": ({"max_length": 2**40}, "the longest sequence has 70"),
    "positions that go on": ({"positions": torch.arange(TOKENS)}, "positions do not count from 0"),
    "positions past any table": ({"positions": torch.full((TOKENS,), 10**9)}, "positions do not count from 0"),
    "fewer positions": ({"positions": torch.arange(70)}, "70 positions and 101 slots"),
    "slots outside": ({"slots": torch.arange(TOKENS) + 10**6}, "a slot lies outside"),
    "negative slots": ({"slots": torch.arange(TOKENS) - 1}, "a slot lies outside"),
    "one slot twice": ({"slots": torch.zeros(TOKENS, dtype=torch.int64)}, "two tokens have the same slot"),
    "a shape of one number": ({"padded_shape": (3,)}, "padded_shape must be"),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_inconsistent_sequences_are_refused(case):
    changes, sentence = SEQUENCES[case]
    whole = Sequences.from_lengths(LENGTHS)
    with pytest.raises(DataError, match=f"are not consistent: .*{sentence}.*; make them with pack or from_lengths"):
        replace(whole, **changes)


def test_consistent_sequences_made_by_hand_are_accepted():
    whole = Sequences.from_lengths(LENGTHS)
    again = replace(whole, positions=whole.positions.int())
    assert again.lengths == tuple(LENGTHS)
    arguments = good()
    found = varlen_attention(**arguments | {"sequences": again})
    assert torch.equal(found, varlen_attention(**arguments))


@pytest.mark.parametrize("lengths", [[1.5], ["3"], [None]], ids=str)
def test_lengths_must_be_integers(lengths):
    with pytest.raises(DataError, match="must be integers"):
        Sequences.from_lengths(lengths)


@pytest.mark.parametrize("lengths", [[2**31], [2**30, 2**30], [2**63]], ids=str)
def test_more_tokens_than_boundaries_can_count_are_refused(lengths):
    with pytest.raises(DataError, match="at most 2147483647 tokens"):
        Sequences.from_lengths(lengths)


def test_lengths_may_be_those_of_a_tensor():
    assert Sequences.from_lengths(torch.tensor([2, 3])).lengths == (2, 3)


OPERATOR = {
    "past the tokens": {"boundaries": ends(0, 70, 71, 5000)},
    "short of the tokens": {"boundaries": ends(0, 70, 71, 90)},
    "negative": {"boundaries": ends(-70, 70, 71, 101)},
    "decreasing": {"boundaries": ends(0, 71, 70, 101)},
    "empty": {"boundaries": ends()},
    "int64": {"boundaries": ends(0, 70, 71, 101, dtype=torch.int64)},
    "strided": {"boundaries": ends(0, 0, 70, 70, 71, 71, 101, 101)[::2]},
    "two parts": {"qkv": torch.randn(TOKENS, 2, 2, 32)},
    "three dimensions": {"qkv": torch.randn(TOKENS, 3, 64)},
    "heads of 16": {"qkv": torch.randn(TOKENS, 3, 2, 16)},
    "fp64": {"qkv": torch.randn(TOKENS, 3, 2, 32, dtype=torch.float64)},
    "a rotation too short": {"cos": torch.ones(50, 16)},
    "a rotation too narrow": {"sin": torch.ones(TOKENS, 8)},
    "a rotation in bf16": {"cos": torch.ones(TOKENS, 16, dtype=torch.bfloat16)},
    "two kinds of strides": {"cos": torch.ones(TOKENS, 32)[:, :16]},
}


@pytest.mark.parametrize("case", OPERATOR)
def test_the_native_operator_refuses_what_an_exported_model_could_hand_it(level, case):
    arguments = {
        "qkv": torch.randn(TOKENS, 3, 2, 32),
        "cos": torch.ones(TOKENS, 16),
        "sin": torch.zeros(TOKENS, 16),
        "boundaries": ends(0, 70, 71, 101),
    }
    out, logsumexp = torch.ops.modernbert.attention(*arguments.values(), 16)
    hostile = tuple((arguments | OPERATOR[case]).values())
    with pytest.raises(BackendError, match=r"do not rise from 0|native kernels need qkv as"):
        torch.ops.modernbert.attention(*hostile, 16)
    with pytest.raises(BackendError, match=r"do not rise from 0|native kernels need qkv as|are not those of"):
        torch.ops.modernbert.attention_backward(torch.ones_like(out), *hostile, 16, out, logsumexp)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


CROSS_ENTROPY = {
    "fewer labels than rows": ({"labels": torch.tensor([1, 2])}, "one for each of 64 rows"),
    "more labels than rows": ({"labels": torch.ones(65, dtype=torch.int64)}, "one for each of 64 rows"),
    "labels in columns": ({"labels": torch.ones(64, 1, dtype=torch.int64)}, "one for each of 64 rows"),
    "labels in fp32": ({"labels": torch.ones(64)}, "integers"),
    "labels of bool": ({"labels": torch.ones(64, dtype=torch.bool)}, "integers"),
    "labels elsewhere": ({"labels": torch.ones(64, dtype=torch.int64, device="meta")}, "on one device"),
    "a narrower weight": ({"weight": rows(40, 16)}, r"not \(64, 32\) and \(40, 16\)"),
    "a shorter bias": ({"bias": rows(3)}, r"the bias must be \(40,\), not \(3,\)"),
    "a longer bias": ({"bias": rows(41)}, r"the bias must be \(40,\), not \(41,\)"),
    "rows of integers": ({"x": torch.ones(64, 32, dtype=torch.int64)}, "x must be"),
    "one row alone": ({"x": rows(32)}, "x must be"),
}


@pytest.mark.parametrize("backend", ["off", *native.LEVELS])
@pytest.mark.parametrize("case", CROSS_ENTROPY)
def test_cross_entropy_refuses_wrong_shapes_with_one_sentence(case, backend):
    choose(f"native/{backend}") if backend != "off" else native.select("off")
    arguments = {"x": rows(64, 32), "weight": rows(40, 32), "bias": rows(40), "labels": torch.arange(64) % 40}
    changes, sentence = CROSS_ENTROPY[case]
    with pytest.raises(BackendError, match=f"Cross-entropy cannot run on these arguments: .*{sentence}"):
        linear_cross_entropy(**arguments | changes)


@pytest.mark.parametrize("backend", ["off", *native.LEVELS])
@pytest.mark.parametrize(
    ("x", "y", "width"), [((64, 32), (63, 32), 32), ((64, 32), (64, 16), 32), ((64, 32), (64, 32), 16), ((), (), 1)]
)
def test_a_sum_and_its_norm_refuse_other_widths_and_numbers_of_rows(x, y, width, backend):
    choose(f"native/{backend}") if backend != "off" else native.select("off")
    with pytest.raises(BackendError, match="rows and weights of equal width"):
        add_norm(rows(*x), rows(*y), torch.nn.LayerNorm(width, bias=False))


def test_the_native_norm_refuses_what_an_exported_model_could_hand_it():
    if reason := native.unavailable():
        pytest.skip(f"the native backend {reason}")
    with pytest.raises(BackendError, match="rows and weights of equal width"):
        native_operators.add_norm.operator(rows(64, 32), rows(2, 32), torch.ones(32), 1e-5, torch.float32)


def test_pack_refuses_tensors_that_are_not_a_batch():
    for ids in (torch.ones(3), torch.ones(())):
        with pytest.raises(DataError, match="A batch is"):
            pack(ids)
