"""What a fine-tuning run is: a frozen value read from TOML."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from modernbert.config import Config, Seed, check_directory, load, parse
from modernbert.errors import ConfigError
from modernbert.run_metrics import TrackerName
from modernbert.tasks.reading import Source
from modernbert.text.records import told_format

TaskName = Literal["classify", "multi-label", "regress", "tokens", "answer", "choose"]


class TaskData(Config):
    """Labelled files and the names of their columns. A path alone is a source of the format that its name tells."""

    train: Source
    validation: Source | None = None  # chooses the best epoch
    test: Source | None = None  # read when training is over
    held_out: float = Field(0.1, ge=0, lt=1)  # part of `train` that is the validation set where none is named
    text: str = "text"
    pair: str | None = None  # a second text, read after the first
    label: str | tuple[str, ...] = "label"  # several columns, each 0 or 1, for multi-label
    separator: str = ","  # between the labels of multi-label, where they stand in one column
    spans: str = "entities"  # tokens: spans with offsets in characters
    words: str | None = (
        None  # tokens: words and tags instead; CoNLL files have both by themselves, and by their numbers
    )
    tags: str | None = None
    joined_by: str = " "  # what stands between words
    inside_words: bool = False  # tokens: spans may begin and end between two letters of a word
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    identifier: str | None = "id"
    choices: str | tuple[str, ...] = "choices"

    @field_validator("words", "tags", mode="before")
    @classmethod
    def _as_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Training(Config):
    """How it is trained. Examples of an update are packed, so that their lengths cost nothing but themselves."""

    epochs: PositiveInt = 3
    batch_examples: PositiveInt = 64
    batch_tokens: PositiveInt | None = None  # of an update, in place of a number of examples
    learning_rate: PositiveFloat = 5e-5
    schedule: Literal["linear", "one_minus_sqrt", "constant"] = "linear"
    warmup: float = Field(0.1, ge=0, lt=1)  # part of the run
    weight_decay: float = Field(1e-5, ge=0)
    max_grad_norm: NonNegativeFloat = 1.0  # longer gradients are cut to it; 0: as they are
    layer_decay: float = Field(1.0, gt=0, le=1)  # the learning rate of a layer is so many times that of the one above
    freeze_embeddings: bool = False
    freeze_layers: NonNegativeInt = 0  # the first ones; the embeddings with them
    dropout: float = Field(0.0, ge=0, lt=1)  # before the classifier
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    evaluations_per_epoch: PositiveInt = 1
    patience: PositiveInt | None = None  # evaluations without a better one, after which training ends
    metric: str | None = None  # that says which evaluation is the best; the task's own unless set


class Machine(Config):
    """How it runs here. Nothing of this changes what is learned, save the precision."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # bf16 where it is fast, otherwise fp32
    microbatch_tokens: PositiveInt = 8192  # at once in one process
    activation_checkpointing: bool = False  # compute each layer twice rather than keep what is inside it
    compile: bool = False
    checkpoint_every_steps: PositiveInt | None = None  # beside those at every evaluation
    trackers: tuple[TrackerName, ...] = ()  # are sent the lines of metrics.jsonl
    project: str = Field("modernbert", min_length=1)  # under which wandb and trackio list the run


class Search(Config):
    """What `--search` tries; as published for GLUE, where not set."""

    learning_rate: tuple[PositiveFloat, ...] = Field((1e-5, 3e-5, 5e-5, 8e-5), min_length=1)
    weight_decay: tuple[NonNegativeFloat, ...] = Field((1e-6, 5e-6, 8e-6, 1e-5), min_length=1)
    epochs: tuple[PositiveInt, ...] = Field((1, 2, 3), min_length=1)
    trials: PositiveInt | None = (
        None  # so many, drawn between the smallest and the largest value; unset, every combination
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.trials is not None and not min(self.weight_decay):
            raise ValueError("weight_decay holds 0, and trials are drawn by its logarithm; leave out the 0 or trials")
        return self


class FinetuneRecipe(Config):
    """A whole fine-tuning run."""

    task: TaskName
    model: str  # a folder or hub id: an encoder, a masked language model, or a model of another task
    random_weights: bool = False  # draw all of them afresh: what the model's own are worth is the difference
    data: TaskData
    output: Path
    max_length: PositiveInt | None = None  # tokens; what the model reads unless set
    overlap_tokens: NonNegativeInt | None = None  # between windows of a longer text; 128 or a quarter of max_length
    max_answer_tokens: PositiveInt = 64
    pooling: Literal["mean", "cls"] | None = None  # the model's unless set
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    skip_bad: bool = False  # leave out examples that are wrong, and count them
    training: Training = Training()
    machine: Machine = Machine()
    search: Search = Search()

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "seed" in values:
            if "seeds" in values:
                raise ValueError("set seed or seeds, not both")
            values = {key: value for key, value in values.items() if key != "seed"} | {"seeds": [values["seed"]]}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_directory(self.output, "output")
        if self.training.class_weights != "none" and self.task not in ("classify", "multi-label", "tokens"):
            raise ValueError(f"class_weights is set, but the task {self.task!r} has no classes")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds names one of them twice")
        if not isinstance(self.data.label, str) and self.task != "multi-label":
            raise ValueError(f"data.label names several columns, which is for multi-label, not for {self.task!r}")
        return self


DEFAULT_MODEL = "answerdotai/ModernBERT-base"


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> FinetuneRecipe:
    """A recipe; or labelled texts themselves, which are then to be classified into a folder named after them.

    Of CoNLL files the tagged words are to be found.

    Raises:
        ConfigError: the file is missing or no recipe, or an override does not fit.
    """
    told = told_format(path)
    if told is None:
        return load(FinetuneRecipe, path, overrides)
    if not path.exists():
        raise ConfigError(f"There is no file {path}: give the path of a recipe, or of labelled texts.")
    name = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    values = {
        "task": "tokens" if told == "conll" else "classify",
        "model": DEFAULT_MODEL,
        "output": str(Path("output") / name.stem),
        "data": {"train": str(path)},
    }
    return parse(FinetuneRecipe, values, str(path), overrides)
