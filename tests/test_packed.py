import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import DataError
from modernbert.packed import Sequences, pack, unpack
from synchronisation import never_waiting

masks = st.integers(1, 6).flatmap(
    lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=5)
)


@settings(deadline=None)
@given(masks.filter(lambda rows: any(map(any, rows))))
def test_packing_and_unpacking_gives_back_real_tokens_and_zeros(rows):
    mask = torch.tensor(rows)
    ids = torch.arange(1, mask.numel() + 1).view(mask.shape)
    tokens, sequences = pack(ids, mask)
    assert torch.equal(unpack(tokens, sequences), ids * mask)
    assert sequences.lengths == tuple(mask.sum(1).tolist())
    assert sequences.max_length == max(sequences.lengths)
    assert sequences.positions.tolist() == [i for length in sequences.lengths for i in range(length)]


def test_left_and_right_padding_pack_to_the_same_stream():
    right, _ = pack(torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]))
    left, _ = pack(torch.tensor([[0, 5, 6], [0, 0, 7]]), torch.tensor([[0, 1, 1], [0, 0, 1]]))
    assert right.tolist() == left.tolist() == [5, 6, 7]


def test_a_row_without_a_token_is_an_empty_sequence():
    tokens, sequences = pack(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[1, 1], [0, 0], [0, 1]]))
    assert sequences.lengths == (2, 0, 1)
    assert sequences.cu_seqlens.tolist() == [0, 2, 2, 3]
    assert unpack(tokens, sequences).tolist() == [[1, 2], [0, 0], [0, 6]]


def test_without_a_mask_every_token_is_real():
    tokens, sequences = pack(torch.ones(2, 3, 4))
    assert tokens.shape == (6, 4)
    assert sequences.lengths == (3, 3)


def test_sequences_from_lengths_unpack_left_aligned():
    sequences = Sequences.from_lengths([2, 0, 3])
    assert unpack(torch.arange(1, 6), sequences).tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]


def test_gradients_flow_through_both_ways():
    x = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    tokens, sequences = pack(x, mask)
    unpack(tokens * 2, sequences).sum().backward()
    assert torch.equal(x.grad, 2.0 * mask[..., None].expand_as(x))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 4, dtype=torch.long), "is \\(2, 4\\) but the batch is \\(2, 3\\)"),
        (torch.full((2, 3), 2), "other values than 0 and 1"),
        (torch.zeros(2, 3, dtype=torch.long), "has no real token"),
    ],
)
def test_a_wrong_mask_is_one_sentence(mask, message):
    with pytest.raises(DataError, match=message):
        pack(torch.ones(2, 3, dtype=torch.long), mask)


@pytest.mark.parametrize("lengths", [[], [3, -1]])
def test_lengths_must_make_a_batch(lengths):
    with pytest.raises(DataError, match="at least one sequence"):
        Sequences.from_lengths(lengths)


def test_unpack_refuses_sequences_of_another_batch():
    _, sequences = pack(torch.ones(2, 3))
    with pytest.raises(DataError, match="has 4 rows but its sequences have 6 tokens"):
        unpack(torch.ones(4), sequences)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
def test_lengths_and_a_right_padded_mask_make_the_same_sequences(lengths):
    given = Sequences.from_lengths(lengths)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    _, packed = pack(mask.long(), mask)
    assert (given.lengths, given.max_length, given.padded_shape) == (packed.lengths, packed.max_length, mask.shape)
    assert torch.equal(given.positions, packed.positions)
    assert torch.equal(given.slots, packed.slots)


def test_values_on_padding_never_reach_the_output():
    """This includes NaN, which a product with zero would keep."""
    mask = torch.tensor([[1, 1, 0], [0, 0, 1]])
    x = torch.where(mask == 1, 1.0, torch.nan).requires_grad_()
    tokens, sequences = pack(x, mask)
    padded = unpack(tokens, sequences)
    padded.sum().backward()
    assert torch.equal(padded, mask.float())
    assert torch.equal(x.grad, mask.float())


def test_sequences_stay_equal_on_another_device():
    sequences = Sequences.from_lengths([2, 0, 3])
    moved = sequences.to("meta")
    assert moved.device.type == moved.positions.device.type == moved.slots.device.type == "meta"
    assert (moved.max_length, moved.padded_shape) == (sequences.max_length, sequences.padded_shape)
    assert moved.num_sequences == 3
    assert moved.num_tokens == 5


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_sequences_from_lengths_are_consistent_and_know_their_lengths(lengths):
    made = Sequences.from_lengths(lengths)
    checked = Sequences(made.cu_seqlens, made.max_length, made.positions, made.slots, made.padded_shape)
    assert made.lengths == checked.lengths == tuple(lengths)
    assert made.slots.tolist() == [i * max(lengths) + p for i, length in enumerate(lengths) for p in range(length)]


@pytest.mark.gpu
def test_sequences_are_copied_to_a_device_without_waiting():
    lengths = [3, 0, 500, 1]
    expected = Sequences.from_lengths(lengths)
    with never_waiting():
        found = Sequences.from_lengths(lengths, "cuda")
    for name in ("cu_seqlens", "positions", "slots"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name))
