"""Metrics as pure functions of predictions and references, and their confidence intervals.

A metric of whole lists takes (predictions, references). Metrics of spans and answers, in the rooms of their tasks, come
in two steps, counts or scores of each example and their sum, so that `bootstrap` need not compare texts again.
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
    """The value of a metric, with the sign changed where lower is better: the best evaluation has the highest."""
    return -value if name in LOWER_IS_BETTER else value


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap confidence interval at `level`."""

    value: float
    low: float
    high: float
    level: float


def accuracy(predictions: Values, references: Values) -> float:
    """The share of equal ones. Rows of several labels must be equal as a whole."""
    same = np.asarray(predictions) == np.asarray(references)
    return float(same.all(axis=1).mean() if same.ndim == 2 else same.mean())


def binary_f1(predictions: Values, references: Values, positive: Any = 1) -> float:
    """F1 of the class `positive`; 0 where it is neither predicted nor expected."""
    predicted, expected = np.asarray(predictions) == positive, np.asarray(references) == positive
    return f1_of_counts(np.array([[(predicted & expected).sum(), predicted.sum(), expected.sum()]]))


def macro_f1(predictions: Values, references: Values) -> float:
    """The mean F1 of all classes that occur, each the same weight."""
    correct, predicted, expected = _class_counts(predictions, references)
    return float(np.mean(2 * correct / (predicted + expected)))


def matthews(predictions: Values, references: Values) -> float:
    """Matthews correlation, of any number of classes (Gorodkin 2004); 0 if one side is all the same."""
    correct, predicted, expected = _class_counts(predictions, references)
    count = expected.sum()
    spread = (count**2 - (predicted**2).sum()) * (count**2 - (expected**2).sum())
    return float((correct.sum() * count - predicted @ expected) / np.sqrt(spread)) if spread else 0.0


def multilabel_f1(predictions: Values, references: Values, average: Literal["micro", "macro"] = "micro") -> float:
    """F1 over rows of 0 and 1, one for each label: of all decisions together, or the mean of the labels."""
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

    All of `values` are aligned: example i is row i of each. Each sample draws as many examples as there are, with
    repetition, and the same seed draws the same ones.
    """
    arrays = [np.asarray(value) for value in values]
    count = len(arrays[0])
    generator = np.random.Generator(np.random.PCG64DXSM(seed))
    found = np.empty(samples)
    for sample in range(samples):
        chosen = generator.integers(0, count, count)
        found[sample] = metric(*(array[chosen] for array in arrays))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
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
    """For each class that occurs: how often it is predicted correctly, predicted, and expected.

    scikit-learn checks its input for 2 ms a call, which is seconds in a bootstrap; the tests compare with it.
    """
    predicted, expected = np.asarray(predictions), np.asarray(references)
    classes, numbers = np.unique(np.concatenate([predicted, expected]), return_inverse=True)
    one, other = numbers[: len(predicted)], numbers[len(predicted) :]
    return tuple(
        np.bincount(found, minlength=len(classes)).astype(np.float64) for found in (one[one == other], one, other)
    )
