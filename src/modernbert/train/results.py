"""The results of a fine-tuning run: metrics with confidence intervals, single examples, and the learning curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert.tasks.metrics import Interval
from modernbert.tasks.task import Encoded, ExampleResult, Task


@dataclass(frozen=True, eq=False)
class SetResult:
    """The evaluation of a model on one set."""

    metrics: Mapping[str, Interval]
    results: Sequence[ExampleResult]
    confusion: tuple[Sequence[str], npt.NDArray[np.int64]] | None
    tokens: int
    seconds: float
    by_label: Mapping[str, Mapping[str, float]]  # precision, recall, f1 and counts of each label


@dataclass(frozen=True, eq=False)
class SeedResult:
    """One run with one seed. `selection_score` is that of its best evaluation; minus infinity without an evaluation."""

    seed: int
    selection_score: float
    best_step: int
    steps: int
    tokens: int
    seconds: float
    measured: Mapping[str, SetResult]
    curve: Sequence[Mapping[str, Any]]


def set_result(task: Task[Any, Any], encoded: Encoded[Any], predictions: Sequence[Any], seconds: float) -> SetResult:
    """All that the report shows about the predictions for a set."""
    examples = encoded.examples
    return SetResult(
        {name: measure.interval() for name, measure in task.measures(examples, predictions).items()},
        [task.result(example, prediction) for example, prediction in zip(examples, predictions, strict=True)],
        task.confusion(examples, predictions),
        sum(len(ids) for ids in encoded.sequences),
        seconds,
        task.scores_by_label(examples, predictions),
    )
