"""What a benchmark found, as a value that goes to JSON and back, and whether one is worse than another."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from modernbert.bench.floor import MATRICES, MATRIX_FLOPS
from modernbert.bench.timing import Speed, speed
from modernbert.bench.works import Work
from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write

OURS = "modernbert"  # the first word of the names of all contestants of this project
OURS_INT8 = "modernbert int8"
BASELINE = "transformers SDPA"
# A contestant may be so many times as far from fp32 as the baseline's own rounding takes it, and never further than ...
_TIMES_ROUNDING, _EXACT, _FURTHEST = 2.5, 1e-4, 0.1
_BASELINE_FURTHEST = 0.2  # in bf16 its rounding reaches 0.10 at 8,192 tokens with the weights of models.py


@dataclass(frozen=True)
class Entry:
    """One contestant on one work. One that disagrees has its error, and neither speed nor rank."""

    contestant: str
    computes: str  # the precision of its products
    error: float | None  # of the document that is furthest off, against fp32; None if it failed
    failure: str | None = None
    peak_bytes: int | None = None  # above the weights; None if it was not measured
    tokens_per_second: Speed | None = None
    ratio: float | None = None  # of its median to the baseline's
    share_of_floor: float | None = None  # how near it comes to the time that plain products alone would take; not int8

    @property
    def ranked(self) -> bool:
        return self.tokens_per_second is not None


@dataclass(frozen=True)
class Result:
    """One work. Tokens are real tokens; operations are those of one pass over them, without padding."""

    work: str
    documents: int
    of_documents: int | None  # in the published set, of which this is the beginning
    tokens: int
    flops: float
    matrix_flops_per_second: Speed
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Report:
    """All works on one machine."""

    benchmark: Literal["inference", "training"]
    model: str
    dtype: str
    threads: int
    rounds: int
    machine: dict[str, str]
    missing: dict[str, str]  # peers that could not be measured at all, and what to do about it
    results: tuple[Result, ...]


def agreeing(errors: Mapping[str, float | None]) -> frozenset[str]:
    """The contestants that may be ranked: those no further from fp32 than rounding explains. None is a failure."""
    rounding = errors.get(BASELINE)
    limit = _FURTHEST if rounding is None else min(_FURTHEST, max(_EXACT, _TIMES_ROUNDING * rounding))
    limits = {name: _BASELINE_FURTHEST if name == BASELINE else limit for name in errors}
    return frozenset(name for name, error in errors.items() if error is not None and error <= limits[name])


def make_result(
    work: Work,
    flops: float,
    entries: tuple[Entry, ...],
    seconds: Mapping[str, list[float]],
    matrix_flops: float = MATRIX_FLOPS,
) -> Result:
    """The result of a work from the seconds of those that were timed, `MATRICES` with its operations among them."""
    rate = speed(matrix_flops, seconds[MATRICES])
    speeds = {name: speed(work.tokens * work.passes, found) for name, found in seconds.items() if name != MATRICES}
    base = speeds.get(BASELINE)
    measured = []
    for entry in entries:
        found = speeds.get(entry.contestant)
        if found is None:
            measured.append(entry)
            continue
        values = asdict(entry) | {
            "tokens_per_second": found,
            "ratio": found.median / base.median if base else None,
            "share_of_floor": None if entry.computes == "int8" else flops / rate.median / (work.tokens / found.median),
        }
        measured.append(Entry(**values))
    return Result(work.name, len(work.lengths), work.of_documents, work.tokens, flops, rate, tuple(measured))


def write_report(report: Any, path: Path) -> None:
    """Write a report as JSON, aside first."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote.

    Raises:
        DataError: it is no report of `bench inference` or `bench training`.
    """
    try:
        return TypeAdapter(Report).validate_json(path.read_bytes(), strict=False)
    except (OSError, ValidationError):
        raise DataError(
            f"{path} is no report; write one with --output of `modernbert bench inference` or `bench training`."
        ) from None


@dataclass(frozen=True)
class Change:
    """The ratio of one contestant of ours on one work, before and after; None if it is not ranked any more."""

    work: str
    contestant: str
    before: float
    after: float | None
    slower: bool


@dataclass(frozen=True)
class Comparison:
    """The works that two reports share, and those that only one of them has."""

    changes: tuple[Change, ...]
    not_compared: tuple[str, ...]

    @property
    def slower(self) -> tuple[str, ...]:
        """The works that got slower."""
        return tuple(dict.fromkeys(change.work for change in self.changes if change.slower))


def compare_reports(old: Report, new: Report, tolerance: float) -> Comparison:
    """Ratios to the baseline, work by work: seconds differ from day to day, ratios only if the code does.

    Raises:
        ConfigError: the tolerance is no part of one.
        DataError: the reports are of other benchmarks, models, dtypes, threads or kinds of machine, or share no work.
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"A ratio cannot fall by a part of {tolerance:g}; give a tolerance between 0 and 1.")
    for name, of in _CONDITIONS.items():
        before, after = of(old), of(new)
        if before != after:
            raise DataError(f"The reports differ in {name} ({before} and {after}); compare two measured alike.")
    works = {_identity(result): result for result in new.results}
    common = [(result, works[_identity(result)]) for result in old.results if _identity(result) in works]
    if not common:
        raise DataError("The reports have no work in common; measure the same works.")
    changes = []
    for before, after in common:
        ratios = {entry.contestant: entry.ratio for entry in after.entries}
        for entry in before.entries:
            if entry.ratio is None or not entry.contestant.startswith(OURS):
                continue
            ratio = ratios.get(entry.contestant)
            slower = ratio is None or ratio < (1 - tolerance) * entry.ratio
            changes.append(Change(before.work, entry.contestant, entry.ratio, ratio, slower))
    shared = {_identity(before) for before, _ in common}
    others = (result.work for result in (*old.results, *new.results) if _identity(result) not in shared)
    return Comparison(tuple(changes), tuple(dict.fromkeys(others)))


_CONDITIONS = {
    "the benchmark": lambda report: report.benchmark,
    "the model": lambda report: report.model,
    "the dtype": lambda report: report.dtype,
    "the number of threads": lambda report: report.threads,
    "what the processor can do": lambda report: report.machine.get("features"),
    "the device": lambda report: report.machine.get("device", "CPU"),
}


def _identity(result: Result) -> tuple[str, int, int]:
    return result.work, result.documents, result.tokens
