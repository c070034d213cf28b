import pytest

from modernbert.bench.report import BASELINE, OURS
from modernbert.bench.training import bench_training
from modernbert.errors import ConfigError
from modernbert.model import MaskedLM


def entries(result):
    return {entry.engine: entry for entry in result.entries}


@pytest.mark.slow
def test_steps_are_timed_after_their_gradients_were_compared():
    report = bench_training("tiny", "fp32", threads=1, rounds=1)
    assert report.benchmark == "training"
    for result in report.results:
        found = entries(result)
        assert found[BASELINE].error == 0
        assert 0 < found[OURS].error < 1e-4
        assert all(entry.ranked for entry in result.entries)
        assert found[OURS].ratio == pytest.approx(
            found[OURS].tokens_per_second.median / found[BASELINE].tokens_per_second.median
        )


def test_wrong_gradients_are_not_timed(monkeypatch):
    right = MaskedLM.loss
    monkeypatch.setattr(MaskedLM, "loss", lambda *arguments: 1.01 * right(*arguments))
    [result] = bench_training("tiny", "fp32", 1, 1, workloads=("one",)).results
    found = entries(result)
    assert found[OURS].error == pytest.approx(0.01, rel=1e-2)
    assert not found[OURS].ranked
    assert found[BASELINE].ratio == 1


def test_a_wrong_option_is_one_sentence():
    with pytest.raises(ConfigError, match="There is no dtype 'fp16'"):
        bench_training("tiny", "fp16", 1, 1)
    with pytest.raises(ConfigError, match="There is no workload 'x'"):
        bench_training("tiny", "fp32", 1, 1, workloads=("x",))
