import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import write_shard
from modernbert.errors import ConfigError, DataError
from modernbert.stream import packing as module
from modernbert.stream.packing import Packer, Position, best_fit
from modernbert.stream.shards import Documents, Shards

lengths_lists = st.lists(st.integers(0, 90), min_size=2, max_size=40).filter(any)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def documents(lengths):
        folder = tmp_path_factory.mktemp("shards")
        numbers = itertools.count()
        write_shard(folder / "a.ds", [[next(numbers) % 60_000 for _ in range(n)] for n in lengths])
        return Documents.all_of(Shards.open(folder))

    return documents


def epoch(packer):
    rows, number = [], packer.position.epoch
    while True:
        row = packer.next_packed_sequence()
        if packer.position.epoch != number:
            return rows
        rows.append(row)


@settings(deadline=None, max_examples=40)
@given(lengths=lengths_lists, max_length=st.integers(8, 40), seed=st.integers(0, 3), buffer=st.integers(1, 50))
def test_an_epoch_has_every_token_once_and_no_packed_sequence_is_too_long(make, lengths, max_length, seed, buffer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUFFER_DOCUMENTS", buffer)
        rows = epoch(Packer(make(lengths), max_length, seed))
    seen = [np.zeros(length, dtype=int) for length in lengths]
    for row in rows:
        assert 0 < sum(chunk.length + 2 for chunk in row) <= max_length
        for chunk in row:
            seen[chunk.document][chunk.start : chunk.start + chunk.length] += 1
            assert 0 < chunk.length <= max_length - 2
    assert all((counts == 1).all() for counts in seen)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(3, 50), max_size=80))
def test_best_fit_places_every_item_once_and_opens_bins_only_if_needed(sizes):
    rows = best_fit(np.array(sizes, dtype=np.int64), 50)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    totals = [sum(sizes[item] for item in row) for row in rows]
    assert all(total <= 50 for total in totals)
    assert sum(total <= 25 for total in totals) <= 1  # two half-empty bins would fit into one


def test_the_order_depends_on_the_seed_alone(make):
    documents = make(list(range(1, 60)))
    first, again, other = (epoch(Packer(documents, 64, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_each_epoch_has_its_own_order(make):
    documents = make(list(range(1, 60)))
    packer = Packer(documents, 64, seed=0)
    first, second = epoch(packer), epoch(packer)
    flat = [sorted((p.document, p.start) for row in rows for p in row) for rows in (first, second)]
    assert first != second
    assert len(flat[1]) >= len(flat[0]) - 8  # the first packed sequence of the second epoch is already used


def test_a_position_is_the_complete_state(make):
    documents = make(list(range(1, 60)))
    packer = Packer(documents, 64, seed=0)
    for _ in range(17):
        packer.next_packed_sequence()
    other = Packer(documents, 64, seed=0, position=Position(**vars(packer.position)))
    assert [packer.next_packed_sequence() for _ in range(40)] == [other.next_packed_sequence() for _ in range(40)]


def test_packing_efficiency_is_high_with_documents_of_many_lengths(make):
    lengths = np.random.default_rng(0).lognormal(5.5, 1.1, 3000).astype(int).clip(1, 9000)
    rows = epoch(Packer(make(lengths.tolist()), 1024, seed=0))
    assert sum(chunk.length + 2 for row in rows for chunk in row) / (1024 * len(rows)) > 0.995


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_a_max_length_too_short_for_a_token_is_refused(make, max_length):
    with pytest.raises(ConfigError, match="too short for"):
        Packer(make([3, 4]), max_length, seed=0)


def test_shards_without_tokens_are_refused(make):
    with pytest.raises(DataError, match="holds no token"):
        Packer(make([0, 0, 0]), 64, seed=0)
