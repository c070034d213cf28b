"""What a task is to the training loop: examples in, packed batches and their loss, predictions and their worth."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.model.config import EncoderConfig
from modernbert.model.heads import TaskModel
from modernbert.packed import Sequences
from modernbert.tasks.metrics import Interval, Metric, bootstrap
from modernbert.tasks.outputs import overlap
from modernbert.tasks.reading import Examples, Source
from modernbert.tasks.recipe import FinetuneRecipe
from modernbert.text.examples import ChoiceExample, QuestionExample, SpanExample, TextExample
from modernbert.text.framing import Ids

E = TypeVar("E", TextExample, SpanExample, QuestionExample, ChoiceExample)
P = TypeVar("P")

Outputs = Sequence[npt.NDArray[np.floating]]  # what the model says of each sequence, in their order


@dataclass(frozen=True, eq=False)
class Item:
    """What is learned at once: one sequence of ids, or one for each choice, and the label.

    The label is a class (), numbers (labels,), classes of tokens (tokens,), or the two ends of an answer (2,).
    """

    sequences: tuple[Ids, ...]
    label: npt.NDArray[np.generic]

    @property
    def num_tokens(self) -> int:
        return sum(len(ids) for ids in self.sequences)


@dataclass(frozen=True, eq=False)
class Encoded(Generic[E]):
    """Examples as a model reads them. `state` is what the task needs to make predictions of the outputs."""

    examples: list[E]
    items: list[Item]
    state: Any = None
    notes: Mapping[str, int] = field(default_factory=dict)  # what was cut or lost, counted
    lost: Sequence[str] = ()  # labels that no prediction can give back, each with its place in a file

    @property
    def sequences(self) -> list[Ids]:
        return [ids for item in self.items for ids in item.sequences]


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric, and the aligned values that it is taken of: element i of each belongs to example i."""

    metric: Metric
    values: tuple[npt.NDArray[Any], ...]

    def value(self) -> float:
        return self.metric(*self.values)

    def interval(self) -> Interval:
        """The value between its confidence bounds."""
        return bootstrap(self.metric, *self.values, samples=1000 if len(self.values[0]) <= 10_000 else 200)


@dataclass(frozen=True)
class Judgement:
    """One example, what the model says of it and how wrong that is: 0 is right, the worst has the most."""

    text: str
    expected: str
    predicted: str
    wrong: float
    record: Mapping[str, Any]  # for predictions.jsonl


class Task(ABC, Generic[E, P]):
    """One kind of task on one kind of examples, E, which are predicted as P."""

    head: ClassVar[type[TaskModel]]
    metric_names: ClassVar[tuple[str, ...]]  # the first says which evaluation is the best, unless the recipe does

    def __init__(self, recipe: FinetuneRecipe, tokenizer: Tokenizer, max_length: int) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.stride = overlap(max_length) if recipe.overlap_tokens is None else recipe.overlap_tokens

    @abstractmethod
    def examples(self, source: Source) -> Examples[E]:
        """The labelled examples of a source. Labels that `learn_labels` has not seen are an error."""

    def check(self, examples: Sequence[E]) -> None:
        """See that training examples, as they were read, are of this task.

        Raises:
            DataError: they are not, which no single one of them tells.
        """

    def learn_labels(self, examples: Sequence[E]) -> None:
        """Find the labels in the training examples."""

    def recall(self, config: EncoderConfig) -> None:
        """Take what `learn_labels` has learned from the configuration of a model that was trained for this task.

        Raises:
            ConfigError: its labels are not of the kind that this task gives.
        """

    def look_at(self, examples: Sequence[E]) -> None:
        """See in examples what does not depend on their labels and the model does not keep."""

    def group(self, example: E) -> str:
        """Examples with the same are never on both sides of a split."""
        return str(example.origin)

    def labels_of(self, example: E) -> Sequence[str]:
        """The labels of one example that `learn_labels` can learn: a split leaves each of them in the training set."""
        return ()

    def stratum(self, example: E) -> str:
        """Every one of these gives its share to a split."""
        return ""

    def changes(self) -> dict[str, Any]:
        """What the configuration of the model says of this task."""
        return {
            "id2label": None,
            "problem_type": None,
            "label_words": None,
            "span_units": None,
            "joined_by": None,
            "reads_pairs": False,
            "read_tokens": self.recipe.max_length,
            "overlap_tokens": self.recipe.overlap_tokens,
            "max_answer_tokens": self.recipe.max_answer_tokens,
        }

    def weights(self, examples: Sequence[E]) -> Tensor | None:
        """How much each class counts in the loss; None if all are equal."""
        return None

    @abstractmethod
    def encode(self, examples: list[E]) -> Encoded[E]:
        """Examples as token ids and labels."""

    def labels(self, items: Sequence[Item]) -> Tensor:
        """The labels of a batch, as the head takes them."""
        return torch.from_numpy(np.stack([item.label for item in items]))

    def total(self, items: Sequence[Item], weights: Tensor | None) -> float:
        """What the losses of these items are divided by in all."""
        return float(len(items))

    def loss(self, model: TaskModel, items: Sequence[Item], total: float, weights: Tensor | None) -> Tensor:
        """The part of a batch's loss that these items give."""
        device = next(model.parameters()).device
        tokens = torch.from_numpy(np.concatenate([ids for item in items for ids in item.sequences]))
        sequences = Sequences.from_lengths(len(ids) for item in items for ids in item.sequences)
        labels = self.labels(items).to(device)
        return self.head_loss(model, tokens.to(device), sequences.to(device), labels, items, total, weights)

    @abstractmethod
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
        """The head's own loss."""

    @abstractmethod
    def predictions(self, encoded: Encoded[E], outputs: Outputs) -> list[P]:
        """One for each example."""

    @abstractmethod
    def measures(self, examples: Sequence[E], predictions: Sequence[P]) -> dict[str, Measure]:
        """Every metric of this task, with what it is taken of. Higher is better, but of errors."""

    def metrics(self, examples: Sequence[E], predictions: Sequence[P]) -> dict[str, float]:
        """How good predictions are."""
        return {name: measure.value() for name, measure in self.measures(examples, predictions).items()}

    def guess(self, train: Sequence[E], examples: Sequence[E]) -> list[P] | None:
        """What one would say without looking at the texts, or None if there is no such thing."""
        return None

    @abstractmethod
    def judge(self, example: E, prediction: P) -> Judgement:
        """One example beside its prediction."""

    def count_labels(self, examples: Sequence[E]) -> dict[str, int]:
        """How often each label occurs."""
        return {}

    def confusion(
        self, examples: Sequence[E], predictions: Sequence[P]
    ) -> tuple[Sequence[str], npt.NDArray[np.int64]] | None:
        """Names, and how often each (row) was taken for each (column); None where there are no classes."""
        return None

    def finish(self, model: TaskModel) -> None:
        """Give a trained model what it has to know outside of training."""


def balanced(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Weights under which every class counts the same in all, and the examples as much as without weights."""
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clip(min=1))
    return np.where(present, weights, 1.0).astype(np.float32)


def named_weights(given: Mapping[str, float], labels: Sequence[str]) -> npt.NDArray[np.float32]:
    """The weights that a recipe gives to labels; 1 for the others.

    Raises:
        ConfigError: one of the labels does not exist.
    """
    for name in given:
        if name not in labels:
            raise ConfigError(f"training.class_weights names {name!r}, which is none of {', '.join(labels)}.")
    return np.array([given.get(label, 1.0) for label in labels], dtype=np.float32)
