"""The interface between a task and the training loop: examples, packed batches and their loss, predictions, metrics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.model.config import EncoderConfig
from modernbert.model.heads import TaskModel
from modernbert.packed import Sequences
from modernbert.tasks.folder_settings import FolderSettings
from modernbert.tasks.metrics import Interval, Metric, bootstrap
from modernbert.tasks.outputs import default_overlap
from modernbert.tasks.reading import Columns, Examples, composed
from modernbert.text.framing import Ids
from modernbert.text.records import Origin, Source

E = TypeVar("E")
P = TypeVar("P")

Outputs = Sequence[npt.NDArray[np.floating]]  # of the head, one array for each sequence, in their order


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a task. `columns` are those of the task; lengths are in tokens."""

    columns: Columns
    max_length: int | None = None  # maximum tokens of a sequence; None: all that the encoder reads
    overlap_tokens: int | None = None  # overlap of windows over a longer text; None: 128, or a quarter of max_length
    max_answer_tokens: int = 64
    class_weights: Literal["none", "balanced"] | Mapping[str, float] = "none"
    skip_bad: bool = False  # leave out examples that are not valid, and count them


@dataclass(frozen=True, eq=False)
class Item:
    """The smallest unit of training: one sequence of ids, or one for each choice, and the label.

    The label is a class (), numbers (labels,), classes of tokens (tokens,), or begin and end of an answer (2,).
    """

    sequences: tuple[Ids, ...]
    label: npt.NDArray[np.generic]

    @property
    def num_tokens(self) -> int:
        return sum(len(ids) for ids in self.sequences)


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Packed items on the device of the model, with the arguments of their loss."""

    tokens: Tensor  # (tokens,)
    sequences: Sequences
    labels: Tensor
    sequences_per_item: tuple[int, ...]
    total: float  # the number by which the summed losses are divided
    weights: Tensor | None  # of each class


@dataclass(frozen=True, eq=False)
class Encoded(Generic[E]):
    """Examples as a model reads them. The task uses `state` to compute predictions from outputs."""

    examples: list[E]
    items: list[Item]
    state: Any = None
    notes: Mapping[str, int] = field(default_factory=dict)  # counts of truncated texts, lost labels and windows
    lost: Sequence[str] = ()  # labels that no prediction can equal, each with its file and line

    @property
    def sequences(self) -> list[Ids]:
        return [ids for item in self.items for ids in item.sequences]


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric and its aligned arguments: element i of each belongs to example i."""

    metric: Metric
    values: tuple[npt.NDArray[Any], ...]

    def value(self) -> float:
        return self.metric(*self.values)

    def interval(self) -> Interval:
        """The value and its confidence interval."""
        return bootstrap(self.metric, *self.values, samples=1000 if len(self.values[0]) <= 10_000 else 200)


@dataclass(frozen=True)
class ExampleResult:
    """An example and its prediction, as text. `error` is 0 if the prediction is correct; larger is worse."""

    text: str
    expected: str
    predicted: str
    error: float
    record: Mapping[str, Any]  # for predictions.jsonl


class Task(ABC, Generic[E, P]):
    """One kind of task on examples of type E, whose predictions have type P."""

    name: ClassVar[str]  # in recipes and in the table of kinds
    head: ClassVar[type[TaskModel]]
    columns_type: ClassVar[type[Columns]]
    metric_names: ClassVar[tuple[str, ...]]  # the first one selects the best model, unless the recipe names another
    has_classes: ClassVar[bool] = False  # whether class weights are supported
    problem_type: ClassVar[str | None] = None  # as `transformers` calls it

    def __init__(self, settings: TaskSettings, tokenizer: Tokenizer, max_length: int) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.max_length = max_length
        overlap = settings.overlap_tokens
        self.overlap_tokens = default_overlap(max_length) if overlap is None else overlap

    @abstractmethod
    def examples(self, source: Source) -> Examples[E]:
        """The labelled examples of a source. A label that `learn_labels` has not seen is an error."""

    def check(self, examples: Sequence[E]) -> None:
        """Check the training set for mistakes that a single example does not show.

        Raises:
            DataError: the examples are not of this task.
        """

    def learn_labels(self, examples: Sequence[E]) -> None:
        """Collect the labels of the training examples."""

    def restore_labels(self, config: EncoderConfig) -> None:
        """Restore what `learn_labels` collects from the configuration of a model that was trained for this task.

        Raises:
            ConfigError: the labels of the model do not have the form of this task.
        """

    def prepare_metrics(self, examples: Sequence[E]) -> None:
        """Derive from examples the settings of the metrics that a model folder does not have."""

    def group(self, example: E) -> str:
        """Examples of the same group are never on both sides of a split."""
        return str(getattr(example, "origin", id(example)))

    def labels_of(self, example: E) -> Sequence[str]:
        """The labels of an example. A split keeps at least one example of every label in the training set."""
        return ()

    def stratum(self, example: E) -> str:
        """A split holds out the same fraction of every stratum."""
        return ""

    def folder_settings(self) -> FolderSettings:
        """The settings of this task in the model folder."""
        return FolderSettings(**self.common_settings())

    def common_settings(self) -> dict[str, Any]:
        """The settings that the folders of all tasks have."""
        return {
            "kind": self.name,
            "max_length": self.settings.max_length,
            "overlap_tokens": self.settings.overlap_tokens,
        }

    def label_names(self) -> Sequence[str] | None:
        """The names of the head's outputs, or None."""
        return None

    def config_updates(self) -> dict[str, Any]:
        """The fields of the model's configuration that belong to this task."""
        names = self.label_names()
        return {
            "id2label": None if names is None else dict(enumerate(names)),
            "problem_type": self.problem_type,
            "modernbert_task": self.folder_settings().model_dump(mode="json", exclude_none=True),
        }

    def weights(self, examples: Sequence[E]) -> Tensor | None:
        """The weight of each class in the loss; None: equal weights."""
        return None

    @abstractmethod
    def encode(self, examples: list[E]) -> Encoded[E]:
        """Examples as token ids and labels."""

    def labels(self, items: Sequence[Item]) -> Tensor:
        """The labels of a batch as one tensor for the head."""
        return torch.from_numpy(np.stack([item.label for item in items]))

    def total(self, items: Sequence[Item], weights: Tensor | None) -> float:
        """The number by which the summed losses of these items are divided."""
        return float(len(items))

    def loss(self, model: TaskModel, items: Sequence[Item], total: float, weights: Tensor | None) -> Tensor:
        """The part of these items in the loss of a batch."""
        device = next(model.parameters()).device
        tokens = torch.from_numpy(np.concatenate([ids for item in items for ids in item.sequences]))
        sequences = Sequences.from_lengths(len(ids) for item in items for ids in item.sequences)
        batch = LabelledBatch(
            tokens=tokens.to(device),
            sequences=sequences.to(device),
            labels=self.labels(items).to(device),
            sequences_per_item=tuple(len(item.sequences) for item in items),
            total=total,
            weights=weights,
        )
        return self.head_loss(model, batch)

    @abstractmethod
    def head_loss(self, model: TaskModel, batch: LabelledBatch) -> Tensor:
        """The head's own loss."""

    @abstractmethod
    def predictions(self, encoded: Encoded[E], outputs: Outputs) -> list[P]:
        """A prediction for each example, decoded by the same function as in the predictor."""

    @abstractmethod
    def measures(self, examples: Sequence[E], predictions: Sequence[P]) -> dict[str, Measure]:
        """Every metric of this task. Higher is better, except for those in `LOWER_IS_BETTER`."""

    def metrics(self, examples: Sequence[E], predictions: Sequence[P]) -> dict[str, float]:
        """The value of every metric."""
        return {name: measure.value() for name, measure in self.measures(examples, predictions).items()}

    def baseline(self, train: Sequence[E], examples: Sequence[E]) -> list[P] | None:
        """Predictions that do not depend on the texts, for comparison; None if the task has no such baseline."""
        return None

    @abstractmethod
    def result(self, example: E, prediction: P) -> ExampleResult:
        """An example and its prediction, for the report."""

    def count_labels(self, examples: Sequence[E]) -> dict[str, int]:
        """The number of occurrences of each label."""
        return {}

    def confusion(
        self, examples: Sequence[E], predictions: Sequence[P]
    ) -> tuple[Sequence[str], npt.NDArray[np.int64]] | None:
        """Class names, and the confusion matrix (expected, predicted); None if there are no classes."""
        return None

    def scores_by_label(self, examples: Sequence[E], predictions: Sequence[P]) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each label, if the task has them."""
        return {}

    def finalize(self, model: TaskModel) -> None:
        """Change a trained model so that it can be used without this task."""


def origin_fields(origin: Origin) -> dict[str, Any]:
    """The fields of a prediction's record with the origin of its example."""
    return {"file": origin.file, "line": origin.line}


def balanced(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Weights that give every class the same total; the total over all examples is as without weights."""
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clip(min=1))
    return np.where(present, weights, 1.0).astype(np.float32)


def named_weights(weights: Mapping[str, float], labels: Sequence[str]) -> npt.NDArray[np.float32]:
    """The weights that a recipe gives to labels; 1 for the others.

    Raises:
        ConfigError: one of the labels does not exist.
    """
    weight_of = {composed(name): weight for name, weight in weights.items()}
    for name in weights:
        if composed(name) not in map(composed, labels):
            raise ConfigError(f"training.class_weights names {name!r}, which is not one of {', '.join(labels)}.")
    return np.array([weight_of.get(composed(label), 1.0) for label in labels], dtype=np.float32)
