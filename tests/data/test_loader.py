import json

import numpy as np
import pytest
import torch

from corpora import write_shard
from modernbert.data import Documents, Loader, Shards, Vocabulary, validation_batches

SPECIAL = np.zeros(64, dtype=np.bool_)
SPECIAL[60:] = True
VOCABULARY = Vocabulary(64, 60, 61, 62, 63, SPECIAL, np.ones(64, dtype=np.int32))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    base = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(0)
    for name, count in (("large", 300), ("small", 40)):
        documents = [generator.integers(0, 60, n).tolist() for n in generator.integers(1, 120, count)]
        write_shard(base / name / "x.ds", documents)
    return {name: Documents.all_of(Shards.open(base / name)) for name in ("large", "small")}


def loader(sources, weights=None, **changes):
    options = {"max_length": 64, "mask_ratio": 0.3, "seed": 0} | changes
    weights = weights or {"large": 3.0, "small": 1.0}
    return Loader({name: sources[name] for name in weights}, weights, VOCABULARY, **options)


def stream(loader, batches):
    taken = [loader.next_batch(rows) for rows in batches]
    return torch.cat([b.input_ids for b in taken]), torch.cat([b.labels for b in taken])


def test_the_stream_does_not_depend_on_how_it_is_cut(sources):
    one = stream(loader(sources), [60])
    for cut in ([1] * 60, [7, 3, 50], [30, 30]):
        assert all(torch.equal(x, y) for x, y in zip(stream(loader(sources), cut), one, strict=True))


def test_every_sequence_is_one_piece_between_cls_and_sep(sources):
    batch = loader(sources).next_batch(20)
    for ids, labels in zip(
        batch.input_ids.split(batch.sequences.lengths), batch.labels.split(batch.sequences.lengths), strict=True
    ):
        assert (ids[0], ids[-1]) == (60, 61)
        assert labels[0] == labels[-1] == -100
        assert len(ids) <= 64
        assert not ((ids[1:-1] == 60) | (ids[1:-1] == 61)).any()
    assert batch.num_rows == 20
    assert batch.input_ids.dtype == torch.int64


def test_a_state_through_json_goes_on_identically(sources):
    first = loader(sources)
    stream(first, [13, 8])
    second = loader(sources)
    second.restore(json.loads(json.dumps(first.state())))
    assert all(torch.equal(x, y) for x, y in zip(stream(first, [50]), stream(second, [25, 25]), strict=True))


def test_the_mixture_holds_at_any_time_to_within_a_row(sources):
    mixed = loader(sources, {"large": 0.7, "small": 0.3})
    for _ in range(100):
        mixed.next_batch(1)
        served = mixed.state()["served"]
        assert abs(served["small"] - 0.3 * sum(served.values())) <= 64


def test_after_a_change_of_length_no_used_buffer_comes_again(sources):
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


def test_a_source_that_a_phase_leaves_out_keeps_its_place(sources):
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


def test_validation_is_the_same_every_time_and_at_most_one_epoch(sources):
    options = {"max_length": 64, "mask_ratio": 0.15}
    first, second = (validation_batches(sources["small"], VOCABULARY, tokens=800, **options) for _ in range(2))
    assert all(torch.equal(x.input_ids, y.input_ids) for x, y in zip(first, second, strict=True))
    everything = validation_batches(sources["small"], VOCABULARY, tokens=10**9, **options)
    real = sum(int((b.input_ids != 60).sum() - (b.input_ids == 61).sum()) for b in everything)
    assert real == sources["small"].lengths.sum()
