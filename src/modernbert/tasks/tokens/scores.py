"""Precision, recall and F1 of spans."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert.tasks.metrics import f1_of_counts
from modernbert.tasks.tokens.tags import Span


@dataclass(frozen=True)
class SpanScores:
    """Precision, recall and F1 of predicted spans. A span is correct if both ends and the label are."""

    precision: float
    recall: float
    f1: float
    predicted: int
    expected: int


def span_counts(predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]) -> npt.NDArray[np.int64]:
    """The numbers (examples, 3) of correct, predicted and expected spans of each text."""
    counts = [
        (len(set(predicted) & set(expected)), len(set(predicted)), len(set(expected)))
        for predicted, expected in zip(predictions, references, strict=True)
    ]
    return np.array(counts, dtype=np.int64).reshape(-1, 3)


def span_scores(predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]) -> SpanScores:
    """Over all spans of all texts, as the CoNLL script counts them."""
    counts = span_counts(predictions, references)
    correct, predicted, expected = counts.sum(0).tolist()
    return SpanScores(
        precision=correct / predicted if predicted else 0.0,
        recall=correct / expected if expected else 0.0,
        f1=f1_of_counts(counts),
        predicted=predicted,
        expected=expected,
    )


def span_scores_by_label(
    predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]
) -> dict[str, SpanScores]:
    """The scores of each label that is predicted or expected."""
    labels = sorted({span.label for spans in (*predictions, *references) for span in spans})
    return {
        label: span_scores(
            [[span for span in spans if span.label == label] for spans in predictions],
            [[span for span in spans if span.label == label] for spans in references],
        )
        for label in labels
    }
