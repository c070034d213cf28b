"""Compare the levels of the native kernels, to check that the automatic choice is the fastest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from modernbert.bench.models import describe, make_model
from modernbert.bench.timing import Speed, alternate, check_rounds, machine, speed, use_threads
from modernbert.bench.workloads import Workload, choose
from modernbert.errors import BackendError, ConfigError
from modernbert.kernels import native
from modernbert.model import Encoder
from modernbert.model.optimized import InferenceEncoder, unsupported_reason
from modernbert.packed import Sequences

WORKLOADS = (Workload("1 x 16", (16,)), Workload("1 x 128", (128,)), Workload("2 x 512", (512, 512)))
AUTOMATIC = ""


@dataclass(frozen=True)
class Levels:
    """One workload in one kind of product: tokens per second at the automatic level and at each forced one."""

    kind: str
    workload: str
    chosen: str
    automatic: Speed
    forced: dict[str, Speed]
    share: float  # speed of the automatic level over that of the fastest forced one, of the medians


@dataclass(frozen=True)
class LevelsReport:
    """The results of all workloads on one machine."""

    model: str
    threads: int
    rounds: int
    processor_time: bool
    machine: dict[str, str]
    results: tuple[Levels, ...]


def bench_levels(
    model: str,
    *,
    threads: int | None = None,
    rounds: int = 7,
    workloads: Sequence[str] = (),
    kinds: Sequence[str] = (),
    processor_time: bool = False,
) -> LevelsReport:
    """Encode with the automatic level and with each level of this processor, for all or some kinds of products.

    `processor_time` measures CPU time instead of wall-clock time.

    Raises:
        ConfigError: an option has an invalid value.
        BackendError: the native kernels do not run on this machine, or do not support this model.
    """
    check_rounds(rounds)
    if unknown := sorted(set(kinds) - set(native.KINDS)):
        raise ConfigError(f"There are no products in {unknown[0]!r}; choose {', '.join(native.KINDS)}.")
    chosen = choose(WORKLOADS, workloads)
    encoder = make_model(Encoder, model)
    if reason := unsupported_reason(encoder):
        raise BackendError(f"There are no levels to measure: {reason}; choose another model.")
    before = torch.get_num_threads()
    results: list[Levels] = []
    try:
        number = use_threads(threads)
        with torch.inference_mode():
            for kind in tuple(dict.fromkeys(kinds)) or native.KINDS:
                results += _measure(encoder, kind, chosen, rounds, processor_time)
    finally:
        torch.set_num_threads(before)
        native.select(AUTOMATIC)
    return LevelsReport(describe(model, encoder.config), number, rounds, processor_time, machine(()), tuple(results))


def _measure(
    encoder: Encoder, kind: str, workloads: Sequence[Workload], rounds: int, processor_time: bool
) -> list[Levels]:
    encoder.to(torch.bfloat16 if kind == "bf16" else torch.float32)
    encoders: dict[str, InferenceEncoder] = {}
    for level in (AUTOMATIC, *native.available_levels()):
        native.select(level)
        encoders[level] = InferenceEncoder(encoder, int8=kind == "int8")
    native.select(AUTOMATIC)
    chosen, found = native.level(kind), []
    for workload in workloads:
        runs = {level: _round(one, workload) for level, one in encoders.items()}
        for run in runs.values():
            run()
        clock = time.process_time if processor_time else time.perf_counter
        seconds = alternate(runs, rounds, f"{kind}, {workload.name}", clock=clock)
        speeds = {level: speed(workload.tokens * workload.passes, each) for level, each in seconds.items()}
        automatic = speeds.pop(AUTOMATIC)
        share = automatic.median / max(each.median for each in speeds.values())
        found.append(Levels(kind, workload.name, chosen, automatic, speeds, share))
    return found


def _round(encoder: InferenceEncoder, workload: Workload) -> Callable[[], None]:
    """A function that encodes all documents of a workload in one call, `passes` times."""
    ids = torch.cat([batch.ids[batch.real] for batch in workload.batches(encoder.config.vocab_size)])
    sequences = Sequences.from_lengths(workload.lengths)

    def run() -> None:
        for _ in range(workload.passes):
            encoder(ids, sequences)

    return run
