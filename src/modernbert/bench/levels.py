"""The levels of the native kernels side by side: whether the one that is chosen by itself is the fastest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from modernbert.bench.models import describe, make_model
from modernbert.bench.timing import Speed, alternate, check_rounds, machine, speed, use_threads
from modernbert.bench.works import Work, choose
from modernbert.errors import BackendError, ConfigError
from modernbert.kernels import native
from modernbert.model import Encoder
from modernbert.model.optimized import InferenceEncoder, refusal
from modernbert.packed import Sequences

WORKS = (Work("1 x 16", (16,)), Work("1 x 128", (128,)), Work("2 x 512", (512, 512)))
AUTOMATIC = ""


@dataclass(frozen=True)
class Levels:
    """One workload in one kind of product: tokens a second at the automatic level and at each that is forced."""

    kind: str
    work: str
    chosen: str
    automatic: Speed
    forced: dict[str, Speed]
    share: float  # of the speed of the fastest forced level that the automatic one has, by the medians


@dataclass(frozen=True)
class LevelsReport:
    """All workloads on one machine."""

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
    works: Sequence[str] = (),
    kinds: Sequence[str] = (),
    processor_time: bool = False,
) -> LevelsReport:
    """Encode with the automatic level and with each one of this processor forced, in all kinds of products or in some.

    With `processor_time`, seconds are those of the process on its processors, whatever else runs there.

    Raises:
        ConfigError: an option has no such value.
        BackendError: the native kernels cannot run here, or not this model.
    """
    check_rounds(rounds)
    if unknown := sorted(set(kinds) - set(native.KINDS)):
        raise ConfigError(f"There are no products in {unknown[0]!r}; take {', '.join(native.KINDS)}.")
    chosen = choose(WORKS, works)
    encoder = make_model(Encoder, model)
    if reason := refusal(encoder):
        raise BackendError(f"There are no levels to measure: {reason}.")
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


def _measure(encoder: Encoder, kind: str, works: Sequence[Work], rounds: int, processor_time: bool) -> list[Levels]:
    encoder.to(torch.bfloat16 if kind == "bf16" else torch.float32)
    ready: dict[str, InferenceEncoder] = {}
    for level in (AUTOMATIC, *native.available_levels()):
        native.select(level)
        ready[level] = InferenceEncoder(encoder, int8=kind == "int8")
    native.select(AUTOMATIC)
    chosen, found = native.level(kind), []
    for work in works:
        runs = {level: _round(one, work) for level, one in ready.items()}
        for run in runs.values():
            run()
        clock = time.process_time if processor_time else time.perf_counter
        seconds = alternate(runs, rounds, f"{kind}, {work.name}", clock=clock)
        speeds = {level: speed(work.tokens * work.passes, each) for level, each in seconds.items()}
        automatic = speeds.pop(AUTOMATIC)
        share = automatic.median / max(each.median for each in speeds.values())
        found.append(Levels(kind, work.name, chosen, automatic, speeds, share))
    return found


def _round(encoder: InferenceEncoder, work: Work) -> Callable[[], None]:
    """All documents of a work in one call, so many times."""
    ids = torch.cat([batch.ids[batch.real] for batch in work.batches(encoder.config.vocab_size)])
    sequences = Sequences.from_lengths(work.lengths)

    def run() -> None:
        for _ in range(work.passes):
            encoder(ids, sequences)

    return run
