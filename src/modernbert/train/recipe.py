"""The recipe of a pretraining run: a frozen value read from TOML. Lengths are in tokens."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from modernbert.config import Config, Seed, check_directory
from modernbert.model.config import EncoderConfig
from modernbert.run_metrics import TrackerName

_MAX_BATCH_SIZES = 10_000  # while the batch grows


class Schedule(Config):
    """The learning rate over one phase: linear warm-up, then constant or falling to `final_ratio` of the peak.

    `one_minus_sqrt` falls as 1 - sqrt(progress) (Hägele et al. 2024, arXiv 2405.18392).
    """

    kind: Literal["constant", "one_minus_sqrt"] = "constant"
    peak_lr: PositiveFloat = 8e-4
    warmup_tokens: NonNegativeInt = 0
    final_ratio: float = Field(0.001, ge=0, le=1)

    def learning_rate(self, tokens: int, phase_tokens: int) -> float:
        """The learning rate of the update after which `tokens` of the phase's `phase_tokens` are read."""
        if tokens < self.warmup_tokens:
            return self.peak_lr * tokens / self.warmup_tokens
        if self.kind == "constant":
            return self.peak_lr
        progress = min(1.0, (tokens - self.warmup_tokens) / max(1, phase_tokens - self.warmup_tokens))
        return self.peak_lr * (self.final_ratio + (1 - self.final_ratio) * (1 - progress**0.5))


class BatchSize(Config):
    """Tokens of one update. With a warm-up, it grows from `start` in steps of `start`, each with as many updates."""

    tokens: PositiveInt
    start: PositiveInt | None = None
    warmup_tokens: NonNegativeInt = 0

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"tokens": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.start is None) != (self.warmup_tokens == 0):
            raise ValueError("a batch warm-up needs both start and warmup_tokens")
        if self.start is not None and self.start > self.tokens:
            raise ValueError(f"the batch starts at {self.start} tokens, above its final {self.tokens}")
        if self.start is not None and self.tokens // self.start > _MAX_BATCH_SIZES:
            raise ValueError(
                f"the batch starts at {self.start} tokens, less than 1 / {_MAX_BATCH_SIZES:,} of {self.tokens}"
            )
        return self

    def growth(self) -> tuple[list[int], int]:
        """The sizes of the batch in order, and the number of updates at each size except the last."""
        if self.start is None:
            return [self.tokens], 1
        sizes = [*range(self.start, self.tokens, self.start), self.tokens]
        return sizes, max(1, round(self.warmup_tokens / sum(sizes)))

    def at(self, update: int) -> int:
        """Tokens of update number `update` of the phase, counted from 0."""
        sizes, each = self.growth()
        return sizes[min(update // each, len(sizes) - 1)]


class Phase(Config):
    """One stage of the run. Keys that a phase does not set are those of the previous phase (except warm-ups)."""

    tokens: PositiveInt
    max_length: PositiveInt = 1024
    mask_ratio: float = Field(0.3, gt=0, lt=1)
    mixture: dict[str, PositiveFloat]
    max_repeats: PositiveFloat | None = None  # maximum number of epochs of a source; the other sources replace it
    schedule: Schedule = Schedule()
    batch_tokens: BatchSize
    weight_decay: float | None = Field(None, ge=0)  # unset: that of the optimizer
    global_rope_theta: PositiveFloat | None = None  # unset: that of the start model, or 10,000
    local_rope_theta: PositiveFloat | None = None


class Optimizer(Config):
    """StableAdamW's constants."""

    betas: tuple[float, float] = (0.9, 0.98)
    eps: PositiveFloat = 1e-6
    weight_decay: float = Field(1e-5, ge=0)


class Validation(Config):
    """Held-out documents of every source, and their evaluation, with a fixed 15 % of the tokens masked."""

    fraction: float = Field(0.005, gt=0, lt=1)
    every_steps: PositiveInt = 500
    tokens: PositiveInt = 65_536
    mask_ratio: float = Field(0.15, gt=0, lt=1)


class Data(Config):
    """A shard folder, or those of its documents that have between `min_tokens` and `max_tokens` tokens."""

    bare_key: ClassVar[str | None] = "path"

    path: Path
    min_tokens: NonNegativeInt = 0
    max_tokens: PositiveInt | None = None


class Run(Config):
    """The directory and the execution of the run. Only the precision changes the result."""

    directory: Path
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # bf16 where it is fast (on CUDA always), otherwise fp32
    microbatch_tokens: PositiveInt = 16_384  # at once in one process
    parallel: Literal["ddp", "fsdp"] = "ddp"  # several processes: copies of the model, or shards of it
    activation_checkpointing: bool = False  # compute each layer twice to save memory
    compile: bool = False
    half_residual: bool = False  # bf16 on CUDA: also the residual stream in bf16, a few percent faster and less exact
    cuda_graphs: Literal["auto", "off"] = "auto"  # in one process on CUDA in bf16, without the two above
    log_every_steps: PositiveInt = 10
    trackers: tuple[TrackerName, ...] = ()  # services that receive the lines of metrics.jsonl
    project: str = Field("modernbert", min_length=1)  # project name in wandb and trackio
    checkpoint_every_steps: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2  # number of newest checkpoints
    keep_best: NonNegativeInt = 0  # number of best checkpoints by validation loss, besides the newest
    keep_every_tokens: PositiveInt | None = (
        None  # keep a checkpoint permanently each time this number of tokens is read
    )


class Model(Config):
    """The architecture: a preset with changes, or a model folder to start from, with its weights.

    Values that are set besides `start` must be those of the folder.
    """

    start: str | None = None  # a folder or hub id; its tokenizer may differ from that of the run
    preset: Literal["base", "large"] = "base"
    hidden_size: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None
    global_attn_every_n_layers: PositiveInt | None = None
    local_attention: PositiveInt | None = None
    attention_output_dropout: float = Field(0.1, ge=0, lt=1)

    def config(self, **vocabulary: int) -> EncoderConfig:
        """The configuration of the encoder, with values from the tokenizer and the phases."""
        changes = self.model_dump(exclude_none=True, exclude={"preset", "start"})
        return (EncoderConfig.large if self.preset == "large" else EncoderConfig.base)(**changes, **vocabulary)


class PretrainRecipe(Config):
    """A complete pretraining run. `data` has the sources that the phases mix."""

    tokenizer: str
    data: dict[str, Data]
    run: Run
    phases: dict[str, Phase] = Field(min_length=1)
    seed: Seed = 0
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        phases = values.get("phases") if isinstance(values, dict) else None
        if not isinstance(phases, dict) or not all(isinstance(phase, dict) for phase in phases.values()):
            return values
        resolved: dict[str, dict[str, Any]] = {}
        inherited: dict[str, Any] = {}
        for name, phase in phases.items():
            resolved[name] = {**inherited, **phase}
            if isinstance(phase.get("schedule"), dict) and isinstance(inherited.get("schedule"), dict):
                resolved[name]["schedule"] = inherited["schedule"] | phase["schedule"]
            inherited = {key: value for key, value in resolved[name].items() if key != "tokens"}
            for key in ("schedule", "batch_tokens"):
                if isinstance(inherited.get(key), dict):
                    inherited[key] = {k: v for k, v in inherited[key].items() if k not in ("start", "warmup_tokens")}
        return {**values, "phases": resolved}

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_directory(self.run.directory, "run.directory")
        if not all(name.strip() for name in (*self.data, *self.phases)):
            raise ValueError("a source of [data] or a phase has no name; give it one")
        for name, phase in self.phases.items():
            if not phase.mixture:
                raise ValueError(f"phases.{name}.mixture names no source of [data]")
            if unknown := sorted(phase.mixture.keys() - self.data.keys()):
                raise ValueError(f"phases.{name}.mixture names {unknown[0]!r}, which is not in [data]")
            if phase.max_length > self.run.microbatch_tokens:
                raise ValueError(
                    f"phases.{name}.max_length {phase.max_length} is above run.microbatch_tokens "
                    f"{self.run.microbatch_tokens}, so no sequence fits"
                )
            if phase.max_length < 8 or phase.batch_tokens.at(0) < phase.max_length:
                raise ValueError(
                    f"phases.{name}: a batch must have at least one packed sequence, and a sequence at least 8 tokens"
                )
        return self
