import pytest
import torch

from modernbert.bench import workloads
from modernbert.bench.workloads import Workload, choose, published, ragged
from modernbert.errors import ConfigError


def test_batches_hold_every_document_in_order_and_nothing_on_padding(monkeypatch):
    monkeypatch.setattr(workloads, "BATCH_TOKENS", 100)
    workload = Workload("five", (30, 8, 50, 1, 2))
    batches = workload.batches(vocab_size=1000)
    assert tuple(length for batch in batches for length in batch.lengths) == workload.lengths
    assert [batch.ids.shape for batch in batches] == [(2, 30), (2, 50), (1, 2)]
    for batch in batches:
        assert batch.mask.sum(1).tolist() == list(batch.lengths)
        assert (batch.ids[batch.real] >= 100).all()
        assert (batch.ids[~batch.real] == 0).all()
        assert batch.ids.numel() <= 100
        assert not batch.only_batch


def test_a_work_has_the_same_ids_every_time():
    workload = Workload("two", (9, 5))
    [one], [other] = workload.batches(1000), workload.batches(1000)
    assert torch.equal(one.ids, other.ids)
    assert one.only_batch
    assert not one.full
    assert Workload("equal", (4, 4)).batches(1000)[0].full


def test_a_round_of_a_short_work_goes_over_it_often():
    assert Workload("short", (16,)).passes == 64
    assert Workload("long", (8192,)).passes == 1


def test_the_ragged_workload_has_the_mean_and_the_maximum_of_its_name():
    lengths = ragged(16, 267, 512)
    assert len(lengths) == 16
    assert round(sum(lengths) / 16) == 267
    assert max(lengths) == 512


def test_fewer_published_documents_are_the_first_of_all():
    few, all_of_them = published(20), published(8192)
    for part, whole in zip(few, all_of_them, strict=True):
        assert part.name == whole.name
        assert part.lengths == whole.lengths[:20]
        assert part.of_documents == len(whole.lengths) == 8192
    means = {workload.name: workload.tokens / 8192 for workload in all_of_them}
    assert means["512 fixed"] == 512
    assert means["8,192 fixed"] == 8192
    assert means["512 variable"] == pytest.approx(256, rel=0.01)
    assert means["8,192 variable"] == pytest.approx(4102, rel=0.01)


@pytest.mark.parametrize("documents", [0, 8193])
def test_there_are_8192_published_documents(documents):
    with pytest.raises(ConfigError, match="8,192 documents"):
        published(documents)


def test_works_are_chosen_by_name():
    known = (Workload("a", (1,)), Workload("b", (2,)))
    assert choose(known, ()) == known
    assert choose(known, ("b", "b")) == known[1:]
    with pytest.raises(ConfigError, match="There is no workload 'c'; the workloads are: a; b"):
        choose(known, ("a", "c"))
