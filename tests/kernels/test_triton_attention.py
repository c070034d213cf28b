"""Attention in Triton against the reference: in the interpreter on a CPU, and on a GPU with `-m gpu`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.kernels import Rope, triton, varlen_attention
from modernbert.packed import Sequences


def material(lengths, heads, dim, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, heads, dim, generator=generator)
    weights = torch.randn(sum(lengths), heads, dim, generator=generator)
    return qkv.to(device), weights.to(device), Sequences.from_lengths(lengths, device)


def both(qkv, weights, sequences, window, rope, backend):
    """Output and gradient of a backend."""
    qkv = qkv.detach().clone().requires_grad_()
    out = varlen_attention(qkv, sequences, window, rope, backend)
    return out.detach(), torch.autograd.grad(out, qkv, weights)[0]


@pytest.mark.parametrize(
    ("lengths", "window", "dim"),
    [
        ([1], None, 64), ([2, 0, 63, 65], None, 32), ([70, 3], 0, 128), ([130, 1], 64, 64), ([90], 31, 96),
        ([70, 5], 1 << 40, 64),
    ],
    ids=str,
)  # fmt: skip
def test_output_and_gradient_equal_the_oracle(triton_device, lengths, window, dim):
    qkv, weights, sequences = material(lengths, 2 if dim == 32 else 1, dim, triton_device)
    rope = Rope.of(sequences.positions, dim, 10_000.0)
    found = both(qkv, weights, sequences, window, rope, "triton")
    wanted = both(qkv, weights, sequences, window, rope, "reference")
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_a_nan_stays_in_its_sequence(triton_device):
    lengths = [40, 30, 50]
    qkv, weights, sequences = material(lengths, 1, 32, triton_device)
    qkv[40:70] = float("nan")
    for window in (None, 2):
        for values in both(qkv, weights, sequences, window, None, "triton"):
            first, poisoned, last = values.split(lengths)
            assert first.isfinite().all()
            assert last.isfinite().all()
            assert poisoned.isnan().any()


def test_a_sequence_gives_the_same_bits_in_every_batch(triton_device):
    lengths = [70, 3, 130, 1]
    qkv, weights, sequences = material(lengths, 1, 32, triton_device)
    together = [x.split(lengths) for x in both(qkv, weights, sequences, 20, None, "triton")]
    for number, (part, weight) in enumerate(zip(qkv.split(lengths), weights.split(lengths), strict=True)):
        alone = both(part, weight, Sequences.from_lengths([len(part)], triton_device), 20, None, "triton")
        if len(part) > 20:  # a window over everything is global attention, which has other tiles
            assert all(torch.equal(one[number], other) for one, other in zip(together, alone, strict=True))


@settings(max_examples=4, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=3).filter(any),
    window=st.none() | st.integers(0, 100),
    heads=st.integers(1, 2),
)
def test_any_shape_equals_the_oracle(lengths, window, heads):
    pytest.importorskip("triton")
    device = "cpu" if triton.interpreted() else "cuda"
    qkv, weights, sequences = material(lengths, heads, 32, device)
    found = both(qkv, weights, sequences, window, None, "triton")
    wanted = both(qkv, weights, sequences, window, None, "reference")
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_the_operators_pass_the_checks_of_torch(triton_device):
    from modernbert.kernels.triton.attention import tile_sizes, triton_attention
    from modernbert.kernels.triton.tiles import tiles

    qkv, _, sequences = material([20, 3], 1, 32, triton_device)
    cos, sin = Rope.of(sequences.positions, 32, 100.0).angles
    tables = [tiles(sequences, size) for size in tile_sizes(4, 32, qkv.dtype)]
    torch.library.opcheck(triton_attention, (qkv.requires_grad_(), cos, sin, *tables, 4))


@pytest.mark.parametrize("lengths", [[5], [0, 3, 0], [64, 65, 1, 0, 200], [0, 0, 7]], ids=str)
@pytest.mark.parametrize("block", [16, 64])
def test_tiles_cover_every_row_once_and_stay_inside_their_sequence(lengths, block):
    from modernbert.kernels.triton.tiles import tiles

    sequences = Sequences.from_lengths(lengths)
    covered = []
    for first, begin, end in tiles(sequences, block).tolist():
        assert (first - begin) % block == 0
        covered += range(first, min(first + block, end))
    assert covered == list(range(sum(lengths)))
