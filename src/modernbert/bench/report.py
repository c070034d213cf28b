"""The report of a benchmark as JSON, and the comparison of two reports."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from modernbert.bench.roofline import MATRICES, MATRIX_FLOPS
from modernbert.bench.timing import Speed, speed
from modernbert.bench.workloads import Workload
from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write

logger = logging.getLogger(__name__)

OURS = "modernbert"  # prefix of the names of this package's engines
OURS_INT8 = "modernbert int8"
BASELINE = "transformers SDPA"
# An engine's error against fp32 may be 2.5 times the baseline's rounding error, or _EXACT if that is more, up to
# _MAX_ERROR.
_TIMES_ROUNDING, _EXACT, _MAX_ERROR = 2.5, 1e-4, 0.1
_LARGEST_OF_BASELINE = 0.2  # its bf16 rounding reaches 0.10 at 8,192 tokens with the weights of models.py
# Names in the JSON of reports of earlier versions, and current names.
_OLD_NAMES = {"work": "workload", "contestant": "engine", "share_of_floor": "roofline_fraction"}


@dataclass(frozen=True)
class Entry:
    """One engine on one workload. An engine with a too large error is not timed: it has an error but no speed."""

    engine: str
    computes: str  # the precision of its products
    error: float | None  # the largest relative error of a document, against fp32; None if the engine failed
    failure: str | None = None
    peak_bytes: int | None = None  # without the weights; None if it was not measured
    tokens_per_second: Speed | None = None
    ratio: float | None = None  # its median speed over the baseline's
    roofline_fraction: float | None = None  # time of the matrix products alone over the measured time; None for int8

    @property
    def ranked(self) -> bool:
        return self.tokens_per_second is not None


@dataclass(frozen=True)
class Result:
    """One workload. `tokens` and `flops` are those of one pass, without padding."""

    workload: str
    documents: int
    of_documents: int | None  # size of the published set, if the workload is the first part of one
    tokens: int
    flops: float
    matrix_flops_per_second: Speed
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Report:
    """The results of all workloads on one machine."""

    benchmark: Literal["inference", "training"]
    model: str
    dtype: str
    threads: int
    rounds: int
    machine: dict[str, str]
    missing: dict[str, str]  # peers that could not be measured, with the reason and the remedy
    results: tuple[Result, ...]


def agreeing(errors: Mapping[str, float | None]) -> frozenset[str]:
    """The engines whose error against fp32 is explained by rounding. An error of None is a failure."""
    rounding = errors.get(BASELINE)
    limit = _MAX_ERROR if rounding is None else min(_MAX_ERROR, max(_EXACT, _TIMES_ROUNDING * rounding))
    limits = {name: _LARGEST_OF_BASELINE if name == BASELINE else limit for name in errors}
    return frozenset(name for name, error in errors.items() if error is not None and error <= limits[name])


def make_result(
    workload: Workload,
    flops: float,
    entries: tuple[Entry, ...],
    seconds: Mapping[str, list[float]],
    matrix_flops: float = MATRIX_FLOPS,
) -> Result:
    """The result of a workload.

    `seconds` has the rounds of every timed engine, and under `MATRICES` those of plain matrix products, with
    `matrix_flops` operations per round.
    """
    rate = speed(matrix_flops, seconds[MATRICES])
    speeds = {
        name: speed(workload.tokens * workload.passes, measured_speed)
        for name, measured_speed in seconds.items()
        if name != MATRICES
    }
    base = speeds.get(BASELINE)
    completed = []
    for entry in entries:
        measured_speed = speeds.get(entry.engine)
        if measured_speed is None:
            completed.append(entry)
            continue
        values = asdict(entry) | {
            "tokens_per_second": measured_speed,
            "ratio": measured_speed.median / base.median if base else None,
            "roofline_fraction": None
            if entry.computes == "int8"
            else flops / rate.median / (workload.tokens / measured_speed.median),
        }
        completed.append(Entry(**values))
    return Result(
        workload.name, len(workload.lengths), workload.of_documents, workload.tokens, flops, rate, tuple(completed)
    )


def log_result(result: Result) -> None:
    """Log the speeds of a workload."""
    speeds = ", ".join(
        f"{entry.engine} " + (f"{entry.tokens_per_second.median:,.0f}" if entry.tokens_per_second else "not ranked")
        for entry in result.entries
    )
    logger.info("%s, tokens/s: %s", result.workload, speeds)


def write_report(report: Any, path: Path) -> None:
    """Write a report as JSON, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read a report that `write_report` wrote, of this version or an earlier one.

    Raises:
        DataError: the file is not a report of `bench inference` or `bench training`.
    """
    try:
        return TypeAdapter(Report).validate_python(parse_json(path.read_bytes()), strict=False)
    except (OSError, ValueError):
        raise DataError(
            f"{path} is not a report; write one with --output of `modernbert bench inference` or `bench training`."
        ) from None


def parse_json(text: bytes) -> Any:
    """The JSON of a report; names of earlier versions are replaced by current ones.

    Raises:
        ValueError: the text is not JSON.
    """
    return json.loads(text, object_hook=lambda values: {_OLD_NAMES.get(key, key): values[key] for key in values})


@dataclass(frozen=True)
class Change:
    """The ratio of one engine of this package on one workload in two reports; None if it is no longer ranked."""

    workload: str
    engine: str
    before: float
    after: float | None
    slower: bool


@dataclass(frozen=True)
class Comparison:
    """The changes in the workloads that two reports share, and the names of workloads that only one of them has."""

    changes: tuple[Change, ...]
    not_compared: tuple[str, ...]

    @property
    def slower(self) -> tuple[str, ...]:
        """The workloads that became slower."""
        return tuple(dict.fromkeys(change.workload for change in self.changes if change.slower))


def compare_reports(old: Report, new: Report, tolerance: float) -> Comparison:
    """Compare the ratios to the baseline for each workload. Seconds vary between runs; ratios depend on the code.

    Raises:
        ConfigError: the tolerance is not between 0 and 1.
        DataError: the reports differ in benchmark, model, dtype, threads or processor, or share no workload.
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"A tolerance of {tolerance:g} is not possible; give a number between 0 and 1.")
    for name, attribute in _CONDITIONS.items():
        before, after = attribute(old), attribute(new)
        if before != after:
            raise DataError(f"The reports differ in {name} ({before} and {after}); compare reports of the same one.")
    workloads = {_identity(result): result for result in new.results}
    common = [(result, workloads[_identity(result)]) for result in old.results if _identity(result) in workloads]
    if not common:
        raise DataError("The reports have no workload in common; measure the same workloads.")
    changes = []
    for before, after in common:
        ratios = {entry.engine: entry.ratio for entry in after.entries}
        for entry in before.entries:
            if entry.ratio is None or not entry.engine.startswith(OURS):
                continue
            ratio = ratios.get(entry.engine)
            slower = ratio is None or ratio < (1 - tolerance) * entry.ratio
            changes.append(Change(before.workload, entry.engine, entry.ratio, ratio, slower))
    shared = {_identity(before) for before, _ in common}
    others = (result.workload for result in (*old.results, *new.results) if _identity(result) not in shared)
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
    return result.workload, result.documents, result.tokens
