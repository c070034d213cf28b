import json
from types import SimpleNamespace

import pytest
import torch

from modernbert import doctor
from modernbert.kernels import native


def test_the_report_names_what_a_bug_report_needs():
    report = doctor.diagnose()
    assert json.loads(json.dumps(report)) == report
    assert report["versions"]["torch"] == torch.__version__
    assert {"name", "cores", "memory", "threads used by torch"} <= report["processor"].keys()
    assert report["GPUs"]
    assert {"reference", "blocked", "flash"} <= report["attention"].keys()


def test_the_level_of_the_native_kernels_is_told():
    told = doctor.diagnose()["attention"]["native"]
    assert told == (native.unavailable() or "can run here")
    if not native.unavailable():
        arithmetic = doctor.diagnose()["arithmetic of the processor"]
        for kind in native.KINDS:
            assert arithmetic[f"native kernels, {kind}"].startswith(native.level(kind))


def test_what_was_measured_is_told_beside_what_was_chosen(monkeypatch):
    rates = {"fp32": {}, "bf16": {"avx512_bf16": 80.0, "avx512": 120.4}, "int8": {"avx512_bf16": 400.0, "avx512": 90.0}}
    chosen = {"fp32": "avx512", "bf16": "avx512", "int8": "avx512_bf16"}
    monkeypatch.setattr(doctor.native, "unavailable", lambda: None)
    monkeypatch.setattr(doctor.native, "level", lambda kind="fp32": chosen[kind])
    monkeypatch.setattr(doctor.native, "rates", lambda kind: rates[kind])
    monkeypatch.setattr(doctor, "cpu_features", lambda: {"AVX-512 BF16": True})
    monkeypatch.setattr(doctor, "fast_bf16", lambda: False)
    monkeypatch.setattr(doctor, "select_precision", lambda device: "fp32")
    monkeypatch.setattr(doctor, "product_rates", lambda: {"fp32": 246.0, "bf16": 167.0})
    assert doctor._arithmetic() == {
        "native kernels, fp32": "avx512, the only one there is a choice of",
        "native kernels, bf16": "avx512, as measured: avx512_bf16 80 GFLOP/s, avx512 120 GFLOP/s",
        "native kernels, int8": "avx512_bf16, as measured: avx512_bf16 400 GFLOP/s, avx512 90 GFLOP/s",
        "precision of training": "fp32, as measured: fp32 246 GFLOP/s, bf16 167 GFLOP/s",
    }


def test_the_backend_that_will_be_used_comes_with_the_reason(monkeypatch):
    native.select("off")
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        doctor, "available_backends", lambda: {"reference": None, "blocked": None, "flash": "needs a CUDA device"}
    )
    attention = doctor.diagnose()["attention"]
    assert attention["backend for bf16 on cpu"] == "blocked (flash needs a CUDA device)"
    assert attention["blocked"] == "can run here"
    native.select("")


def test_a_missing_part_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    parts = doctor.diagnose()["optional parts"]
    assert parts["corpus preparation"] == "missing: pip install 'modernbert[corpus]'"


def test_a_command_that_installs_a_part_names_an_extra_that_exists():
    extras = doctor.metadata.metadata("modernbert").get_all("Provides-Extra")
    assert {extra for _, extra in doctor._EXTRAS.values()} <= set(extras)


def test_every_gpu_is_listed_with_what_a_kernel_depends_on(monkeypatch):
    card = SimpleNamespace(name="Card", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_properties", lambda index: card)
    gpus = doctor.diagnose()["GPUs"]
    assert gpus["cuda:0"] == gpus["cuda:1"] == "Card, compute capability 9.0, 80 GiB"


def test_a_container_that_gives_fewer_cores_is_seen_through(monkeypatch):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert doctor.diagnose()["processor"]["cores"] == "64, of which this process may use 2"


def broken(*arguments):
    raise RuntimeError("CUDA error: the driver is too old\nmany more lines")


def test_a_broken_gpu_is_reported_and_no_reason_to_fail(monkeypatch):
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_properties", broken)
    monkeypatch.setattr(doctor, "available_backends", broken)
    report = doctor.diagnose()
    assert report["GPUs"]["cuda:0"] == "cannot be used: CUDA error: the driver is too old"
    assert report["attention"] == {"backend": "cannot be used: CUDA error: the driver is too old"}


def test_a_system_that_tells_nothing_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setattr(doctor, "cpu_features", dict)
    monkeypatch.delattr(doctor.os, "sysconf", raising=False)
    monkeypatch.delattr(doctor.os, "sched_getaffinity", raising=False)
    processor = doctor.diagnose()["processor"]
    assert processor["features"] == "this system does not tell"
    assert processor["memory"] == "unknown"


def test_a_package_that_is_not_installed_is_said_so(monkeypatch):
    def missing(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    assert doctor.diagnose()["versions"]["transformers"] == "not installed"


@pytest.mark.gpu
def test_a_machine_with_a_gpu_uses_its_own_kernels():
    report = doctor.diagnose()
    assert "compute capability" in report["GPUs"]["cuda:0"]
    assert report["attention"]["backend for bf16 on cuda"].startswith("triton")
