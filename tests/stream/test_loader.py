import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import write_shard
from modernbert.errors import ConfigError
from modernbert.stream import packing
from modernbert.stream.loader import Loader, validation_batches
from modernbert.stream.shards import Documents, Shards
from modernbert.text.tokenizer import Vocabulary

SPECIAL = np.zeros(64, dtype=np.bool_)
SPECIAL[60:] = True
VOCABULARY = Vocabulary(64, 60, 61, 62, 63, SPECIAL, np.ones(64, dtype=np.int32))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    base = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(0)
    for name, count in (("large", 300), ("small", 40), ("third", 90)):
        documents = [generator.integers(0, 60, n).tolist() for n in generator.integers(1, 120, count)]
        write_shard(base / name / "x.ds", documents)
    return {name: Documents.all_of(Shards.open(base / name)) for name in ("large", "small", "third")}


@pytest.fixture(autouse=True, scope="module")
def small_buffers():
    """Small buffers, so that a few packed sequences cross buffers and epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BUFFER_DOCUMENTS", 16)
        yield


def loader(sources, weights=None, **changes):
    options = {"max_length": 64, "mask_ratio": 0.3, "seed": 0} | changes
    weights = weights or {"large": 3.0, "small": 1.0}
    return Loader({name: sources[name] for name in weights}, weights, VOCABULARY, **options)


def stream(loader, batches):
    taken = [loader.next_batch(rows) for rows in batches]
    return torch.cat([b.input_ids for b in taken]), torch.cat([b.labels for b in taken])


def same(one, other):
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def framed(batch):
    """Every sequence of a batch with its masked tokens put back."""
    ids = torch.where(batch.labels == -100, batch.input_ids, batch.labels)
    return [tuple(sequence.tolist()) for sequence in ids.split(batch.sequences.lengths)]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 3))
def test_the_stream_does_not_depend_on_the_batches(sources, cut, seed):
    assert same(stream(loader(sources, seed=seed), cut), stream(loader(sources, seed=seed), [sum(cut)]))


def test_another_seed_gives_another_stream(sources):
    assert framed(loader(sources).next_batch(20)) != framed(loader(sources, seed=1).next_batch(20))


def test_an_epoch_has_every_chunk_of_every_document_once(sources):
    documents = sources["third"]
    batches = validation_batches(documents, VOCABULARY, max_length=64, tokens=10**9, mask_ratio=0.5)
    expected = Counter(
        (60, *ids[start : start + 62].tolist(), 61)
        for ids in map(documents.shards.document, documents.indices.tolist())
        for start in range(0, len(ids), 62)
    )
    assert Counter(chunk for batch in batches for chunk in framed(batch)) == expected


def test_every_sequence_is_one_chunk_between_cls_and_sep(sources):
    batch = loader(sources).next_batch(20)
    for ids, labels in zip(
        batch.input_ids.split(batch.sequences.lengths), batch.labels.split(batch.sequences.lengths), strict=True
    ):
        assert (ids[0], ids[-1]) == (60, 61)
        assert labels[0] == labels[-1] == -100
        assert len(ids) <= 64
        assert not ((ids[1:-1] == 60) | (ids[1:-1] == 61)).any()
    assert batch.num_packed_sequences == 20
    assert batch.input_ids.dtype == torch.int64


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 120), st.integers(1, 30))
def test_a_state_restored_from_json_continues_identically(sources, before, after):
    first = loader(sources)
    first.next_batch(before)
    second = loader(sources)
    second.restore(json.loads(json.dumps(first.state())))
    assert same(stream(first, [after]), stream(second, [1] * after))
    assert first.state() == second.state()


@settings(deadline=None, max_examples=15)
@given(st.tuples(*[st.floats(0.05, 1)] * 3))
def test_no_source_is_more_than_a_packed_sequence_ahead_of_its_weight(sources, weights):
    mixed = loader(sources, dict(zip(sources, weights, strict=True)))
    for _ in range(100):
        mixed.next_batch(1)
        served = mixed.state()["served"]
        for name, weight in zip(sources, weights, strict=True):
            assert served[name] <= weight / sum(weights) * sum(served.values()) + 64


@pytest.mark.parametrize("weights", [{}, {"large": 1.0, "other": 1.0}, {"large": 1.0, "small": 0.0}])
def test_weights_of_other_sources_are_refused(sources, weights):
    chosen = {name: sources[name] for name in ("large", "small")}
    with pytest.raises(ConfigError, match="need one weight above 0 each"):
        Loader(chosen, weights, VOCABULARY, max_length=64, mask_ratio=0.3, seed=0)


def test_after_a_change_of_length_no_used_buffer_is_repeated(sources):
    first = loader(sources)
    first.next_batch(10)
    second = loader(sources, max_length=128)
    second.restore(first.state())
    used = {name: position["buffer"] for name, position in first.state()["positions"].items()}
    second.next_batch(1)
    state = second.state()
    assert state["rows"] == 11
    assert all(
        state["positions"][name]["buffer"] > used[name] or state["positions"][name]["epoch"] > 0 for name in used
    )


def test_a_source_that_a_phase_does_not_use_keeps_its_position(sources):
    first = loader(sources)
    first.next_batch(20)
    second = loader(sources, {"large": 1.0})
    second.restore(first.state())
    second.next_batch(5)
    assert second.state()["positions"]["small"] == first.state()["positions"]["small"]
    third = loader(sources)
    third.restore(second.state())
    assert third.state()["positions"]["small"] == first.state()["positions"]["small"]
    third.next_batch(5)


def test_an_unused_source_continues_at_its_next_buffer_after_a_change_of_length(sources):
    first = loader(sources)
    first.next_batch(20)
    used = first.state()["positions"]["small"]
    assert used["row"] > 0
    second = loader(sources, {"large": 1.0}, max_length=128)
    second.restore(first.state())
    second.next_batch(5)
    third = loader(sources, max_length=128)
    third.restore(second.state())
    assert third.state()["positions"]["small"] == {"epoch": used["epoch"], "buffer": used["buffer"] + 1, "row": 0}


def test_validation_batches_are_deterministic_and_at_most_one_epoch(sources):
    options = {"max_length": 64, "mask_ratio": 0.15}
    first, second = (validation_batches(sources["small"], VOCABULARY, tokens=800, **options) for _ in range(2))
    assert all(torch.equal(x.input_ids, y.input_ids) for x, y in zip(first, second, strict=True))
    everything = validation_batches(sources["small"], VOCABULARY, tokens=10**9, **options)
    real = sum(int((b.input_ids != 60).sum() - (b.input_ids == 61).sum()) for b in everything)
    assert real == sources["small"].lengths.sum()
