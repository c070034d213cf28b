import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import make_shards, make_tokenizer
from modernbert.errors import DataError
from modernbert.stream.inspect import inspect
from modernbert.stream.lengths import (
    assumed_lengths,
    histogram_lengths,
    mixture_statistics,
    packing_statistics,
    visible_keys,
)
from modernbert.stream.shards import Shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    return make_shards(folder / "shards", make_tokenizer(folder / "tokenizer"))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.one_of(st.none(), st.integers(1, 100)))
def test_visible_keys_equal_the_count_of_an_attention_mask(lengths, window):
    for length, found in zip(lengths, visible_keys(np.array(lengths), window), strict=True):
        position = np.arange(length)
        distance = np.abs(position[:, None] - position[None, :])
        assert found == (distance <= (length if window is None else window)).sum()


def test_packing_statistics_of_lengths_equal_those_of_the_shards(shards):
    report = inspect(shards, 128)
    rows = packing_statistics(Shards.open(shards).lengths, 128, {None})
    assert rows.tokens_per_sequence == Fraction(
        round(report.packing_efficiency * report.packed_sequences * 128), report.packed_sequences
    )
    assert rows.packing_efficiency == pytest.approx(report.packing_efficiency)
    assert rows.chunks_per_token * float(rows.tokens_per_sequence) == pytest.approx(report.chunks_per_sequence)


def test_lengths_from_a_histogram_have_its_distribution(shards, tmp_path):
    path = tmp_path / "histogram.json"
    path.write_text(json.dumps(asdict(inspect(shards, 128))))
    sampled, real = histogram_lengths(path), Shards.open(shards).lengths
    assert sampled.max() <= real.max()
    assert np.mean(sampled) == pytest.approx(np.mean(real), rel=0.1)
    edges = [2**power for power in range(4, 10)]
    shares = [np.histogram(lengths, edges)[0] / len(lengths) for lengths in (sampled, real)]
    np.testing.assert_allclose(*shares, atol=0.01)


@pytest.mark.parametrize("text", ["{", "{}", '{"histogram": []}', '{"histogram": [{"start": 0}]}', "[1]"])
def test_an_invalid_histogram_is_an_error(tmp_path, text):
    path = tmp_path / "histogram.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"is not a length histogram; write one with `modernbert inspect"):
        histogram_lengths(path)


def test_a_histogram_without_a_document_is_refused(tmp_path):
    path = tmp_path / "histogram.json"
    path.write_text('{"histogram": [{"start": 0, "stop": 16, "documents": 0}]}')
    with pytest.raises(DataError, match="has no document"):
        histogram_lengths(path)


def test_mixture_weights_are_fractions_of_the_tokens():
    """As in the loader: the source with a lower packing efficiency has more packed sequences."""
    full, empty = packing_statistics(np.full(64, 62), 64, {None}), packing_statistics(np.full(64, 30), 63, {None})
    empty = type(empty)(64, empty.tokens_per_sequence, empty.chunks_per_token, empty.keys)
    assert (full.tokens_per_sequence, empty.tokens_per_sequence) == (64, 32)
    mixed = mixture_statistics({"full": full, "empty": empty}, {"full": 1.0, "empty": 1.0})
    assert mixed.tokens_per_sequence == Fraction(3 * 64, 4) * Fraction(
        8, 9
    )  # a third of the packed sequences hold half of the tokens
    assert mixed.keys[None] == (64 + 32) / 2
    assert mixed.chunks_per_token == (1 / 64 + 1 / 32) / 2


def test_the_assumed_lengths_are_deterministic():
    assert np.array_equal(assumed_lengths(), assumed_lengths())
    assert np.median(assumed_lengths()) == pytest.approx(500, rel=0.01)
