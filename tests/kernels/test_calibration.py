"""The fastest choice is measured once; if a measurement is impossible, no choice is stored."""

import pytest

from modernbert.kernels import calibration


@pytest.fixture(autouse=True)
def _anew():
    calibration.forget()
    yield
    calibration.forget()


def test_the_fastest_candidate_is_chosen_and_measured_only_once():
    seconds = {"slow": 2.0, "fast": 1.0}
    measured = []

    def clock(run):
        measured.append(run())
        return seconds[run()]

    candidates = {name: lambda name=name: name for name in seconds}
    assert calibration.fastest("key", candidates, "slow", clock) == "fast"
    seconds["slow"] = 0.5
    assert calibration.fastest("key", candidates, "slow", clock) == "fast"
    assert measured == ["slow", "fast"]
    assert calibration.chosen() == {"key": "fast"}


def test_nothing_is_measured_or_kept_where_work_is_being_traced(monkeypatch):
    monkeypatch.setattr(calibration, "possible", lambda: False)
    assert calibration.fastest("key", {}, "default") == "default"
    assert not calibration.known("key")
