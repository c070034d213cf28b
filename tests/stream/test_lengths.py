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
from modernbert.stream.lengths import assumed_lengths, histogram_lengths, mixed_rows, packed_rows, visible_keys
from modernbert.stream.shards import Shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    return make_shards(folder / "shards", make_tokenizer(folder / "tokenizer"))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.one_of(st.none(), st.integers(1, 100)))
def test_visible_keys_are_those_that_a_mask_would_leave(lengths, window):
    for length, found in zip(lengths, visible_keys(np.array(lengths), window), strict=True):
        position = np.arange(length)
        distance = np.abs(position[:, None] - position[None, :])
        assert found == (distance <= (length if window is None else window)).sum()


def test_rows_from_lengths_alone_are_those_of_the_shards(shards):
    report = inspect(shards, 128)
    rows = packed_rows(Shards.open(shards).lengths, 128, {None})
    assert rows.tokens_per_row == Fraction(
        round(report.packing_efficiency * report.packed_sequences * 128), report.packed_sequences
    )
    assert rows.packing_efficiency == pytest.approx(report.packing_efficiency)
    assert rows.chunks_per_token * float(rows.tokens_per_row) == pytest.approx(report.chunks_per_sequence)


def test_a_histogram_stands_for_the_documents_that_it_counts(shards, tmp_path):
    path = tmp_path / "histogram.json"
    path.write_text(json.dumps(asdict(inspect(shards, 128))))
    drawn, real = histogram_lengths(path), Shards.open(shards).lengths
    assert drawn.max() <= real.max()
    assert np.mean(drawn) == pytest.approx(np.mean(real), rel=0.1)
    edges = [2**power for power in range(4, 10)]
    shares = [np.histogram(lengths, edges)[0] / len(lengths) for lengths in (drawn, real)]
    np.testing.assert_allclose(*shares, atol=0.01)


@pytest.mark.parametrize("text", ["{", "{}", '{"histogram": []}', '{"histogram": [{"start": 0}]}', "[1]"])
def test_what_is_no_histogram_is_one_sentence(tmp_path, text):
    path = tmp_path / "histogram.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"is not a length histogram; write one with `modernbert inspect"):
        histogram_lengths(path)


def test_a_histogram_without_a_document_is_refused(tmp_path):
    path = tmp_path / "histogram.json"
    path.write_text('{"histogram": [{"start": 0, "stop": 16, "documents": 0}]}')
    with pytest.raises(DataError, match="has no document"):
        histogram_lengths(path)


def test_the_shares_of_a_mixture_are_shares_of_its_tokens():
    """As the loader serves them: so the source with emptier rows gives more rows."""
    full, empty = packed_rows(np.full(64, 62), 64, {None}), packed_rows(np.full(64, 30), 63, {None})
    empty = type(empty)(64, empty.tokens_per_row, empty.chunks_per_token, empty.keys)
    assert (full.tokens_per_row, empty.tokens_per_row) == (64, 32)
    mixed = mixed_rows({"full": full, "empty": empty}, {"full": 1.0, "empty": 1.0})
    assert mixed.tokens_per_row == Fraction(3 * 64, 4) * Fraction(8, 9)  # a third of the rows hold half of the tokens
    assert mixed.keys[None] == (64 + 32) / 2
    assert mixed.chunks_per_token == (1 / 64 + 1 / 32) / 2


def test_the_assumed_documents_are_always_the_same():
    assert np.array_equal(assumed_lengths(), assumed_lengths())
    assert np.median(assumed_lengths()) == pytest.approx(500, rel=0.01)
