import json
from pathlib import Path

import pytest
import torch

from modernbert import doctor, runtime
from modernbert.errors import ConfigError


def test_the_report_names_what_a_bug_report_needs():
    report = doctor.diagnose()
    assert json.loads(json.dumps(report)) == report
    assert report["versions"]["torch"] == torch.__version__
    assert {"cores", "memory", "threads used by torch"} <= report["processor"].keys()
    assert any("blocked" in value or "flash" in value for value in report["attention"].values())


def test_a_missing_part_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    parts = doctor.diagnose()["optional parts"]
    assert parts["corpus preparation"] == "missing: pip install 'modernbert[corpus]'"


def test_an_odd_machine_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setattr(runtime, "Path", lambda name: Path("/nowhere"))
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: int("unknown"))
    processor = doctor.diagnose()["processor"]
    assert processor["features"] == "this system does not tell"
    assert processor["memory"] == "unknown"


def test_a_device_that_is_not_there_is_refused():
    assert runtime.select_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            runtime.select_device("cuda")


def test_autocast_multiplies_in_bf16_and_keeps_fp32_otherwise():
    x = torch.randn(4, 4)
    with runtime.autocast(torch.device("cpu"), "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with runtime.autocast(torch.device("cpu"), "fp32"):
        assert (x @ x).dtype == torch.float32
