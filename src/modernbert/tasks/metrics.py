"""What predictions are worth, as pure functions of predictions and references.

A metric of whole lists takes (predictions, references). Metrics of spans and answers come in two steps, counts or
scores of each example and their sum, so that `bootstrap` need not compare texts again.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.text.examples import Span

Values = npt.NDArray[Any] | Sequence[Any]
Metric = Callable[..., float]


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds it with a probability of `level`, from examples drawn again and again."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class SpanScores:
    """Precision, recall and F1 of predicted spans, which count only if both ends and the label are right."""

    precision: float
    recall: float
    f1: float
    predicted: int
    wanted: int


def accuracy(predictions: Values, references: Values) -> float:
    """The share of equal ones. Rows of several labels must be equal as a whole."""
    same = np.asarray(predictions) == np.asarray(references)
    return float(same.all(axis=1).mean() if same.ndim == 2 else same.mean())


def binary_f1(predictions: Values, references: Values, positive: Any = 1) -> float:
    """F1 of the class `positive`; 0 where it is neither predicted nor wanted."""
    predicted, wanted = np.asarray(predictions) == positive, np.asarray(references) == positive
    return f1_of_counts(np.array([[(predicted & wanted).sum(), predicted.sum(), wanted.sum()]]))


def macro_f1(predictions: Values, references: Values) -> float:
    """The mean F1 of all classes that occur, each the same weight."""
    right, predicted, wanted = _class_counts(predictions, references)
    return float(np.mean(2 * right / (predicted + wanted)))


def matthews(predictions: Values, references: Values) -> float:
    """Matthews correlation, of any number of classes (Gorodkin 2004); 0 if one side is all the same."""
    right, predicted, wanted = _class_counts(predictions, references)
    count = wanted.sum()
    spread = (count**2 - (predicted**2).sum()) * (count**2 - (wanted**2).sum())
    return float((right.sum() * count - predicted @ wanted) / np.sqrt(spread)) if spread else 0.0


def multilabel_f1(predictions: Values, references: Values, average: Literal["micro", "macro"] = "micro") -> float:
    """F1 over rows of 0 and 1, one for each label: of all decisions together, or the mean of the labels."""
    predicted, wanted = np.asarray(predictions).astype(bool), np.asarray(references).astype(bool)
    counts = np.stack([(predicted & wanted).sum(0), predicted.sum(0), wanted.sum(0)], axis=1)
    if average == "micro":
        return f1_of_counts(counts)
    return float(np.mean([f1_of_counts(row[None]) for row in counts]))


def pearson(predictions: Values, references: Values) -> float:
    """Pearson's correlation; 0 if one side does not vary."""
    return _correlation("pearsonr", predictions, references)


def spearman(predictions: Values, references: Values) -> float:
    """Spearman's correlation of ranks; 0 if one side does not vary."""
    return _correlation("spearmanr", predictions, references)


def span_counts(predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]) -> npt.NDArray[np.int64]:
    """(examples, 3): right, predicted and wanted spans of each text."""
    counts = [
        (len(set(predicted) & set(wanted)), len(set(predicted)), len(set(wanted)))
        for predicted, wanted in zip(predictions, references, strict=True)
    ]
    return np.array(counts, dtype=np.int64).reshape(-1, 3)


def f1_of_counts(counts: npt.NDArray[np.integer]) -> float:
    """F1 over the sum of rows of right, predicted and wanted ones; 0 if there are none."""
    right, predicted, wanted = counts.sum(0).tolist()
    return 2 * right / (predicted + wanted) if predicted + wanted else 0.0


def span_scores(predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]) -> SpanScores:
    """Over all spans of all texts, as the CoNLL script counts them."""
    counts = span_counts(predictions, references)
    right, predicted, wanted = counts.sum(0).tolist()
    return SpanScores(
        precision=right / predicted if predicted else 0.0,
        recall=right / wanted if wanted else 0.0,
        f1=f1_of_counts(counts),
        predicted=predicted,
        wanted=wanted,
    )


def span_scores_by_label(
    predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]
) -> dict[str, SpanScores]:
    """The same for each label that is predicted or wanted."""
    labels = sorted({span.label for spans in (*predictions, *references) for span in spans})
    return {
        label: span_scores(
            [[span for span in spans if span.label == label] for spans in predictions],
            [[span for span in spans if span.label == label] for spans in references],
        )
        for label in labels
    }


def squad_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, unit: Literal["words", "characters"] = "words"
) -> npt.NDArray[np.float64]:
    """(questions, 2): exact match and F1 of each answer, by the definition of SQuAD's script, from 0 to 1.

    The best of the accepted answers counts. An empty prediction says that there is no answer, which is right if no
    answer is accepted. F1 is over `words`, or over `characters` for languages without spaces.
    """
    scores = []
    for predicted, answers in zip(predictions, references, strict=True):
        said = normalized_answer(predicted, unit)
        accepted = [answer for text in answers if (answer := normalized_answer(text, unit))] or [""]
        scores.append([max(each) for each in zip(*(_answer_scores(said, one, unit) for one in accepted), strict=True)])
    return np.array(scores, dtype=np.float64).reshape(-1, 2)


def normalized_answer(text: str, unit: Literal["words", "characters"] = "words") -> str:
    """An answer as it is compared.

    For words that is SQuAD's own: lower case, no ASCII punctuation, no articles, single spaces. For characters: NFKC,
    lower case, no punctuation of any script, no white space.
    """
    if unit == "words":
        kept = "".join(character for character in text.lower() if character not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(
        character
        for character in folded
        if not unicodedata.category(character).startswith("P")
        and character not in string.punctuation
        and not character.isspace()
    )


def mean(scores: npt.NDArray[np.floating]) -> float:
    """The mean of scores that each example has of its own."""
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


def _answer_scores(one: str, other: str, unit: Literal["words", "characters"]) -> tuple[float, float]:
    """Exact match and F1 of two normalized answers."""
    exact = float(one == other)
    pieces = (one.split(), other.split()) if unit == "words" else (list(one), list(other))
    if not pieces[0] or not pieces[1]:  # no answer, which is right only where none is wanted
        return exact, exact
    same = sum((Counter(pieces[0]) & Counter(pieces[1])).values())
    return exact, 2 * same / (len(pieces[0]) + len(pieces[1]))


def _correlation(name: str, predictions: Values, references: Values) -> float:
    predicted, wanted = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if np.ptp(predicted) == 0 or np.ptp(wanted) == 0:
        return 0.0
    try:
        from scipy import stats
    except ImportError:
        raise DataError(f"Correlations need scipy: {install_command('finetune')}.") from None
    return float(getattr(stats, name)(predicted, wanted).statistic)


def _class_counts(predictions: Values, references: Values) -> tuple[npt.NDArray[np.float64], ...]:
    """Of each class that occurs: how often it is right, predicted, and wanted.

    scikit-learn checks its input for 2 ms a call, which is seconds in a bootstrap; the tests compare with it.
    """
    predicted, wanted = np.asarray(predictions), np.asarray(references)
    classes, numbers = np.unique(np.concatenate([predicted, wanted]), return_inverse=True)
    one, other = numbers[: len(predicted)], numbers[len(predicted) :]
    return tuple(
        np.bincount(found, minlength=len(classes)).astype(np.float64) for found in (one[one == other], one, other)
    )
