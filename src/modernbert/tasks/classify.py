"""Classify texts, or pairs of texts: one of several classes for each (`classify`), or any number (`multi-label`)."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.errors import DataError
from modernbert.model import SequenceClassifier
from modernbert.tasks.inputs import as_list, check_text
from modernbert.tasks.metrics import Metric, accuracy, macro_f1, matthews, multilabel_f1
from modernbert.tasks.outputs import outputs, warn_truncated
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.reading import composed
from modernbert.tasks.task import ExampleResult, Item, Measure, balanced, named_weights
from modernbert.tasks.texts import LabelKind, Scores, TextColumns, TextExample, TextTask, decode_scores
from modernbert.text.framing import encode_texts

Text = str | tuple[str, str]  # a text, or a pair of texts

_CLASS_METRICS: dict[str, Metric] = {"accuracy": accuracy, "f1_macro": macro_f1, "matthews": matthews}
_LABEL_METRICS: dict[str, Metric] = {
    "f1_micro": multilabel_f1,
    "f1_macro": partial(multilabel_f1, average="macro"),
    "exact": accuracy,
}


class Classify(TextTask):
    """One class for each text."""

    name = "classify"
    label_kind: ClassVar[LabelKind] = "class"
    problem_type = "single_label_classification"
    metric_names = ("accuracy", "f1_macro", "matthews")
    has_classes = True

    def check(self, examples: Sequence[TextExample]) -> None:
        labels = {str(example.label) for example in examples}
        fractions = [label for label in labels if re.fullmatch(r"[-+]?\d*[.,]\d+(?:e[-+]?\d+)?", label, re.IGNORECASE)]
        if len(labels) > 20 and len(fractions) > len(labels) / 2 and all(map(_is_number, labels)):
            raise DataError(
                f"The labels are {len(labels)} different numbers, such as {min(fractions)}; numbers are learned with "
                'task = "regress".'
            )

    def learn_labels(self, examples: Sequence[TextExample]) -> None:
        self.names = ordered_labels({str(example.label) for example in examples})
        if len(self.names) < 2:
            raise DataError(
                f"Every training example has the label {self.names[0]!r}; a classifier needs at least two labels."
            )

    def labels_of(self, example: TextExample) -> Sequence[str]:
        return (str(example.label),)

    def stratum(self, example: TextExample) -> str:
        return str(example.label)

    def weights(self, examples: Sequence[TextExample]) -> Tensor | None:
        chosen = self.settings.class_weights
        if chosen == "none":
            return None
        counts = np.bincount([self.names.index(str(example.label)) for example in examples], minlength=len(self.names))
        return torch.from_numpy(balanced(counts) if chosen == "balanced" else named_weights(chosen, self.names))

    def total(self, items: Sequence[Item], weights: Tensor | None) -> float:
        return float(len(items)) if weights is None else float(weights[self.labels(items)].sum())

    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        return np.array(self.names.index(str(example.label)), dtype=np.int64)

    def measures(self, examples: Sequence[TextExample], predictions: Sequence[Scores]) -> dict[str, Measure]:
        expected = np.array([int(self.target(example)) for example in examples])
        both = (np.stack(predictions).argmax(1), expected)
        return {name: Measure(_CLASS_METRICS[name], both) for name in self.metric_names}

    def baseline(self, train: Sequence[TextExample], examples: Sequence[TextExample]) -> list[Scores]:
        """The most frequent class."""
        most_frequent = np.array(list(self.count_labels(train).values())).argmax()
        return [np.eye(len(self.names))[most_frequent]] * len(examples)

    def count_labels(self, examples: Sequence[TextExample]) -> dict[str, int]:
        counts = Counter(str(example.label) for example in examples)
        return {name: counts[name] for name in self.names}

    def result(self, example: TextExample, prediction: Scores) -> ExampleResult:
        best = self.names[int(prediction.argmax())]
        error = 0.0 if best == example.label else float(prediction.max())  # the probability of the wrong class
        return self.text_result(example, example.label, best, error, prediction)

    def confusion(
        self, examples: Sequence[TextExample], predictions: Sequence[Scores]
    ) -> tuple[Sequence[str], npt.NDArray[np.int64]]:
        matrix = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        for example, prediction in zip(examples, predictions, strict=True):
            matrix[self.names.index(str(example.label)), int(prediction.argmax())] += 1
        return self.names, matrix


class MultiLabelColumns(TextColumns):
    """The columns of texts with any number of labels: one column of lists, or a column of 0 and 1 for each label."""

    several_labels = True


class MultiLabel(TextTask):
    """Any number of labels for each text; those with a probability of at least one half are predicted."""

    name = "multi-label"
    columns_type = MultiLabelColumns
    label_kind: ClassVar[LabelKind] = "classes"
    problem_type = "multi_label_classification"
    metric_names = ("f1_micro", "f1_macro", "exact")
    has_classes = True

    def learn_labels(self, examples: Sequence[TextExample]) -> None:
        columns = self.columns.label
        labels = {label for example in examples for label in _labels(example)}
        self.names = ordered_labels(labels) if isinstance(columns, str) else tuple(map(composed, columns))
        if not labels:
            raise DataError("No training example has a label; name the column of the labels in data.label.")
        if isinstance(columns, str) and labels == {"0", "1"} and all(len(_labels(one)) == 2 for one in examples):
            raise DataError(
                f"Every training example has both labels, 0 and 1; if {columns} has a 0 or 1 for each label, "
                "give the names of the labels with 1, or a column of 0 and 1 for each label, named in data.label."
            )

    def labels_of(self, example: TextExample) -> Sequence[str]:
        return _labels(example)

    def weights(self, examples: Sequence[TextExample]) -> Tensor | None:
        chosen = self.settings.class_weights
        if chosen == "none":
            return None
        if chosen != "balanced":
            return torch.from_numpy(named_weights(chosen, self.names))
        positives = np.sum([self.target(example) for example in examples], axis=0)
        return torch.from_numpy(((len(examples) - positives) / positives.clip(min=1)).astype(np.float32))

    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        return np.array([name in _labels(example) for name in self.names], dtype=np.float32)

    def measures(self, examples: Sequence[TextExample], predictions: Sequence[Scores]) -> dict[str, Measure]:
        both = (np.stack(predictions) >= 0.5, np.stack([self.target(example) for example in examples]) > 0)
        return {name: Measure(_LABEL_METRICS[name], both) for name in self.metric_names}

    def baseline(self, train: Sequence[TextExample], examples: Sequence[TextExample]) -> list[Scores]:
        """The frequency of each label as its probability."""
        return [np.stack([self.target(example) for example in train]).astype(np.float64).mean(0)] * len(examples)

    def count_labels(self, examples: Sequence[TextExample]) -> dict[str, int]:
        counts = Counter(label for example in examples for label in _labels(example))
        return {name: counts[name] for name in self.names}

    def result(self, example: TextExample, prediction: Scores) -> ExampleResult:
        predicted = [name for name, value in zip(self.names, prediction, strict=True) if value >= 0.5]
        target = self.target(example).astype(np.float64)
        distances = np.abs(target - prediction)
        error = float(distances.max()) if ((prediction >= 0.5) != target).any() else 0.0
        return self.text_result(example, sorted(_labels(example)), predicted, error, prediction)


@dataclass(frozen=True)
class LabelScore:
    """A label and its probability, or the name and the value of a predicted number."""

    label: str
    score: float


class Classifier(Predictor[SequenceClassifier]):
    """Predicts labels for texts or pairs of texts. Longer ones are truncated to `max_length`."""

    kind = SequenceClassifier

    @overload
    def __call__(self, texts: str) -> list[LabelScore]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[Text]) -> list[list[LabelScore]]: ...
    def __call__(self, texts: str | Sequence[Text]) -> list[LabelScore] | list[list[LabelScore]]:
        """Every label with its probability, best first; for a sequence (list, tuple, array), a list of results.

        An element of a sequence may be a tuple of two texts, which is a pair; for one pair, give `[(first, second)]`.
        The probabilities of classes add up to 1; those of multi-label models are independent. The number of truncated
        texts is logged.

        Raises:
            DataError: a text is empty or is not a text.
        """
        if isinstance(texts, str):
            return self._classify([texts])[0]
        return self._classify(as_list(texts))

    def _classify(self, texts: Sequence[object]) -> list[list[LabelScore]]:
        pairs = [_pair(number, text) for number, text in enumerate(texts, 1)]
        encoded = encode_texts(
            self.tokenizer, [text for text, _ in pairs], [pair for _, pair in pairs], max_length=self.max_length
        )
        warn_truncated(encoded, self.max_length)
        problem_type, labels = self.model.problem_type, self.model.config.labels
        scores = [decode_scores(logits.numpy(), problem_type).tolist() for logits in outputs(self.model, encoded.ids)]
        ranked = [sorted(zip(values, labels, strict=True), key=lambda one: -one[0]) for values in scores]
        return [[LabelScore(label, value) for value, label in row] for row in ranked]


def ordered_labels(names: set[str]) -> tuple[str, ...]:
    """Sorted by value if all are whole numbers, otherwise by name."""
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _labels(example: TextExample) -> tuple[str, ...]:
    assert isinstance(example.label, tuple), "read_texts_with_labels reads several classes"
    return example.label


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", "."))
    except ValueError:
        return False
    return True


def _pair(number: int, value: object) -> tuple[str, str | None]:
    if isinstance(value, tuple) and len(value) == 2:
        first, second = (check_text(one, f"The {which} text of pair {number}")
                         for one, which in zip(value, ("first", "second"), strict=True))  # fmt: skip
        return first, second
    if isinstance(value, tuple | list):
        raise DataError(f"Text {number} is a {type(value).__name__} of {len(value)}; a pair is a tuple of two texts.")
    return check_text(value, f"Text {number}"), None
