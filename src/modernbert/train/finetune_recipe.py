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
    test: Source | None = None  # read when training is over
    held_out: float = Field(0.1, ge=0, lt=1)  # fraction of `train` that is the validation set where none is named

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
    """How it is trained. Examples of an update are packed, so that their lengths cost nothing but themselves."""

    epochs: PositiveInt = 3  # how often all examples are read
    batch_examples: PositiveInt = 64  # of an update
    batch_tokens: PositiveInt | None = None  # of an update, in place of a number of examples
    learning_rate: PositiveFloat = 5e-5  # the highest one; small models want 3e-4 to 5e-4
    schedule: Literal["linear", "one_minus_sqrt", "constant"] = "linear"  # of the learning rate after the warm-up
    warmup: float = Field(0.1, ge=0, lt=1)  # fraction of the run
    weight_decay: float = Field(1e-5, ge=0)  # on matrices
    max_grad_norm: NonNegativeFloat = 1.0  # longer gradients are scaled to it; 0: no limit
    layer_decay: float = Field(1.0, gt=0, le=1)  # the learning rate of a layer is this many times that of the one above
    freeze_embeddings: bool = False  # keep the embeddings as they are
    freeze_layers: NonNegativeInt = 0  # the first ones; the embeddings with them
    dropout: float = Field(0.0, ge=0, lt=1)  # before the classifier
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"  # by frequency, or by name
    evaluations_per_epoch: PositiveInt = 1  # on the validation set
    patience: PositiveInt | None = None  # evaluations without a better one, after which training ends
    metric: str | None = None  # selects the best evaluation; the task's own unless set


class Machine(Config):
    """How it runs here. Nothing of this changes what is learned, save the precision."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # where it runs
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # bf16 where it is fast, otherwise fp32
    microbatch_tokens: PositiveInt = 8192  # at once in one process
    activation_checkpointing: bool = False  # compute each layer twice rather than keep what is inside it
    compile: bool = False  # compile the layers
    checkpoint_every_steps: PositiveInt | None = None  # beside those at every evaluation
    trackers: tuple[TrackerName, ...] = ()  # are sent the lines of metrics.jsonl
    project: str = Field("modernbert", min_length=1)  # under which wandb and trackio list the run


class Search(Config):
    """What `--search` tries; as published for GLUE, where not set."""

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
    random_weights: bool = False  # initialize all of them: the difference is what pretraining contributes
    data: TaskData
    output: Path  # the folder of the result
    max_length: PositiveInt | None = None  # tokens; what the model reads unless set
    overlap_tokens: NonNegativeInt | None = None  # between windows of a longer text; 128 or a quarter of max_length
    max_answer_tokens: PositiveInt = 64  # the longest answer of `answer`
    pooling: Literal["mean", "cls"] | None = None  # the model's unless set
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
            raise ValueError("seeds names one of them twice")
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
        ConfigError: the file is missing or no recipe, or an override does not fit.
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
