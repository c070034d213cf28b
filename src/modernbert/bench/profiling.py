"""Profile a step on the device: the time of each kernel, and of three groups of kernels."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.profiler import ProfilerActivity, profile

Group = Literal["products", "attention", "the rest"]

GROUPS: tuple[Group, ...] = ("products", "attention", "the rest")
_TOP = 20
# Inductor names a generated kernel after the operators that it fuses, such as "attention" and "mm". These three kinds
# (pointwise, reduction, persistent reduction) do not contain a product or attention.
_GENERATED = re.compile(r"triton_(poi|red|per)_")
_ATTENTION = re.compile(r"attention|flash|fmha|attn", re.IGNORECASE)
_PRODUCTS = re.compile(
    r"gemm|nvjet|cutlass|xmma|wgmma|cublas|splitk|gemv|triton_tem|triton_mm|(^|::)(add)?b?mm\b|(^|::)scaled_mm",
    re.IGNORECASE,
)
_NOT_KERNELS = re.compile(r"ProfilerStep|Optimizer\.|Activity Buffer|Torch-Compiled Region|## Call CompiledFx")


@dataclass(frozen=True)
class Kernel:
    """One kernel, over all its launches in one pass."""

    name: str
    group: Group
    microseconds: float
    launches: float
    share: float  # of the time of all kernels


@dataclass(frozen=True)
class Profile:
    """One pass: the time of all kernels, the share of each group, and the longest kernels."""

    microseconds: float
    shares: dict[Group, float]
    kernels: tuple[Kernel, ...]


def group_of(kernel: str) -> Group:
    """The group of a kernel by its name. Attention is tested first, as its kernels may be named after CUTLASS."""
    if _GENERATED.match(kernel):
        return "the rest"
    if _ATTENTION.search(kernel):
        return "attention"
    return "products" if _PRODUCTS.search(kernel) else "the rest"


def summarize(kernels: Iterable[tuple[str, float, int]], passes: int = 1, top: int = _TOP) -> Profile:
    """The profile of `passes` passes, from names, microseconds and launches of their kernels."""
    found: dict[str, tuple[float, int]] = {}
    for name, microseconds, launches in kernels:
        before = found.get(name, (0.0, 0))
        found[name] = (before[0] + microseconds, before[1] + launches)
    total = sum(microseconds for microseconds, _ in found.values())
    shares: dict[Group, float] = dict.fromkeys(GROUPS, 0.0)
    for name, (microseconds, _) in found.items():
        shares[group_of(name)] += microseconds / total if total else 0.0
    longest = sorted(found.items(), key=lambda item: -item[1][0])[:top]
    return Profile(
        total / passes,
        shares,
        tuple(
            Kernel(name, group_of(name), time / passes, launches / passes, time / total if total else 0.0)
            for name, (time, launches) in longest
        ),
    )


def profile_passes(run: Callable[[], object], device: torch.device, passes: int = 3) -> Profile:
    """Profile `passes` calls of a function; on a CPU, operators are measured instead of kernels."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    run()
    if on_cuda:
        torch.cuda.synchronize(device)
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(passes):
            run()
        if on_cuda:
            torch.cuda.synchronize(device)
    expected_tensor = "CUDA" if on_cuda else "CPU"
    kernels = [
        (event.key, float(event.self_device_time_total if on_cuda else event.self_cpu_time_total), int(event.count))
        for event in profiler.key_averages()
        if event.device_type.name == expected_tensor
        and not getattr(event, "is_user_annotation", False)
        and not _NOT_KERNELS.match(event.key)
    ]
    return summarize(kernels, passes)
