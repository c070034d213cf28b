"""The cost of a token, by sequence length and by number of threads."""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from modernbert.bench.inference import EXTRA_PASSES, compare_outputs, probe_engine, round_of
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import Engine, Setting, baseline, our_engines
from modernbert.bench.remaining import RemainingTime
from modernbert.bench.report import agreeing
from modernbert.bench.roofline import encoder_flops
from modernbert.bench.timing import alternate, check_rounds, machine, use_threads
from modernbert.bench.workloads import Workload
from modernbert.errors import ConfigError
from modernbert.model import Encoder

logger = logging.getLogger(__name__)

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Cost:
    """Microseconds per token: the median of the rounds, and their range."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Point:
    """One engine on one sequence."""

    engine: str
    threads: int
    tokens: int
    error: float | None  # against fp32; None if the output is not finite
    cost: Cost | None  # None if the error is too large


@dataclass(frozen=True)
class ScalingReport:
    """The results of all lengths and all numbers of threads on one machine."""

    model: str
    dtype: str
    rounds: int
    machine: dict[str, str]
    points: tuple[Point, ...]
    benchmark: Literal["scaling"] = "scaling"


def bench_scaling(
    model: str, dtype: str, rounds: int, threads: Sequence[int] = (), lengths: Sequence[int] = ()
) -> ScalingReport:
    """Encode one sequence at a time with this package and transformers, for each length and number of threads.

    `threads` defaults to the powers of two below the number of available cores, and all cores. Before a length is
    timed, the outputs are compared with those of transformers in fp32.

    Raises:
        ConfigError: an option has an invalid value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    if min(lengths, default=1) < 1:
        raise ConfigError("A sequence needs at least one token; give lengths of 1 or more.")
    numbers = tuple(dict.fromkeys(threads)) or powers_of_two(available_threads())
    encoder = make_model(Encoder, model)
    chosen = tuple(dict.fromkeys(lengths or LENGTHS))
    before = torch.get_num_threads()
    points: list[Point] = []
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch, torch.inference_mode():
            for number in numbers:
                setting = Setting(encoder, precision, use_threads(number), Path(scratch))
                reference = baseline(setting, "fp32")
                engines = [*our_engines(setting), baseline(setting, precision)]
                logger.info("threads: %d", number)
                operations = {str(n): encoder_flops(encoder.config, [n]) * Workload("", (n,)).passes for n in chosen}
                passes = len(engines) * (rounds + EXTRA_PASSES)
                remaining = RemainingTime(
                    {name: passes * flops for name, flops in operations.items()},
                    probe_engine(engines[-1], encoder.config),
                )
                for length in chosen:
                    points += _measure(number, reference, engines, length, encoder.config.vocab_size, rounds)
                    remaining.finish(str(length))
    finally:
        torch.set_num_threads(before)
    return ScalingReport(describe(model, encoder.config), precision, rounds, machine(("transformers",)), tuple(points))


def available_threads() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def powers_of_two(limit: int) -> tuple[int, ...]:
    """The powers of two below `most`, then `most`."""
    return (*(1 << power for power in range((limit - 1).bit_length())), limit)


def _measure(
    threads: int, reference: Engine, engines: Sequence[Engine], length: int, vocab_size: int, rounds: int
) -> list[Point]:
    logger.info("%s tokens, threads: %s", f"{length:,}", threads)
    workload = Workload(f"{length:,} tokens", (length,))
    batches = workload.batches(vocab_size)
    expected = reference.prepare(batches[0])()[batches[0].real]
    errors = {each.name: compare_outputs(each, batches[0], expected).error for each in engines}
    agreed = agreeing(errors)
    runs = {each.name: round_of(each, batches, workload.passes) for each in engines if each.name in agreed}
    for run in runs.values():
        run()
    seconds = alternate(runs, rounds, workload.name)
    costs = {name: _cost(microseconds, length * workload.passes) for name, microseconds in seconds.items()}
    return [Point(name, threads, length, error, costs.get(name)) for name, error in errors.items()]


def _cost(seconds: Sequence[float], tokens: int) -> Cost:
    microseconds = [1e6 * each / tokens for each in seconds]
    return Cost(median(microseconds), min(microseconds), max(microseconds))
