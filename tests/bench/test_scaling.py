import pytest
import torch

from modernbert.bench import scaling
from modernbert.bench.peers import our_engines, packed_engine
from modernbert.bench.report import BASELINE, OURS
from modernbert.bench.scaling import bench_scaling, powers_of_two
from modernbert.errors import ConfigError


def test_every_length_and_number_of_threads_has_its_cost(monkeypatch):
    asked = []
    monkeypatch.setattr(scaling, "use_threads", lambda number: asked.append(number) or number)
    report = bench_scaling("tiny", "fp32", rounds=2, threads=(1, 2), lengths=(16, 40))
    assert asked == [1, 2]
    assert [(p.threads, p.tokens, p.engine) for p in report.points] == [
        (threads, tokens, name) for threads in (1, 2) for tokens in (16, 40) for name in (OURS, BASELINE)
    ]
    for point in report.points:
        assert point.error < 1e-5
        assert 0 < point.cost.lowest <= point.cost.median <= point.cost.highest


def test_the_number_of_torch_threads_is_restored():
    torch.set_num_threads(2)
    bench_scaling("tiny", "fp32", rounds=1, threads=(1,), lengths=(1024,))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_backend_with_a_wrong_result_is_not_timed(monkeypatch):
    def engines(setting):
        return [*our_engines(setting), packed_engine("liar", lambda x, s: 1.01 * setting.encoder(x, s), "fp32")]

    monkeypatch.setattr(scaling, "our_engines", engines)
    costs = {point.engine: point.cost for point in bench_scaling("tiny", "fp32", 1, (1,), (16,)).points}
    assert costs["liar"] is None
    assert costs[OURS] is not None


@pytest.mark.parametrize(("most", "numbers"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_threads_are_powers_of_two_and_all(most, numbers):
    assert powers_of_two(most) == numbers


def test_a_sequence_has_a_token():
    with pytest.raises(ConfigError, match="lengths of 1 or more"):
        bench_scaling("tiny", "fp32", 1, (1,), (0,))
