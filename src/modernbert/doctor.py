"""`modernbert doctor`: the facts that a bug report needs. It works on every machine."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata, util
from typing import Any

import torch

from modernbert import __version__
from modernbert.installation import install_command
from modernbert.kernels import available_backends, default_backend, native
from modernbert.runtime import cpu_features, cpu_name, fast_bf16, product_rates, select_precision

_PACKAGES = ("numpy", "tokenizers", "safetensors", "huggingface-hub", "transformers")
_EXTRAS = {  # the name of an optional part, the package that it needs, and the extra that installs it
    "corpus_preparation": ("datatrove", "corpus"),
    "parquet_files": ("pyarrow", "corpus"),
    "zstd_files": ("zstandard", "corpus"),
    "pictures": ("matplotlib", "plot"),
    "fine_tuning": ("scipy", "finetune"),
    "search_with_optuna": ("optuna", "search"),
    "benchmarks_with_transformers": ("transformers", "bench"),
}

Value = str | int | float | bool | list[str] | None
Report = dict[str, dict[str, Any]]


def diagnose() -> Report:
    """Versions, processor, GPUs, attention backends with reasons, arithmetic and optional packages, as plain values.

    Keys stay the same in all versions; sizes are in bytes, rates in GFLOP/s. An unknown value is None.
    """
    return {
        "versions": {
            "python": sys.version.partition(" ")[0],
            "system": platform.platform(),
            "modernbert": __version__,
            **{name.replace("-", "_"): _version(name) for name in _PACKAGES},
            "torch": torch.__version__,  # includes the build, which the metadata of the package may lack
        },
        "processor": _processor(),
        "gpus": _gpus(),
        "attention": _attention(),
        "arithmetic": _arithmetic(),
        "optional_parts": {
            part: {"installed": bool(util.find_spec(module)), "install": install_command(extra)}
            for part, (module, extra) in _EXTRAS.items()
        },
    }


def describe(report: Report) -> str:
    """The report as text: sections with a line for each fact."""
    lines: list[str] = []
    for section, values in report.items():
        lines.append(_label(section))
        lines += [f"  {name:<24} {value}" for name, value in _facts(section, values)] or ["  none"]
    return "\n".join(lines)


def _facts(section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = name if section in ("gpus", "versions") else _label(name)
        if section == "optional_parts":
            yield label, "installed" if value["installed"] else f"missing: {value['install']}"
        elif name == "memory_bytes":
            yield "memory", "not known" if value is None else f"{value / 2**30:.1f} GiB"
        elif name == "features":
            yield from ((feature, "yes" if there else "no") for feature, there in value.items())
        elif name == "backends":
            yield from ((backend, reason or "can run here") for backend, reason in value.items())
        elif name == "native_kernels":
            for kind, found in value.items():
                yield f"native kernels, {kind}", _choice(found["level"], found["gflops"], "the only one here")
        elif name == "training_precision":
            yield label, _choice(value["chosen"], value["gflops"], "this processor does not multiply bf16")
        elif section == "gpus" and "error" not in value:
            memory = f"{value['memory_bytes'] / 2**30:.0f} GiB"
            yield label, f"{value['name']}, compute capability {value['compute_capability']}, {memory}"
        elif section == "gpus":
            yield label, value["error"]
        else:
            yield label, "not known" if value is None else str(value)


def _choice(chosen: str, gflops: Mapping[str, float], without: str) -> str:
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in gflops.items())
    return f"{chosen}, as measured: {rates}" if rates else f"{chosen}, {without}"


def _label(key: str) -> str:
    return key.replace("_", " ").replace("gpus", "GPUs")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable,  # the cores that a container or scheduler allows this process to use
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": _memory(),
        "features": cpu_features(),
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for index in range(torch.cuda.device_count()):
        try:
            device = torch.cuda.get_device_properties(index)
        except RuntimeError as error:  # an old driver, or a GPU in exclusive use by another process
            found[f"cuda:{index}"] = {"error": _cannot_be_used(error)}
            continue
        found[f"cuda:{index}"] = {
            "name": device.name,
            "compute_capability": f"{device.major}.{device.minor}",
            "memory_bytes": device.total_memory,
        }
    if torch.backends.mps.is_available():
        found["mps"] = {"name": "Apple GPU", "compute_capability": None, "memory_bytes": _memory() or 0}
    return found


def _cannot_be_used(error: RuntimeError) -> str:
    first_line, _, _ = str(error).partition("\n")
    return f"cannot be used: {first_line}"


def _attention() -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backends = available_backends()
    except RuntimeError as error:  # the same, while reading the properties of the GPU
        return {"error": _cannot_be_used(error)}
    return {
        "device": device.type,
        "bf16_backend": default_backend(device, torch.bfloat16),
        "fp32_backend": default_backend(device, torch.float32),
        "backends": dict(backends),  # None, or the reason why it cannot run here
    }


def _arithmetic() -> dict[str, Any]:
    """The rates measured on this processor, in GFLOP/s, and the kernels and precision chosen by them."""
    native_kernels = {
        kind: {"level": native.level(kind), "gflops": dict(native.rates(kind))}
        for kind in (() if native.unavailable() else native.KINDS)
    }
    measured = fast_bf16() or any(cpu_features().get(name) for name in ("AVX-512 BF16", "AMX BF16"))
    return {
        "native_kernels": native_kernels,
        "training_precision": {
            "chosen": select_precision(torch.device("cpu")),
            "gflops": dict(product_rates()) if measured else {},
        },
    }
