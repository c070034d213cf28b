"""`modernbert doctor`: what a bug report needs. It reports what it finds and fails on no machine."""

import os
import platform
import sys
from importlib import metadata, util

import torch

from modernbert import __version__
from modernbert.installation import install_command
from modernbert.kernels import available_backends, default_backend, native
from modernbert.runtime import cpu_features, cpu_name, fast_bf16, product_rates, select_precision

_PACKAGES = ("numpy", "tokenizers", "safetensors", "huggingface-hub", "transformers")
_EXTRAS = {  # what an optional part needs, and the extra that installs it
    "corpus preparation": ("datatrove", "corpus"),
    "Parquet files": ("pyarrow", "corpus"),
    "zstd files": ("zstandard", "corpus"),
    "pictures of runs": ("matplotlib", "plot"),
    "fine-tuning": ("scipy", "finetune"),
    "drawn settings of a search": ("optuna", "search"),
    "benchmarks against transformers": ("transformers", "bench"),
}

Report = dict[str, dict[str, str]]


def diagnose() -> Report:
    """Versions, processor, GPUs, the attention backend and why, optional parts: sections of names and values."""
    return {
        "versions": {
            "python": sys.version.partition(" ")[0],
            "system": platform.platform(),
            "modernbert": __version__,
            **{name: _version(name) for name in _PACKAGES},
            "torch": torch.__version__,  # names its build, which the package's metadata may not
        },
        "processor": _processor(),
        "GPUs": _gpus(),
        "attention": _attention(),
        "arithmetic of the processor": _arithmetic(),
        "optional parts": {
            part: "installed" if util.find_spec(module) else f"missing: {install_command(extra)}"
            for part, (module, extra) in _EXTRAS.items()
        },
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> dict[str, str]:
    features = {name: "yes" if there else "no" for name, there in cpu_features().items()}
    return {
        "name": cpu_name(),
        "cores": _cores(),
        "threads used by torch": str(torch.get_num_threads()),
        "memory": _memory(),
        **(features or {"features": "this system does not tell"}),
    }


def _cores() -> str:
    """All of the machine, and those a container or a scheduler leaves to this process."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return str(usable) if usable == os.cpu_count() else f"{os.cpu_count()}, of which this process may use {usable}"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def _gpus() -> dict[str, str]:
    found = {}
    for index in range(torch.cuda.device_count()):
        try:
            device = torch.cuda.get_device_properties(index)
        except RuntimeError as error:  # a driver too old, or a GPU that another process keeps to itself
            found[f"cuda:{index}"] = _cannot_be_used(error)
            continue
        found[f"cuda:{index}"] = (
            f"{device.name}, compute capability {device.major}.{device.minor}, {device.total_memory / 2**30:.0f} GiB"
        )
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found or {"none": "torch sees no CUDA device and no Apple GPU"}


def _cannot_be_used(error: RuntimeError) -> str:
    first_line, _, _ = str(error).partition("\n")
    return f"cannot be used: {first_line}"


def _attention() -> dict[str, str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backends = available_backends()
    except RuntimeError as error:  # the same, met while asking what the GPU can do
        return {"backend": _cannot_be_used(error)}
    refused = [f"{name} {reason}" for name, reason in backends.items() if reason]
    reason = "; ".join(refused) if refused else "every backend can run here"
    return {
        f"backend for bf16 on {device.type}": f"{default_backend(device, torch.bfloat16)} ({reason})",
        f"backend for fp32 on {device.type}": default_backend(device, torch.float32),
        **{name: why or "can run here" for name, why in backends.items()},
    }


def _arithmetic() -> dict[str, str]:
    """What was measured on this processor, and what is taken for it."""
    found = {} if native.unavailable() else {f"native kernels, {kind}": _level(kind) for kind in native.KINDS}
    chosen = select_precision(torch.device("cpu"))
    if fast_bf16() or any(cpu_features().get(name) for name in ("AVX-512 BF16", "AMX BF16")):
        compared = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in product_rates().items())
        return {**found, "precision of training": f"{chosen}, as measured: {compared}"}
    return {**found, "precision of training": f"{chosen}, as this processor does not multiply bf16"}


def _level(kind: str) -> str:
    level, rates = native.level(kind), native.rates(kind)
    if not rates:
        return f"{level}, the only one there is a choice of"
    return f"{level}, as measured: " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
