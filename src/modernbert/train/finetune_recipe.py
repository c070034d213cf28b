"""The recipe of a fine-tuning run: a frozen value read from TOML."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import new_class
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    create_model,
    model_validator,
)

from modernbert.config import Config, Seed, check_directory, load, parse
from modernbert.errors import ConfigError
from modernbert.run_metrics import TrackerName
from modernbert.tasks.kinds import task_class
from modernbert.tasks.reading import Columns
from modernbert.tasks.task import TaskSettings
from modernbert.text.records import Source, format_of


class TaskData(Config):
    """Labelled files; the names of their columns are further keys, which depend on the task.

    A path alone is a source of the format that its name indicates.
    """

    columns_type: ClassVar[type[Columns]] = Columns

    train: Source  # the examples that the model learns from
    validation: Source | None = None  # selects the best epoch
    test: Source | None = None  # read after training
    held_out: float = Field(0.1, ge=0, lt=1)  # fraction of `train` for validation, if `validation` is not set

    @property
    def columns(self) -> Columns:
        """The names of the columns."""
        kind = self.columns_type
        return kind.model_construct(**{name: getattr(self, name) for name in kind.model_fields})

    @model_validator(mode="before")
    @classmethod
    def _without_columns_of_other_tasks(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: value
            for key, value in values.items()
            if key in cls.model_fields or key not in _OLD_COLUMNS or value != _OLD_COLUMNS[key]
        }


# The recipe.toml of older runs holds the columns of all tasks, with these defaults.
_OLD_COLUMNS = {
    "text": "text", "label": "label", "separator": ",", "spans": "entities", "joined_by": " ", "inside_words": False,
    "question": "question", "context": "context", "answers": "answers", "identifier": "id", "choices": "choices",
}  # fmt: skip


class Training(Config):
    """How the model is trained. The examples of an update are packed, so that no time is spent on padding."""

    epochs: PositiveInt = 3  # number of passes over all examples
    batch_examples: PositiveInt = 64  # number of examples in an update
    batch_tokens: PositiveInt | None = None  # number of tokens in an update, instead of examples
    learning_rate: PositiveFloat = 5e-5  # the peak; small models need 3e-4 to 5e-4
    schedule: Literal["linear", "one_minus_sqrt", "constant"] = "linear"  # learning rate after the warm-up
    warmup: float = Field(0.1, ge=0, lt=1)  # fraction of the run in which the learning rate rises
    weight_decay: float = Field(1e-5, ge=0)  # weight decay of matrices
    max_grad_norm: NonNegativeFloat = 1.0  # gradients with a larger norm are scaled down to it; 0: no limit
    layer_decay: float = Field(1.0, gt=0, le=1)  # factor from the learning rate of a layer to that of the layer below
    freeze_embeddings: bool = False  # do not train the embeddings
    freeze_layers: NonNegativeInt = 0  # number of first layers that are not trained, nor the embeddings
    dropout: float = Field(0.0, ge=0, lt=1)  # dropout before the classifier
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = (
        "none"  # weights in the loss: by frequency, or a table by name
    )
    evaluations_per_epoch: PositiveInt = 1  # number of evaluations in an epoch
    patience: PositiveInt | None = None  # number of evaluations without improvement, after which training stops
    metric: str | None = None  # selects the best evaluation; unset: the first metric of the task


class Machine(Config):
    """How the run executes. Only the precision changes the result."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # the device
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # `auto`: bf16 where it is faster, otherwise fp32
    microbatch_tokens: PositiveInt = 8192  # number of tokens in a microbatch of one process
    activation_checkpointing: bool = False  # save memory by computing each layer twice
    compile: bool = False  # compile the layers
    checkpoint_every_steps: PositiveInt | None = None  # additional checkpoints, besides those at every evaluation
    trackers: tuple[TrackerName, ...] = ()  # services that receive the lines of metrics.jsonl
    project: str = Field("modernbert", min_length=1)  # project name in wandb and trackio


class Search(Config):
    """What `--search` tries; the defaults are those published for GLUE."""

    learning_rate: tuple[PositiveFloat, ...] = Field((1e-5, 3e-5, 5e-5, 8e-5), min_length=1)  # values to try
    weight_decay: tuple[NonNegativeFloat, ...] = Field((1e-6, 5e-6, 8e-6, 1e-5), min_length=1)  # values to try
    epochs: tuple[PositiveInt, ...] = Field((1, 2, 3), min_length=1)  # values to try
    trials: PositiveInt | None = (
        None  # number of samples between the smallest and the largest value; unset: every combination
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.trials is not None and not min(self.weight_decay):
            raise ValueError("weight_decay holds 0, and trials are sampled by its logarithm; leave out the 0 or trials")
        return self


class SeededRecipe(Config):
    """A recipe with one run for each of its `seeds`; `seed` sets a single one."""

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "seed" in values:
            if "seeds" in values:
                raise ValueError("set seed or seeds, not both")
            values = {key: value for key, value in values.items() if key != "seed"} | {"seeds": [values["seed"]]}
        return values


class FinetuneRecipe(SeededRecipe):
    """A whole fine-tuning run."""

    task: str  # classify, multi-label, regress, tokens, answer or choose
    model: str  # a folder or hub id: an encoder, a masked language model, or a model of another task
    random_weights: bool = False  # start from random weights, to measure what pretraining contributes
    data: TaskData
    output: Path  # the folder of the result
    max_length: PositiveInt | None = None  # maximum tokens; unset: what the model reads
    overlap_tokens: NonNegativeInt | None = (
        None  # overlap of windows over a longer text; unset: 128 or a quarter of `max_length`
    )
    max_answer_tokens: PositiveInt = 64  # answer: maximum length of an answer
    pooling: Literal["mean", "cls"] | None = None  # unset: as in the model
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)  # one run each; mean, deviation, and the best model are kept
    skip_bad: bool = False  # leave out examples that are not valid, and count them
    training: Training = Training()
    machine: Machine = Machine()
    search: Search = Search()

    @classmethod
    def for_values(cls, values: Mapping[str, Any]) -> "type[FinetuneRecipe]":
        """The recipe of one task, whose `data` has the columns of that task.

        Raises:
            ConfigError: there is no such task.
        """
        task = values.get("task")
        return _recipe_of(task) if isinstance(task, str) else cls

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_directory(self.output, "output")
        if self.training.class_weights != "none" and not task_class(self.task).has_classes:
            raise ValueError(f"class_weights is set, but the task {self.task!r} has no classes")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds has a seed twice")
        return self

    def task_settings(self) -> TaskSettings:
        """The part of the recipe that the task reads."""
        return TaskSettings(
            columns=self.data.columns,
            max_length=self.max_length,
            overlap_tokens=self.overlap_tokens,
            max_answer_tokens=self.max_answer_tokens,
            class_weights=self.training.class_weights,
            skip_bad=self.skip_bad,
        )


@cache
def data_class(task: str) -> type[TaskData]:
    """The section `data` of the recipes of a task, with its columns.

    Raises:
        ConfigError: there is no such task.
    """
    columns = task_class(task).columns_type
    bases: Any = (TaskData, columns)
    return new_class("TaskData", bases, exec_body=lambda body: body.update(__module__=__name__, columns_type=columns))


@cache
def _recipe_of(task: str) -> type[FinetuneRecipe]:
    return create_model("FinetuneRecipe", __base__=FinetuneRecipe, __module__=__name__, data=(data_class(task), ...))


DEFAULT_MODEL = "answerdotai/ModernBERT-base"


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> FinetuneRecipe:
    """A recipe; or the default recipe for labelled data, whose output folder is named after the file.

    The task is `tokens` for CoNLL files, and otherwise `classify`.

    Raises:
        ConfigError: the file is missing or not a recipe, or an override is invalid.
    """
    format = format_of(path)
    if format is None:
        return load(FinetuneRecipe, path, overrides)
    if not path.exists():
        raise ConfigError(f"There is no file {path}: give the path of a recipe, or of labelled texts.")
    name = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    values = {
        "task": "tokens" if format == "conll" else "classify",
        "model": DEFAULT_MODEL,
        "output": str(Path("output") / name.stem),
        "data": {"train": str(path)},
    }
    return parse(FinetuneRecipe, values, str(path), overrides)
