import json
from types import SimpleNamespace

import pytest
import torch

from modernbert import doctor
from modernbert.installation import install_command
from modernbert.kernels import native


def test_the_report_names_what_a_bug_report_needs():
    report = doctor.diagnose()
    assert json.loads(json.dumps(report)) == report
    assert report["versions"]["torch"] == torch.__version__
    assert {"name", "cores", "usable_cores", "memory_bytes", "torch_threads"} <= report["processor"].keys()
    assert isinstance(report["processor"]["memory_bytes"], int)
    assert {"reference", "blocked", "flash"} <= report["attention"]["backends"].keys()


def test_every_key_is_a_name_that_a_program_can_use():
    report = doctor.diagnose()
    keys = [*report, *(key for section in report.values() for key in section if not key.startswith("cuda:"))]
    assert [key for key in keys if not key.isidentifier()] == []


def test_the_text_has_every_section():
    shown = doctor.describe(doctor.diagnose())
    for section in doctor.diagnose():
        assert section.replace("_", " ").lower() in shown.lower()


def test_the_level_of_the_native_kernels_is_reported():
    report = doctor.diagnose()
    assert report["attention"]["backends"]["native"] == native.unavailable()
    if not native.unavailable():
        for kind in native.KINDS:
            assert report["arithmetic"]["native_kernels"][kind]["level"] == native.level(kind)
            assert f"native kernels, {kind}" in doctor.describe(report)


def test_measured_rates_are_reported_with_the_choice(monkeypatch):
    rates = {"fp32": {}, "bf16": {"avx512_bf16": 80.0, "avx512": 120.4}, "int8": {"avx512_bf16": 400.0, "avx512": 90.0}}
    chosen = {"fp32": "avx512", "bf16": "avx512", "int8": "avx512_bf16"}
    monkeypatch.setattr(doctor.native, "unavailable", lambda: None)
    monkeypatch.setattr(doctor.native, "level", lambda kind="fp32": chosen[kind])
    monkeypatch.setattr(doctor.native, "rates", lambda kind: rates[kind])
    monkeypatch.setattr(doctor, "cpu_features", lambda: {"AVX-512 BF16": True})
    monkeypatch.setattr(doctor, "fast_bf16", lambda: False)
    monkeypatch.setattr(doctor, "select_precision", lambda device: "fp32")
    monkeypatch.setattr(doctor, "product_rates", lambda: {"fp32": 246.0, "bf16": 167.0})
    found = doctor._arithmetic()
    assert found["native_kernels"]["bf16"] == {"level": "avx512", "gflops": rates["bf16"]}
    assert found["training_precision"] == {"chosen": "fp32", "gflops": {"fp32": 246.0, "bf16": 167.0}}
    assert dict(doctor._facts("arithmetic", found)) == {
        "native kernels, fp32": "avx512, the only one here",
        "native kernels, bf16": "avx512, as measured: avx512_bf16 80 GFLOP/s, avx512 120 GFLOP/s",
        "native kernels, int8": "avx512_bf16, as measured: avx512_bf16 400 GFLOP/s, avx512 90 GFLOP/s",
        "training precision": "fp32, as measured: fp32 246 GFLOP/s, bf16 167 GFLOP/s",
    }


def test_the_backend_that_will_be_used_comes_with_the_reason(monkeypatch):
    native.select("off")
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        doctor, "available_backends", lambda: {"reference": None, "blocked": None, "flash": "needs a CUDA device"}
    )
    attention = doctor.diagnose()["attention"]
    assert attention["bf16_backend"] == "blocked"
    assert attention["backends"] == {"reference": None, "blocked": None, "flash": "needs a CUDA device"}
    native.select("")


def test_a_missing_part_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    report = doctor.diagnose()
    assert report["optional_parts"]["corpus_preparation"] == {"installed": False, "install": install_command("corpus")}
    assert f"missing: {install_command('corpus')}" in doctor.describe(report)


def test_a_command_that_installs_a_part_names_an_extra_that_exists():
    extras = doctor.metadata.metadata("modernbert").get_all("Provides-Extra")
    assert {extra for _, extra in doctor._EXTRAS.values()} <= set(extras)


def test_every_gpu_is_listed_with_what_a_kernel_depends_on(monkeypatch):
    card = SimpleNamespace(name="Card", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_properties", lambda index: card)
    gpus = doctor.diagnose()["gpus"]
    assert gpus["cuda:0"] == gpus["cuda:1"]
    assert gpus["cuda:0"] == {"name": "Card", "compute_capability": "9.0", "memory_bytes": 80 * 2**30}
    assert "Card, compute capability 9.0, 80 GiB" in doctor.describe({"gpus": gpus})


def test_usable_cores_respect_the_limit_of_a_container(monkeypatch):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert doctor.diagnose()["processor"]["usable_cores"] == 2
    assert doctor.diagnose()["processor"]["cores"] == 64


def broken(*arguments):
    raise RuntimeError("CUDA error: the driver is too old\nmany more lines")


def test_a_broken_gpu_is_reported_without_a_failure(monkeypatch):
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_properties", broken)
    monkeypatch.setattr(doctor, "available_backends", broken)
    report = doctor.diagnose()
    assert report["gpus"]["cuda:0"] == {"error": "cannot be used: CUDA error: the driver is too old"}
    assert report["attention"] == {"error": "cannot be used: CUDA error: the driver is too old"}
    assert doctor.describe(report).count("the driver is too old") == 2


def test_a_system_that_reports_nothing_causes_no_failure(monkeypatch):
    monkeypatch.setattr(doctor, "cpu_features", dict)
    monkeypatch.delattr(doctor.os, "sysconf", raising=False)
    monkeypatch.delattr(doctor.os, "sched_getaffinity", raising=False)
    report = doctor.diagnose()
    assert report["processor"]["features"] == {}
    assert report["processor"]["memory_bytes"] is None
    assert "not known" in doctor.describe(report)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    assert doctor.diagnose()["versions"]["transformers"] is None


@pytest.mark.gpu
def test_a_machine_with_a_gpu_uses_its_own_kernels():
    report = doctor.diagnose()
    assert "compute_capability" in report["gpus"]["cuda:0"]
    assert report["attention"]["bf16_backend"] == "triton"
