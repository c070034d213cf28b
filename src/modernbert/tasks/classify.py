"""Texts and pairs of texts with a class, several classes, or a number."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import DataError
from modernbert.model.config import EncoderConfig
from modernbert.model.heads import SequenceClassifier, TaskModel
from modernbert.packed import Sequences
from modernbert.tasks.classifier import scores
from modernbert.tasks.metrics import Metric, accuracy, macro_f1, matthews, multilabel_f1, pearson, spearman
from modernbert.tasks.reading import Examples, Kind, Source, read_texts_with_labels
from modernbert.tasks.recipe import FinetuneRecipe
from modernbert.tasks.task import Encoded, Item, Judgement, Measure, Outputs, Task, balanced, named_weights
from modernbert.text.examples import TextExample
from modernbert.text.framing import encode_texts

Scores = npt.NDArray[np.floating]  # (labels,): probabilities, or the number


class TextTask(Task[TextExample, Scores]):
    """What the three tasks on whole texts share."""

    head = SequenceClassifier
    kind: Kind
    problem_type: str
    names: tuple[str, ...] = ()

    def examples(self, source: Source) -> Examples[TextExample]:
        data = self.recipe.data
        return read_texts_with_labels(
            source,
            text=data.text,
            pair=data.pair,
            label=data.label,
            kind=self.kind,
            labels=self.names or None,
            separator=data.separator,
            skip_bad=self.recipe.skip_bad,
        )

    def recall(self, config: EncoderConfig) -> None:
        self.names = config.labels

    def group(self, example: TextExample) -> str:
        return f"{example.text}\n{example.pair}"

    def changes(self) -> dict[str, Any]:
        return super().changes() | {
            "id2label": dict(enumerate(self.names)),
            "problem_type": self.problem_type,
            "reads_pairs": self.recipe.data.pair is not None,
        }

    def encode(self, examples: list[TextExample]) -> Encoded[TextExample]:
        found = encode_texts(
            self.tokenizer,
            [example.text for example in examples],
            [example.pair for example in examples],
            max_length=self.max_length,
        )
        items = [Item((ids,), self.target(example)) for ids, example in zip(found.ids, examples, strict=True)]
        return Encoded(examples, items, notes={"truncated": found.truncated})

    @abstractmethod
    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        """The label as the head learns it."""

    def head_loss(
        self,
        model: TaskModel,
        tokens: Tensor,
        sequences: Sequences,
        labels: Tensor,
        items: Sequence[Item],
        total: float,
        weights: Tensor | None,
    ) -> Tensor:
        assert isinstance(model, SequenceClassifier)
        return model.loss(tokens, sequences, labels, total, weights)

    def predictions(self, encoded: Encoded[TextExample], outputs: Outputs) -> list[Scores]:
        said = torch.from_numpy(np.stack(outputs))
        return list(scores(self.problem_type, said).numpy())

    def judgement(
        self, example: TextExample, expected: object, predicted: object, wrong: float, values: Scores
    ) -> Judgement:
        record = {"file": example.origin.file, "line": example.origin.line, "text": example.text}
        if example.pair is not None:
            record["pair"] = example.pair
        named = {name: float(value) for name, value in zip(self.names, values, strict=True)}
        text = example.text if example.pair is None else f"{example.text} / {example.pair}"
        record |= {"expected": expected, "predicted": predicted, "scores": named}
        return Judgement(text, _shown(expected), _shown(predicted), wrong, record)


class Classify(TextTask):
    """One class for each text."""

    kind: Kind = "class"
    problem_type = "single_label_classification"
    metric_names = ("accuracy", "f1_macro", "matthews")

    def check(self, examples: Sequence[TextExample]) -> None:
        labels = {str(example.label) for example in examples}
        fractions = [label for label in labels if re.fullmatch(r"[-+]?\d*[.,]\d+(?:e[-+]?\d+)?", label, re.IGNORECASE)]
        if len(labels) > 20 and len(fractions) > len(labels) / 2 and all(map(_is_number, labels)):
            raise DataError(
                f"The labels are {len(labels)} different numbers, such as {min(fractions)}; numbers are learned with "
                'task = "regress".'
            )

    def learn_labels(self, examples: Sequence[TextExample]) -> None:
        self.names = _ordered({str(example.label) for example in examples})
        if len(self.names) < 2:
            raise DataError(
                f"Every training example has the label {self.names[0]!r}; a classifier needs at least two labels."
            )

    def labels_of(self, example: TextExample) -> Sequence[str]:
        return (str(example.label),)

    def stratum(self, example: TextExample) -> str:
        return str(example.label)

    def weights(self, examples: Sequence[TextExample]) -> Tensor | None:
        chosen = self.recipe.training.class_weights
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

    def guess(self, train: Sequence[TextExample], examples: Sequence[TextExample]) -> list[Scores]:
        """The most frequent class."""
        most = np.array(list(self.count_labels(train).values())).argmax()
        return [np.eye(len(self.names))[most]] * len(examples)

    def count_labels(self, examples: Sequence[TextExample]) -> dict[str, int]:
        counts = Counter(str(example.label) for example in examples)
        return {name: counts[name] for name in self.names}

    def judge(self, example: TextExample, prediction: Scores) -> Judgement:
        [best] = self._best([prediction])
        # of what was wrong, how sure the model was
        wrong = 0.0 if best == example.label else float(prediction.max())
        return self.judgement(example, example.label, best, wrong, prediction)

    def confusion(
        self, examples: Sequence[TextExample], predictions: Sequence[Scores]
    ) -> tuple[Sequence[str], npt.NDArray[np.int64]]:
        matrix = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        for example, prediction in zip(examples, predictions, strict=True):
            matrix[self.names.index(str(example.label)), int(prediction.argmax())] += 1
        return self.names, matrix

    def _best(self, predictions: Sequence[Scores]) -> list[str]:
        return [self.names[int(values.argmax())] for values in predictions]


class MultiLabel(TextTask):
    """Any number of labels for each text; those with a probability of at least one half are predicted."""

    kind: Kind = "classes"
    problem_type = "multi_label_classification"
    metric_names = ("f1_micro", "f1_macro", "exact")

    def learn_labels(self, examples: Sequence[TextExample]) -> None:
        columns = self.recipe.data.label
        found = {label for example in examples for label in _several(example)}
        self.names = _ordered(found) if isinstance(columns, str) else columns
        if not found:
            raise DataError("No training example has a label; name the column of the labels in data.label.")
        if isinstance(columns, str) and found == {"0", "1"} and all(len(_several(one)) == 2 for one in examples):
            raise DataError(
                f"Every training example has both labels, 0 and 1; if {columns} says for each label whether it is "
                "there, give the names of those that are, or a column of 0 and 1 for each label and their names in "
                "data.label."
            )

    def labels_of(self, example: TextExample) -> Sequence[str]:
        return _several(example)

    def weights(self, examples: Sequence[TextExample]) -> Tensor | None:
        chosen = self.recipe.training.class_weights
        if chosen == "none":
            return None
        if chosen != "balanced":
            return torch.from_numpy(named_weights(chosen, self.names))
        held = np.sum([self.target(example) for example in examples], axis=0)
        return torch.from_numpy(((len(examples) - held) / held.clip(min=1)).astype(np.float32))

    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        return np.array([name in _several(example) for name in self.names], dtype=np.float32)

    def measures(self, examples: Sequence[TextExample], predictions: Sequence[Scores]) -> dict[str, Measure]:
        both = (np.stack(predictions) >= 0.5, np.stack([self.target(example) for example in examples]) > 0)
        return {name: Measure(_LABEL_METRICS[name], both) for name in self.metric_names}

    def guess(self, train: Sequence[TextExample], examples: Sequence[TextExample]) -> list[Scores]:
        """Every label as often as it occurs."""
        return [np.stack([self.target(example) for example in train]).astype(np.float64).mean(0)] * len(examples)

    def count_labels(self, examples: Sequence[TextExample]) -> dict[str, int]:
        counts = Counter(label for example in examples for label in _several(example))
        return {name: counts[name] for name in self.names}

    def judge(self, example: TextExample, prediction: Scores) -> Judgement:
        predicted = [name for name, value in zip(self.names, prediction, strict=True) if value >= 0.5]
        target = self.target(example).astype(np.float64)
        away = np.abs(target - prediction)
        wrong = float(away.max()) if ((prediction >= 0.5) != target).any() else 0.0
        return self.judgement(example, sorted(_several(example)), predicted, wrong, prediction)


class Regress(TextTask):
    """A number for each text. It is learned as so many standard deviations above the mean of the training set."""

    kind: Kind = "number"
    problem_type = "regression"
    metric_names = ("spearman", "pearson", "error")
    mean = 0.0
    deviation = 1.0

    def __init__(self, recipe: FinetuneRecipe, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__(recipe, tokenizer, max_length)
        assert isinstance(recipe.data.label, str), "the recipe lets only multi-label have several columns"
        self.names = (recipe.data.label,)

    def learn_labels(self, examples: Sequence[TextExample]) -> None:
        numbers = np.array([_number(example) for example in examples])
        self.mean, self.deviation = float(numbers.mean()), float(numbers.std())
        if not self.deviation:
            raise DataError(f"Every training example has the number {self.mean:g}; there is nothing to be learned.")

    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        return np.array([(_number(example) - self.mean) / self.deviation], dtype=np.float32)

    def predictions(self, encoded: Encoded[TextExample], outputs: Outputs) -> list[Scores]:
        return [said * self.deviation + self.mean for said in outputs]

    @torch.no_grad()
    def finish(self, model: TaskModel) -> None:
        """Let the model say numbers as they are in the data."""
        model.classifier.weight.mul_(self.deviation)
        model.classifier.bias.mul_(self.deviation).add_(self.mean)

    def measures(self, examples: Sequence[TextExample], predictions: Sequence[Scores]) -> dict[str, Measure]:
        both = (np.concatenate(predictions), np.array([_number(example) for example in examples]))
        return {name: Measure(_NUMBER_METRICS[name], both) for name in self.metric_names}

    def guess(self, train: Sequence[TextExample], examples: Sequence[TextExample]) -> list[Scores]:
        """The mean."""
        return [np.array([self.mean])] * len(examples)

    def judge(self, example: TextExample, prediction: Scores) -> Judgement:
        expected, predicted = _number(example), float(prediction[0])
        return self.judgement(example, expected, predicted, abs(expected - predicted), prediction)


def _root_mean_square(predictions: Scores, references: Scores) -> float:
    return float(np.sqrt(np.mean((np.asarray(predictions) - np.asarray(references)) ** 2)))


_CLASS_METRICS: dict[str, Metric] = {"accuracy": accuracy, "f1_macro": macro_f1, "matthews": matthews}
_LABEL_METRICS: dict[str, Metric] = {
    "f1_micro": multilabel_f1,
    "f1_macro": partial(multilabel_f1, average="macro"),
    "exact": accuracy,
}
_NUMBER_METRICS: dict[str, Metric] = {"spearman": spearman, "pearson": pearson, "error": _root_mean_square}


def _number(example: TextExample) -> float:
    assert isinstance(example.label, float), "read as a number"
    return example.label


def _several(example: TextExample) -> tuple[str, ...]:
    assert isinstance(example.label, tuple), "read as several classes"
    return example.label


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", "."))
    except ValueError:
        return False
    return True


def _ordered(names: set[str]) -> tuple[str, ...]:
    """By number if all are whole numbers, otherwise by name."""
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
