"""Metrics as pure functions of predictions and references, and their confidence intervals.

A metric takes (predictions, references). Metrics of spans and answers, in the packages of these tasks, have two steps,
the counts or scores of each example and their sum, so that `bootstrap` need not compare texts again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modernbert.errors import DataError
from modernbert.installation import install_command

Values = npt.NDArray[Any] | Sequence[Any]
Metric = Callable[..., float]

LOWER_IS_BETTER = frozenset({"error"})  # the names of metrics


def selection_score(name: str, value: float) -> float:
    """The value of a metric, negated if lower is better: the best evaluation has the highest score."""
    return -value if name in LOWER_IS_BETTER else value


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap confidence interval at `level`."""

    value: float
    low: float
    high: float
    level: float


def accuracy(predictions: Values, references: Values) -> float:
    """The fraction of correct predictions. A row of several labels is correct if all labels are."""
    same = np.asarray(predictions) == np.asarray(references)
    return float(same.all(axis=1).mean() if same.ndim == 2 else same.mean())


def binary_f1(predictions: Values, references: Values, positive: Any = 1) -> float:
    """F1 of the class `positive`; 0 if it is neither predicted nor expected."""
    predicted, expected = np.asarray(predictions) == positive, np.asarray(references) == positive
    return f1_of_counts(np.array([[(predicted & expected).sum(), predicted.sum(), expected.sum()]]))


def macro_f1(predictions: Values, references: Values) -> float:
    """The mean F1 of all classes that occur, each the same weight."""
    correct, predicted, expected = _class_counts(predictions, references)
    return float(np.mean(2 * correct / (predicted + expected)))


def matthews(predictions: Values, references: Values) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 if one side does not vary."""
    correct, predicted, expected = _class_counts(predictions, references)
    count = expected.sum()
    spread = (count**2 - (predicted**2).sum()) * (count**2 - (expected**2).sum())
    return float((correct.sum() * count - predicted @ expected) / np.sqrt(spread)) if spread else 0.0


def multilabel_f1(predictions: Values, references: Values, average: Literal["micro", "macro"] = "micro") -> float:
    """F1 of rows with 0 or 1 for each label: over all decisions (micro), or the mean over labels (macro)."""
    predicted, expected = np.asarray(predictions).astype(bool), np.asarray(references).astype(bool)
    counts = np.stack([(predicted & expected).sum(0), predicted.sum(0), expected.sum(0)], axis=1)
    if average == "micro":
        return f1_of_counts(counts)
    return float(np.mean([f1_of_counts(row[None]) for row in counts]))


def pearson(predictions: Values, references: Values) -> float:
    """Pearson's correlation; 0 if one side does not vary."""
    return _correlation("pearsonr", predictions, references)


def spearman(predictions: Values, references: Values) -> float:
    """Spearman's correlation of ranks; 0 if one side does not vary."""
    return _correlation("spearmanr", predictions, references)


def f1_of_counts(counts: npt.NDArray[np.integer]) -> float:
    """F1 from the summed counts of correct, predicted and expected spans; 0 without spans."""
    correct, predicted, expected = counts.sum(0).tolist()
    return 2 * correct / (predicted + expected) if predicted + expected else 0.0


def root_mean_squared_error(predictions: Values, references: Values) -> float:
    """The root of the mean squared difference."""
    return float(np.sqrt(np.mean((np.asarray(predictions) - np.asarray(references)) ** 2)))


def mean(scores: npt.NDArray[np.floating]) -> float:
    """The mean of one score for each example."""
    return float(np.mean(scores))


def bootstrap(metric: Metric, *values: Values, samples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """The metric of `values` and its percentile bootstrap interval (Efron 1979) over examples.

    All of `values` are aligned: example i is row i of each. Each bootstrap sample has as many examples as the
    data, with repetition, and depends on the seed alone.
    """
    arrays = [np.asarray(value) for value in values]
    count = len(arrays[0])
    generator = np.random.Generator(np.random.PCG64DXSM(seed))
    sampled = np.empty(samples)
    for sample in range(samples):
        indices = generator.integers(0, count, count)
        sampled[sample] = metric(*(array[indices] for array in arrays))
    low, high = np.quantile(sampled, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(metric(*arrays), low, high, level)


def _correlation(name: str, predictions: Values, references: Values) -> float:
    predicted, expected = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if np.ptp(predicted) == 0 or np.ptp(expected) == 0:
        return 0.0
    try:
        from scipy import stats
    except ImportError:
        raise DataError(f"Correlations need scipy: {install_command('finetune')}.") from None
    return float(getattr(stats, name)(predicted, expected).statistic)


def _class_counts(predictions: Values, references: Values) -> tuple[npt.NDArray[np.float64], ...]:
    """For each class: the number of correct predictions, of predictions, and of references.

    scikit-learn gives the same counts (see the tests), but takes 2 ms a call, which is seconds in a bootstrap.
    """
    predicted, expected = np.asarray(predictions), np.asarray(references)
    classes, class_ids = np.unique(np.concatenate([predicted, expected]), return_inverse=True)
    predicted_ids, expected_ids = class_ids[: len(predicted)], class_ids[len(predicted) :]
    return tuple(
        np.bincount(ids, minlength=len(classes)).astype(np.float64)
        for ids in (predicted_ids[predicted_ids == expected_ids], predicted_ids, expected_ids)
    )
