"""What is measured, and how: alternating rounds in one process, medians, real tokens only."""

import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modernbert.kernels import native
from modernbert.runtime import cpu_features, cpu_name


@dataclass(frozen=True)
class Work:
    """A batch: documents of some lengths, padded to the longest for those that need it."""

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def padded(self, vocab_size: int, seed: int = 42) -> tuple[Tensor, Tensor]:
        """Random ids (as published: uniform in 100..16000) and their mask, right padded."""
        generator = np.random.default_rng(seed)
        longest = max(self.lengths)
        ids = torch.from_numpy(generator.integers(100, min(16_000, vocab_size), (len(self.lengths), longest)))
        mask = torch.arange(longest)[None, :] < torch.tensor(self.lengths)[:, None]
        return ids * mask, mask.long()


def ragged(count: int, mean: int, longest: int, seed: int = 42) -> tuple[int, ...]:
    """Lengths around a mean (normal, sigma = mean / 2, at least 16), of which one is `longest`."""
    drawn = np.random.default_rng(seed).normal(mean, mean / 2, count - 1).clip(16, longest).astype(int)
    rest = drawn + (mean * count - longest - int(drawn.sum())) // (count - 1)  # so that the mean is what is said
    return (longest, *rest.clip(16, longest).tolist())


@dataclass(frozen=True)
class Timing:
    """Real tokens a second of one contestant on one work: median, and the range over the rounds."""

    contestant: str
    tokens_per_second: float
    slowest: float
    fastest: float


def alternate(runs: Mapping[str, Callable[[], object]], tokens: int, rounds: int) -> list[Timing]:
    """Time each contestant once a round, in turn, after one round that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:
                speeds[name].append(tokens / (time.perf_counter() - began))
    return [Timing(name, statistics.median(found), min(found), max(found)) for name, found in speeds.items()]


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that a call adds at most to the resident memory of the process, sampled every millisecond (Linux)."""
    page = resource.getpagesize()
    statm = Path("/proc/self/statm")
    before = highest = int(statm.read_text().split()[1])
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, int(statm.read_text().split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return (highest - before) * page


def machine() -> dict[str, str]:
    """The machine and versions behind a measurement."""
    import transformers

    return {
        "processor": cpu_name(),
        "features": ", ".join(name for name, there in cpu_features().items() if there),
        "native kernels": "none" if native.unavailable() else native.level(),
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": sys.version.partition(" ")[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())
