import numpy as np
import pytest
import torch

from corpora import write_shard
from modernbert.config import parse
from modernbert.errors import ConfigError
from modernbert.stream.loader import Loader
from modernbert.stream.prefetch import Prefetch
from modernbert.stream.shards import Documents, Shards
from modernbert.text.tokenizer import Vocabulary
from modernbert.train.distributed import Processes
from modernbert.train.recipe import Phase
from modernbert.train.updates import planned_updates

SPECIAL = np.zeros(64, dtype=np.bool_)
SPECIAL[60:] = True
VOCABULARY = Vocabulary(64, 60, 61, 62, 63, SPECIAL, np.ones(64, dtype=np.int32))
WARM_UP = {"tokens": 512, "start": 128, "warmup_tokens": 1_500}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    write_shard(folder / "x.ds", [generator.integers(0, 60, n).tolist() for n in generator.integers(1, 90, 400)])
    return Documents.all_of(Shards.open(folder))


@pytest.fixture
def loader(documents):
    def make():
        return Loader({"x": documents}, {"x": 1.0}, VOCABULARY, max_length=64, mask_ratio=0.3, seed=0)

    return make


def phase(**changes):
    values = {"tokens": 6_000, "max_length": 64, "mixture": {"x": 1.0}, "batch_tokens": WARM_UP}
    return parse(Phase, values | changes, "phase")


def alone():
    return Processes(0, 1, torch.device("cpu"))


def shown(update):
    ids = [(batch.input_ids.tolist(), batch.labels.tolist()) for batch in update.batches]
    return ids, update.packed_sequences, update.predicted, update.tokens, update.capacity, update.loader_state


def test_prefetched_updates_equal_those_of_a_plain_loop_and_end_with_the_phase(loader):
    stream, expected, tokens = loader(), [], 0
    while tokens < 6_000:
        packed = stream.next_packed_sequences(phase().batch_tokens.at(len(expected)) // 64)
        batches = [stream.batch(packed[first : first + 3]) for first in range(0, len(packed), 3)]
        ids = [(batch.input_ids.tolist(), batch.labels.tolist()) for batch in batches]
        predicted = sum(int((batch.labels != -100).sum()) for batch in batches)
        read = sum(len(batch.input_ids) for batch in batches)
        expected.append((ids, packed, predicted, read, 64 * len(packed), stream.state()))
        tokens += read
    with Prefetch(planned_updates(loader(), phase(), alone(), 200), ahead=3) as updates:
        found = [shown(update) for update in updates]
    assert found == expected
    assert len({capacity for *_, capacity, _ in expected}) == 4  # the batch size grows


@pytest.mark.parametrize("taken", [1, 4, 9])
def test_the_state_of_an_update_resumes_after_it_despite_prefetching(loader, taken):
    whole = [shown(update) for update in planned_updates(loader(), phase(), alone(), 200)]
    first, tokens = [], 0
    with Prefetch(planned_updates(loader(), phase(), alone(), 200), ahead=4) as updates:
        for _ in range(taken):
            update = next(updates)
            first.append(shown(update))
            tokens += update.tokens
    resumed = loader()
    resumed.restore(update.loader_state)
    rest = planned_updates(resumed, phase(), alone(), 200, tokens=tokens, updates=taken)
    assert first + [shown(update) for update in rest] == whole


@pytest.mark.parametrize("size", [2, 3])
def test_processes_have_the_same_packed_sequences_and_number_of_passes(loader, size):
    changes = {"batch_tokens": 320, "tokens": 2_000}
    whole = list(planned_updates(loader(), phase(**changes), alone(), 64))
    parts = [
        list(planned_updates(loader(), phase(**changes), Processes(rank, size, torch.device("cpu")), 64))
        for rank in range(size)
    ]
    for one, *shares in zip(whole, *parts, strict=True):
        assert {share.tokens for share in shares} == {one.tokens}
        assert all(
            share.packed_sequences == one.packed_sequences and share.loader_state == one.loader_state
            for share in shares
        )
        assert sum(share.predicted for share in shares) == one.predicted
        assert {len(share.batches) for share in shares} == {-(-5 // size)}
        predicted = [batch for share in shares for batch in share.batches if len(batch.predicted_positions)]
        assert torch.equal(torch.cat([b.input_ids for b in predicted]), torch.cat([b.input_ids for b in one.batches]))
        assert sum(len(batch.predicted_positions) for batch in predicted) == one.predicted


def test_the_tokens_of_an_update_equal_those_of_its_batches(loader):
    for update in planned_updates(loader(), phase(), alone(), 200):
        assert update.tokens == sum(len(batch.input_ids) for batch in update.batches)
        assert update.predicted == sum(int((batch.labels != -100).sum()) for batch in update.batches)


def test_a_batch_too_small_for_the_processes_is_refused_in_all_of_them(loader):
    for rank in range(3):
        updates = planned_updates(loader(), phase(), Processes(rank, 3, torch.device("cpu")), 200)
        with pytest.raises(ConfigError, match="A batch of 2 packed sequences is too small for 3 processes"):
            next(updates)


def test_predicted_positions_and_targets_match_the_labels(loader):
    batch = loader().next_batch(9)
    assert torch.equal(batch.predicted_positions, (batch.labels != -100).nonzero().squeeze(1))
    assert torch.equal(batch.targets, batch.labels[batch.labels != -100])
    assert (batch.predicted_positions.dtype, batch.targets.dtype) == (torch.int64, torch.int64)
    assert len(batch.without_labels().predicted_positions) == 0
