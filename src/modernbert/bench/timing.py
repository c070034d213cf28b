"""Timing of engines that take turns in one process, peak memory, and a description of the machine."""

import ctypes
import gc
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.kernels import native
from modernbert.progress import Progress
from modernbert.runtime import cpu_features, cpu_name

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Speed:
    """A rate per second: the median of the rounds, and their range."""

    median: float
    slowest: float
    fastest: float


def alternate(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    description: str,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each engine in each round. The engines take turns, so that all have the same load of the machine.

    `wait` waits until the device has finished its work; it is called before and after each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with Progress(total=rounds * len(runs), desc=description, unit=" runs", leave=False) as bar:
        for _ in range(rounds):
            for name, run in runs.items():
                wait()
                began = clock()
                run()
                wait()
                seconds[name].append(clock() - began)
                bar.update()
    return seconds


def speed(amount: float, seconds: Iterable[float]) -> Speed:
    rates = [amount / each for each in seconds]
    return Speed(statistics.median(rates), min(rates), max(rates))


def peak_memory(run: Callable[[], object]) -> int | None:
    """The maximum number of bytes that a call adds to the resident memory of the process, from Linux' recorded peak.

    Memory that earlier calls freed is returned to the system first. None if the recorded peak cannot be reset.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
    try:
        _RESET.write_text("5", encoding="ascii")  # resets VmHWM to VmRSS: man 5 proc
        before = process_memory("VmHWM")
    except (OSError, ValueError):  # not Linux, or a sandbox without this file
        run()
        return None
    run()
    return process_memory("VmHWM") - before


def process_memory(name: str) -> int:
    """The value in bytes of a line of /proc/self/status.

    Raises:
        OSError: the system does not have this file.
        ValueError: the file does not have this line.
    """
    [kibibytes] = re.findall(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    return 1024 * int(kibibytes)


def use_threads(threads: int | None) -> int:
    """Set torch's number of threads, if one is given; returns the number in use.

    Raises:
        ConfigError: the number is below 1.
    """
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"The benchmark cannot use {threads} threads; give 1 or more.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ConfigError(f"The benchmark cannot run {rounds} rounds; give 1 or more.")


def machine(packages: Iterable[str]) -> dict[str, str]:
    """The machine, and the versions of Python, torch and these packages."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": cpu_name(),
        "cores": str(usable),
        "features": ", ".join(name for name, there in cpu_features().items() if there),
        "native kernels": "none" if native.unavailable() else native.level(),
        "system": platform.system(),
        "python": sys.version.partition(" ")[0],
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in packages},
    }


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference divided by the norm of the expected tensor."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())
