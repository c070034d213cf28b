import pytest
import torch

from modernbert.bench import timing
from modernbert.bench.timing import alternate, peak_memory, relative_error, speed


def test_engines_take_turns_in_every_round():
    calls = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "abc"}, 3, "a workload")
    assert "".join(calls) == "abc" * 3
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_speed_is_the_median_of_the_rounds_and_their_range():
    assert speed(10, [1.0, 5.0, 2.0]) == timing.Speed(5.0, 2.0, 10.0)


@pytest.mark.skipif(not timing._RESET.exists(), reason="this system keeps no mark")
def test_peak_memory_is_what_a_call_adds_even_if_it_frees_it():
    mebibytes = peak_memory(lambda: torch.ones(16 << 20).numel()) / 2**20
    assert 60 < mebibytes < 100


def test_peak_memory_is_unknown_where_the_mark_cannot_be_set_back(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(timing, "_RESET", tmp_path / "none" / "clear_refs")
    assert peak_memory(lambda: calls.append(1)) is None
    assert calls == [1]


def test_peak_memory_is_unknown_where_the_system_does_not_report_it(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(timing, "_RESET", tmp_path / "clear_refs")
    monkeypatch.setattr(timing, "_STATUS", tmp_path / "status")
    timing._STATUS.write_text("Name: python\n", encoding="ascii")
    assert peak_memory(lambda: calls.append(1)) is None
    assert calls == [1]


def test_the_relative_error_is_a_part_of_what_was_expected():
    expected = torch.tensor([3.0, 4.0])
    assert relative_error(expected * 1.5, expected) == pytest.approx(0.5)
