"""The training loop, as far as the tests of pretraining and fine-tuning do not cover it."""

from dataclasses import dataclass

import pytest

from modernbert.stream.batching import balanced_share
from modernbert.train.steps import Interval, Step, Stopwatch


@dataclass(frozen=True)
class Update:
    tokens: int
    count: float


@dataclass(frozen=True)
class Position:
    step: int
    tokens: int


def step(loss, count):
    return Step(Update(10, count), Position(1, 10), 1e-3, loss, 1.0, count, report=True, stop=False)


def test_a_small_last_batch_is_weighted_by_its_size():
    found = Interval([step(0.1, 60.0), step(0.1, 60.0), step(5.0, 1.0)], seconds=2.0)
    assert found.loss == pytest.approx((0.1 * 120 + 5.0) / 121)
    assert found.tokens_per_second == 15


@pytest.mark.parametrize("loss", [0.1, 1 / 3, 6.123456789012345])
def test_the_loss_of_a_single_step_is_reported_exactly(loss):
    assert Interval([step(loss, 7.3)], seconds=1.0).loss == loss


def test_pauses_are_not_counted_in_the_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("modernbert.train.steps.time.perf_counter", lambda: now[0])
    watch = Stopwatch(seconds=5.0)
    now[0] += 50
    with watch.running():
        now[0] += 2
        with watch.paused():
            now[0] += 30
            assert watch.seconds == 7
        now[0] += 1
    now[0] += 9
    assert watch.seconds == 8


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_shares_of_a_batch_are_complete_and_balanced(parts):
    lengths = [500, 3, 30, 30, 200, 1, 7, 250, 40, 90]
    shares = [balanced_share(lengths, parts, part) for part in range(parts)]
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares)
    tokens = [sum(lengths[index] for index in share) for share in shares]
    assert max(tokens) <= max(500, sum(lengths) / parts + 90)
