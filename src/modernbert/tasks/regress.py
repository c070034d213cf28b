"""Predict a number for each text, or pair of texts."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from modernbert.errors import DataError
from modernbert.model.heads import TaskModel
from modernbert.tasks.metrics import Metric, pearson, root_mean_squared_error, spearman
from modernbert.tasks.task import Encoded, ExampleResult, Measure, Outputs, TaskSettings
from modernbert.tasks.texts import LabelKind, Scores, TextExample, TextTask

_METRICS: dict[str, Metric] = {"spearman": spearman, "pearson": pearson, "error": root_mean_squared_error}


class Regress(TextTask):
    """A number for each text, learned as its standard score in the training set."""

    name = "regress"
    label_kind: ClassVar[LabelKind] = "number"
    problem_type = "regression"
    metric_names = ("spearman", "pearson", "error")
    mean = 0.0
    deviation = 1.0

    def __init__(self, settings: TaskSettings, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__(settings, tokenizer, max_length)
        assert isinstance(self.columns.label, str), "the recipe lets only multi-label have several columns"
        self.names = (self.columns.label,)

    def learn_labels(self, examples: Sequence[TextExample]) -> None:
        numbers = np.array([_number(example) for example in examples])
        self.mean, self.deviation = float(numbers.mean()), float(numbers.std())
        if not self.deviation:
            raise DataError(f"Every training example has the number {self.mean:g}; there is nothing to learn.")

    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        return np.array([(_number(example) - self.mean) / self.deviation], dtype=np.float32)

    def predictions(self, encoded: Encoded[TextExample], outputs: Outputs) -> list[Scores]:
        return [one * self.deviation + self.mean for one in super().predictions(encoded, outputs)]

    @torch.no_grad()
    def finalize(self, model: TaskModel) -> None:
        """Scale the outputs of the model to the numbers of the data."""
        model.classifier.weight.mul_(self.deviation)
        model.classifier.bias.mul_(self.deviation).add_(self.mean)

    def measures(self, examples: Sequence[TextExample], predictions: Sequence[Scores]) -> dict[str, Measure]:
        both = (np.concatenate(predictions), np.array([_number(example) for example in examples]))
        return {name: Measure(_METRICS[name], both) for name in self.metric_names}

    def baseline(self, train: Sequence[TextExample], examples: Sequence[TextExample]) -> list[Scores]:
        """The mean of the training set."""
        return [np.array([self.mean])] * len(examples)

    def result(self, example: TextExample, prediction: Scores) -> ExampleResult:
        expected, predicted = _number(example), float(prediction[0])
        return self.text_result(example, expected, predicted, abs(expected - predicted), prediction)


def _number(example: TextExample) -> float:
    assert isinstance(example.label, float), "read as a number"
    return example.label
