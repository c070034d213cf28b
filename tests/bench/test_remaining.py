import pytest

from modernbert.bench.inference import bench_inference
from modernbert.bench.remaining import RemainingTime, duration, probe


def test_the_first_estimate_uses_the_probe_and_later_ones_the_finished_workloads(caplog):
    caplog.set_level("INFO")
    now = iter((0.0, 10.0, 40.0))
    remaining = RemainingTime({"a": 100.0, "b": 300.0, "c": 600.0}, 5.0, clock=lambda: next(now))
    remaining.finish("a")  # 10 operations per second
    remaining.finish("b")  # again 10
    assert [record.getMessage() for record in caplog.records] == [
        "time left: about 3 minutes",  # 1,000 operations at 5 per second
        "time left: about 2 minutes",  # 900 at 10 per second: exactly 90 seconds
        "time left: about 60 seconds",
    ]


def test_nothing_is_logged_after_the_last_workload(caplog):
    remaining = RemainingTime({"a": 1.0}, 1.0)
    caplog.clear()
    remaining.finish("a")
    assert not caplog.records


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 second"), (1, "1 second"), (89, "89 seconds"), (600, "10 minutes"), (5400, "1.5 hours")],
)
def test_a_duration_is_one_number_with_a_fitting_unit(seconds, text):
    assert duration(seconds) == text


def test_a_probe_measures_the_second_call():
    calls = []
    assert probe(lambda: calls.append(1), 100.0) > 0
    assert len(calls) == 2


def test_inference_estimates_its_time_first_and_reports_after_each_workload(caplog):
    caplog.set_level("INFO", "modernbert.bench")
    reports = []
    bench_inference("tiny", "fp32", 1, 1, on_result=reports.append)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("time left: about")
    assert [len(report.results) for report in reports] == [1, 2]
    assert sum(message.startswith("one, tokens/s: modernbert ") for message in messages) == 1
