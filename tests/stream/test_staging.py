import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from modernbert.model import EncoderConfig, MaskedLM
from modernbert.packed import IGNORED, Sequences, unpack
from modernbert.stream.loader import Batch
from modernbert.stream.staging import HostCopy, Inputs, Staging, numbers_to_device, padded_predictions

CPU = torch.device("cpu")
LENGTH = 16


def batch_of(rows, masked=0.3, seed=0):
    """A batch of packed sequences, given by the lengths of their sequences."""
    generator = np.random.default_rng(seed)
    lengths = [length for row in rows for length in row]
    ids = generator.integers(0, 90, sum(lengths))
    labels = np.where(generator.random(len(ids)) < masked, ids, IGNORED)
    return Batch(torch.from_numpy(ids), torch.from_numpy(labels), Sequences.from_lengths(lengths), len(rows))


def staging(**changes):
    return Staging(**({"max_length": LENGTH, "mask_ratio": 0.3, "filler_id": 95, "pinned": False} | changes))


row = st.lists(st.integers(1, LENGTH), min_size=1, max_size=4).filter(lambda lengths: sum(lengths) <= LENGTH)
drawn = st.tuples(st.lists(row, min_size=1, max_size=12), st.floats(0, 0.9), st.integers(0, 9))


@settings(deadline=None)
@given(drawn)
def test_a_staged_batch_is_the_batch_with_padding_without_predictions(drawn):
    batch = batch_of(*drawn)
    staged = staging().stage(batch, 7)
    inputs, real, predicted = staged.to(CPU), len(batch.input_ids), len(batch.predicted_positions)
    assert torch.equal(inputs.tokens[:real], batch.input_ids)
    assert (inputs.tokens[real:] == 95).all()
    assert len(inputs.tokens) == batch.num_packed_sequences * LENGTH
    assert torch.equal(inputs.predicted_positions[:predicted], batch.predicted_positions)
    assert torch.equal(inputs.targets[:predicted], batch.targets)
    assert (inputs.predicted_positions[predicted:] == 0).all()
    assert (inputs.targets[predicted:] == IGNORED).all()
    assert (inputs.total_predicted.shape, float(inputs.total_predicted)) == ((), 7)


@settings(deadline=None)
@given(drawn)
def test_staged_sequences_are_those_of_the_batch_then_padding_then_empty_ones(drawn):
    batch = batch_of(*drawn)
    staged = staging().stage(batch, 1)
    sequences = staged.to(CPU).sequences
    expected = Sequences.from_lengths(staged.lengths)
    assert staged.lengths[: batch.sequences.num_sequences] == batch.sequences.lengths
    assert sequences.lengths == expected.lengths
    assert torch.equal(sequences.cu_seqlens, expected.cu_seqlens)
    assert sequences.cu_seqlens.dtype == torch.int32
    assert torch.equal(sequences.positions, expected.positions)
    assert sequences.max_length == LENGTH >= max(staged.lengths)
    assert sequences.num_sequences % 64 == 0
    columns = unpack(torch.arange(1, 1 + sequences.num_tokens), sequences)
    for index, (one, length) in enumerate(zip(columns, staged.lengths, strict=True)):
        start = int(sequences.cu_seqlens[index])
        assert one.tolist() == [*range(start + 1, start + 1 + length), *[0] * (LENGTH - length)]


def test_shapes_repeat():
    generator, one = np.random.default_rng(0), staging()
    found = set()
    for seed in range(50):
        rows = [(int(cut), LENGTH - int(cut)) for cut in generator.integers(4, 13, 32)]
        found.add(one.stage(batch_of(rows, seed=seed), 1).shape)
    assert len(found) == 1


def test_the_number_of_sequences_grows_and_never_shrinks():
    one = staging()
    few, many = batch_of([(LENGTH,)] * 64), batch_of([(4, 4, 4, 4)] * 64)
    sizes = [one.stage(batch, 1).shape.sequences for batch in (few, many, few)]
    assert sizes[0] < 256 <= sizes[1] == sizes[2]


@pytest.mark.parametrize("tokens", [512, 16_384, 98_304])
def test_padded_predictions_cover_usual_and_unusual_masks(tokens):
    usual = padded_predictions(tokens, 0.3, 0)
    drawn = np.random.default_rng(0).binomial(tokens, 0.3, 10_000)
    assert drawn.max() < usual <= tokens * 0.3 + 6 * (0.21 * tokens) ** 0.5 + 256
    assert usual % 256 == 0
    assert padded_predictions(tokens, 0.3, usual + 1) == usual + 256


def test_every_view_is_aligned_for_wide_loads():
    inputs = staging().stage(batch_of([(5, 6), (3,)]), 1).to(CPU)
    sequences = inputs.sequences
    views = [inputs.tokens, inputs.predicted_positions, inputs.targets, inputs.total_predicted]
    views += [sequences.cu_seqlens, sequences.positions, sequences.slots]
    starts = [view.data_ptr() for view in views]
    assert all((one - other) % 128 == 0 for one, other in itertools.pairwise(starts))
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1


def test_padding_changes_neither_loss_nor_gradients():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = MaskedLM(EncoderConfig(vocab_size=96, local_attention=8, **sizes)).eval()

    def loss(inputs: Inputs):
        logits = model(inputs.tokens, inputs.sequences).index_select(0, inputs.predicted_positions)
        nats = F.cross_entropy(logits, inputs.targets, ignore_index=IGNORED, reduction="sum")
        model.zero_grad()
        (nats / inputs.total_predicted).backward()
        return nats.detach(), [parameter.grad for parameter in model.parameters()]

    batch = batch_of([(9, 7), (5, 3), (16,)])
    plain = loss(Inputs.of(batch, torch.tensor(11.0), CPU))
    padded = loss(staging().stage(batch, 11).to(CPU))
    torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-6)


def test_numbers_are_unchanged_by_the_round_trip():
    assert HostCopy(numbers_to_device([3.0, 1 / 3, True], CPU)).read() == [3.0, 1 / 3, 1.0]
