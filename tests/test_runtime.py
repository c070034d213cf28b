from pathlib import Path

import pytest
import torch

from modernbert import runtime
from modernbert.errors import ConfigError

X86 = """processor : 0
model name : Some Server CPU @ 2.5 GHz
flags : fpu sse2 avx2 avx512f avx512_bf16
processor : 1
flags : fpu
"""
ARM = """processor : 0
BogoMIPS : 50.00
Features : fp asimd evtstrm
"""


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
    """A machine whose /proc/cpuinfo holds this text, or that has none."""

    def describe(text, machine):
        file = tmp_path / "cpuinfo"
        if text is not None:
            file.write_text(text, encoding="utf-8")
        monkeypatch.setattr(runtime, "Path", lambda name: file)
        monkeypatch.setattr(runtime.platform, "machine", lambda: machine)

    return describe


def test_features_of_an_x86_processor_are_those_of_its_first_core(cpuinfo):
    cpuinfo(X86, "x86_64")
    features = runtime.cpu_features()
    assert [name for name, there in features.items() if there] == ["AVX2", "AVX-512", "AVX-512 BF16"]
    assert features["AMX BF16"] is False
    assert "NEON" not in features
    assert runtime.cpu_name() == "Some Server CPU @ 2.5 GHz"


@pytest.mark.parametrize(("bf16", "fp32", "precision"), [(900, 300, "bf16"), (167, 246, "fp32")])
def test_bf16_is_used_where_it_was_measured_to_be_faster(cpuinfo, monkeypatch, bf16, fp32, precision):
    """A processor may have the instruction and be slower with it, as some with AVX-512 BF16 and no AMX."""
    cpuinfo(X86, "x86_64")
    monkeypatch.setattr(runtime, "product_rates", lambda: {"bf16": bf16, "fp32": fp32})
    assert runtime.fast_bf16() == (precision == "bf16")
    assert runtime.select_precision(torch.device("cpu")) == precision


def test_products_are_measured_once_in_a_process_and_not_without_the_instruction(cpuinfo, monkeypatch):
    calls, multiply = [], torch.mm
    monkeypatch.setattr(runtime.torch, "mm", lambda a, b: calls.append(a.dtype) or multiply(a, b))
    runtime.product_rates.cache_clear()
    cpuinfo(X86.replace("avx512_bf16", ""), "x86_64")
    assert not runtime.fast_bf16()
    assert calls == []
    cpuinfo(X86, "x86_64")
    runtime.fast_bf16()
    measured = len(calls)
    assert set(calls) == {torch.float32, torch.bfloat16}
    runtime.fast_bf16()
    assert len(calls) == measured
    assert all(rate > 0 for rate in runtime.product_rates().values())


def test_features_of_an_arm_processor_are_found(cpuinfo):
    cpuinfo(ARM, "aarch64")
    assert [name for name, there in runtime.cpu_features().items() if there] == ["NEON"]
    assert runtime.cpu_name()
    assert not runtime.fast_bf16()


@pytest.mark.parametrize("text", [None, "", "model : RISC-V\n"])
def test_a_system_that_does_not_report_features_has_none(cpuinfo, text):
    cpuinfo(text, "riscv64")
    assert runtime.cpu_features() == {}
    assert runtime.cpu_name()
    assert not runtime.fast_bf16()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux describes its processor in /proc")
def test_features_agree_with_torch():
    capability = torch.backends.cpu.get_cpu_capability()
    features = runtime.cpu_features()
    assert features.get("AVX-512", False) or capability != "AVX512"
    assert features.get("AVX2", False) or capability != "AVX2"


def test_auto_is_cuda_if_available_and_otherwise_the_cpu(monkeypatch):
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda there=there: there)
        assert runtime.select_device().type == kind


@pytest.mark.parametrize(("name", "message"), [("cuda", "no CUDA device"), ("mps", "no Apple GPU")])
def test_a_missing_device_is_refused_with_the_remedy(monkeypatch, name, message):
    monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime.torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"{message}.*choose device = 'cpu'"):
        runtime.select_device(name)


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime.torch.cuda, "device_count", lambda: 2)
    assert runtime.select_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="has 2 CUDA devices, counted from 0, and no cuda:2"):
        runtime.select_device("cuda:2")


def test_an_unknown_device_is_refused_with_the_known_ones():
    for name in ("gpu", "", "cpu0", "meta"):
        with pytest.raises(ConfigError, match=f"There is no device '{name}'; choose auto, cpu, cuda or mps"):
            runtime.select_device(name)


def test_autocast_multiplies_in_bf16_and_keeps_fp32_otherwise():
    x = torch.randn(4, 4)
    with runtime.autocast(torch.device("cpu"), "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with runtime.autocast(torch.device("cpu"), "fp32"):
        assert (x @ x).dtype == torch.float32


def test_the_precision_is_the_named_one_or_the_fastest_of_the_device(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for fast, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("modernbert.runtime.fast_bf16", lambda fast=fast: fast)
        assert runtime.select_precision(cpu) == expected
        assert runtime.select_precision(cuda) == "bf16"
        assert runtime.select_precision(cpu, "bf16") == "bf16"
        assert runtime.select_precision(cuda, "fp32") == "fp32"
