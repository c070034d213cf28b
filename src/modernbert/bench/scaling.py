"""What a token costs: as sequences grow, and as threads are added."""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from modernbert.bench.inference import compare_outputs, round_of
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import Contestant, Setting, baseline, our_contestants
from modernbert.bench.report import agreeing
from modernbert.bench.timing import alternate, check_rounds, machine, use_threads
from modernbert.bench.works import Work
from modernbert.errors import ConfigError
from modernbert.model import Encoder

logger = logging.getLogger(__name__)

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Cost:
    """Microseconds for a token: median of the rounds, and their range."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Point:
    """One contestant on one sequence of so many tokens."""

    contestant: str
    threads: int
    tokens: int
    error: float | None  # against fp32; None if it is not finite
    cost: Cost | None  # None of one that disagrees


@dataclass(frozen=True)
class ScalingReport:
    """All lengths and all numbers of threads on one machine."""

    model: str
    dtype: str
    rounds: int
    machine: dict[str, str]
    points: tuple[Point, ...]
    benchmark: Literal["scaling"] = "scaling"


def bench_scaling(
    model: str, dtype: str, rounds: int, threads: Sequence[int] = (), lengths: Sequence[int] = ()
) -> ScalingReport:
    """Encode one sequence at a time beside transformers, for each length and each number of threads.

    Without `threads` these are the powers of two and all that this process may use. Outputs are compared with
    transformers in fp32 before a length is timed.

    Raises:
        ConfigError: an option has no such value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    if min(lengths, default=1) < 1:
        raise ConfigError("A sequence needs a token; give lengths of 1 or more.")
    numbers = tuple(dict.fromkeys(threads)) or powers_of_two(available_threads())
    encoder = make_model(Encoder, model)
    before = torch.get_num_threads()
    points: list[Point] = []
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch, torch.inference_mode():
            for number in numbers:
                setting = Setting(encoder, precision, use_threads(number), Path(scratch))
                judge = baseline(setting, "fp32")
                contestants = [*our_contestants(setting), baseline(setting, precision)]
                for length in dict.fromkeys(lengths or LENGTHS):
                    points += _measure(number, judge, contestants, length, encoder.config.vocab_size, rounds)
    finally:
        torch.set_num_threads(before)
    return ScalingReport(describe(model, encoder.config), precision, rounds, machine(("transformers",)), tuple(points))


def available_threads() -> int:
    """As many as this process has cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def powers_of_two(most: int) -> tuple[int, ...]:
    """Those below `most`, and `most`."""
    return (*(1 << power for power in range((most - 1).bit_length())), most)


def _measure(
    threads: int, judge: Contestant, contestants: Sequence[Contestant], length: int, vocab_size: int, rounds: int
) -> list[Point]:
    logger.info("%s tokens, threads: %s", f"{length:,}", threads)
    work = Work(f"{length:,} tokens", (length,))
    batches = work.batches(vocab_size)
    expected = judge.prepare(batches[0])()[batches[0].real]
    errors = {each.name: compare_outputs(each, batches[0], expected).error for each in contestants}
    agreed = agreeing(errors)
    runs = {each.name: round_of(each, batches, work.passes) for each in contestants if each.name in agreed}
    for run in runs.values():
        run()
    seconds = alternate(runs, rounds, work.name)
    costs = {name: _cost(found, length * work.passes) for name, found in seconds.items()}
    return [Point(name, threads, length, error, costs.get(name)) for name, error in errors.items()]


def _cost(seconds: Sequence[float], tokens: int) -> Cost:
    found = [1e6 * each / tokens for each in seconds]
    return Cost(median(found), min(found), max(found))
