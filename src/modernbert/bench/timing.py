"""How everything is measured: alternating rounds in one process, medians with their range, peak memory, the machine."""

import ctypes
import gc
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from modernbert.errors import ConfigError
from modernbert.kernels import native
from modernbert.runtime import cpu_features, cpu_name

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Speed:
    """Something a second: median of the rounds, and their range."""

    median: float
    slowest: float
    fastest: float


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int, what: str) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; they take turns, so that all of them meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with tqdm(total=rounds * len(runs), desc=what, unit=" runs", leave=False) as bar:
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
                bar.update()
    return seconds


def speed(amount: float, seconds: Iterable[float]) -> Speed:
    found = [amount / each for each in seconds]
    return Speed(statistics.median(found), min(found), max(found))


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes that a call adds at most to the resident memory of the process, sampled every millisecond.

    What earlier calls freed is given back to the system before. None where the system does not tell (it is Linux's).
    """
    if not _STATM.exists():
        run()
        return None
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
    page = resource.getpagesize()
    before = highest = _resident_pages()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, _resident_pages())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return (highest - before) * page


def _resident_pages() -> int:
    return int(_STATM.read_text(encoding="ascii").split()[1])


def use_threads(threads: int | None) -> int:
    """Let torch have so many threads, or what it has; returns their number.

    Raises:
        ConfigError: it is none at all.
    """
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"{threads} threads measure nothing; give 1 or more.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ConfigError(f"{rounds} rounds measure nothing; give 1 or more.")


def machine(packages: Iterable[str]) -> dict[str, str]:
    """The machine behind a measurement, and the versions of Python, torch and these packages."""
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
    """Norm of the difference over the norm of what was expected."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())
