"""The machine: device, precision, processor features."""

import platform
import re
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch

from modernbert.errors import ConfigError

Precision = Literal["bf16", "fp32"]

_FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 BF16": "avx512_bf16",
    "AVX-512 VNNI": "avx512_vnni",
    "AMX BF16": "amx_bf16",
    "AMX INT8": "amx_int8",
    "NEON": "asimd",
}


def select_device(name: str | torch.device = "auto") -> torch.device:
    """The device with this name; `auto` is CUDA if available, otherwise the CPU.

    Raises:
        ConfigError: the name is not that of a device, or torch cannot use such a device on this machine.
    """
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"There is no device {name!r}; choose auto, cpu, cuda or mps.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("This machine has no CUDA device that torch can use; choose device = 'cpu'.")
    number = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and number >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"This machine has {count} CUDA devices, counted from 0, and no {name}; choose one of them.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("This machine has no Apple GPU that torch can use; choose device = 'cpu'.")
    return torch.device(name)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Matrix products in bf16 with fp32 weights, or everything in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def select_precision(device: torch.device, wanted: Literal["auto", "bf16", "fp32"] = "auto") -> Precision:
    """The precision with this name; `auto` is bf16 on CUDA and on processors where it is faster, otherwise fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" or (device.type == "cpu" and fast_bf16()) else "fp32"


def cpu_features() -> dict[str, bool]:
    """The processor features that matter for kernels. Empty if the system does not report them."""
    try:
        flags = next(
            line.partition(":")[2].split()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.lower().startswith(("flags", "features"))
        )
    except (OSError, StopIteration):
        return {}
    return {
        name: flag in flags for name, flag in _FEATURES.items() if platform.machine() == "aarch64" or name != "NEON"
    }


def cpu_name() -> str:
    """The model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def fast_bf16() -> bool:
    """Whether torch multiplies bf16 matrices faster than fp32 ones on this processor, measured on first use.

    A processor with a bf16 instruction may still be slower in bf16; one without it is not measured.
    """
    features = cpu_features()
    if not (features.get("AVX-512 BF16", False) or features.get("AMX BF16", False)):
        return False
    rates = product_rates()
    return rates["bf16"] > rates["fp32"]


@cache
def product_rates() -> dict[Precision, float]:
    """GFLOP/s of torch's matrix products on this processor, with torch's threads; measured once per process."""
    size = 512
    dtypes: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    operands = {name: torch.ones(size, size, dtype=dtype) for name, dtype in dtypes.items()}
    seconds = dict.fromkeys(dtypes, float("inf"))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for round_ in range(4):
            for name, x in operands.items():
                began = perf_counter()
                torch.mm(x, x)
                if round_ > 0:  # the first round is a warm-up
                    seconds[name] = min(seconds[name], perf_counter() - began)
    return {name: 2 * size**3 / found / 1e9 for name, found in seconds.items()}
