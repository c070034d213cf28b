"""What a recipe will take, without running anything: steps, operations, memory, hours and cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from modernbert.data.lengths import (
    ASSUMPTION,
    Ints,
    Rows,
    assumed_lengths,
    histogram_lengths,
    mixed_rows,
    packed_rows,
)
from modernbert.data.mixture import cap_repeats
from modernbert.data.shards import Shards
from modernbert.data.tokenizer import Vocabulary, load_tokenizer
from modernbert.errors import ConfigError, DataError
from modernbert.model.checkpoint import read_config
from modernbert.model.config import EncoderConfig
from modernbert.train.costs import (
    DEVICES,
    Device,
    Flops,
    Memory,
    Parameters,
    Setting,
    count_flops,
    count_parameters,
    estimate_memory,
)
from modernbert.train.recipe import BatchSize, Phase, PretrainRecipe

# The share of an H100's dense bf16 peak that the published base reached in its first phase: 1.719 T tokens in 194.2
# hours on eight (arXiv 2412.13663, appendix A), at the operations that `count_flops` counts for assumed lengths.
PUBLISHED_UTILISATION = 0.252
# What is not planned with: CUDA's context, communication buffers, gaps of the allocator. A choice, not a measurement.
HEADROOM = 0.1
_PUBLISHED_VOCABULARY = 50_368


@dataclass(frozen=True)
class Stage:
    """Updates of one batch size."""

    batch_tokens: int
    rows: int
    updates: int


@dataclass(frozen=True)
class PhasePlan:
    """What one phase will take."""

    name: str
    tokens: int
    max_length: int
    mask_ratio: float
    fill: float  # real tokens, [CLS] and [SEP] included, of all places in the rows
    document_tokens: float  # mean of the pieces that stand in the rows
    stages: tuple[Stage, ...]
    updates: int
    growing_updates: int  # before the batch has its final size
    lr_warmup_updates: int
    flops_per_token: Flops
    flops: float
    seconds: float | None  # None in fp32, whose peaks are not in the table
    device_seconds: float | None
    cost: float | None
    microbatch_rows: int
    passes: int  # of a microbatch, for an update of the final batch size
    memory: Memory
    fits: bool
    largest_microbatch_rows: int  # that fits; at most what one device gets of a batch


@dataclass(frozen=True)
class Implied:
    """What given hours of some phases say about the devices."""

    phases: tuple[str, ...]
    hours: float
    tokens_per_second: float  # of one device
    share_of_peak: float


@dataclass(frozen=True)
class Plan:
    """What a run will take, and the assumptions that it was reckoned with."""

    device: Device
    gpus: int
    utilisation: float
    utilisation_is_assumed: bool
    vocabulary: int
    lengths: str  # where the lengths of documents come from
    parameters: Parameters
    phases: tuple[PhasePlan, ...]
    implied: tuple[Implied, ...]

    @property
    def tokens(self) -> int:
        return sum(phase.tokens for phase in self.phases)

    @property
    def updates(self) -> int:
        return sum(phase.updates for phase in self.phases)


def plan(
    recipe: PretrainRecipe,
    *,
    device: str = "h100",
    gpus: int = 8,
    utilisation: float | None = None,
    cost_per_hour: float | None = None,
    hours: Sequence[str] = (),
    vocab_size: int | None = None,
    shards: Path | None = None,
    histogram: Path | None = None,
) -> Plan:
    """Reckon what the recipe takes on `gpus` devices. Tokenizer, shards and start need not exist.

    Lengths of documents come from `shards` or `histogram`, otherwise from the recipe's own shards where all are there,
    otherwise they are assumed. `hours` are of the form phase=194.2 or phase+phase=425.3.

    Raises:
        ConfigError: an argument has no such value, the shape of the model is not known, or a batch has fewer rows than
            there are devices.
        DataError: given lengths cannot be read, or a source has no document of the lengths that the recipe wants.
    """
    if device not in DEVICES:
        raise ConfigError(f"There is no device {device!r} in the table; choose one of {', '.join(DEVICES)}.")
    if gpus < 1:
        raise ConfigError(f"A run on {gpus} devices is none; give --gpus 1 or more.")
    share = PUBLISHED_UTILISATION if utilisation is None else utilisation
    if not 0 < share <= 1:
        raise ConfigError(f"A utilisation of {share:g} is no share of the peak; give one above 0 and at most 1.")
    chosen = DEVICES[device]
    config = model_shape(recipe, vocab_size)
    sources, description = _source_lengths(recipe, shards, histogram)
    known = not description.startswith(ASSUMPTION) and shards is None and histogram is None
    packed: dict[tuple[str, int], Rows] = {}
    phases = []
    for name, phase in recipe.phases.items():
        weights: Mapping[str, float] = phase.mixture
        if phase.max_repeats is not None and known:
            totals = {source: int(sources[source].sum()) for source in weights}
            weights = cap_repeats(weights, totals, phase.tokens, phase.max_repeats)
        rows = mixed_rows({s: _rows(packed, sources, s, phase.max_length, config) for s in weights}, weights)
        phases.append(_plan_phase(name, phase, recipe, config, rows, chosen, gpus, share, cost_per_hour))
    return Plan(
        device=chosen,
        gpus=gpus,
        utilisation=share,
        utilisation_is_assumed=utilisation is None,
        vocabulary=config.vocab_size,
        lengths=description,
        parameters=count_parameters(config),
        phases=tuple(phases),
        implied=tuple(_implied(given, phases, chosen, gpus) for given in hours),
    )


def model_shape(recipe: PretrainRecipe, vocab_size: int | None = None) -> EncoderConfig:
    """The configuration that the run would train, as far as it can be known without its tokenizer and its start.

    Raises:
        ConfigError: `model.start` is not here, and no preset says which shape it will have.
    """
    start = Path(recipe.model.start) if recipe.model.start is not None else None
    if vocab_size is None and Path(recipe.tokenizer).exists():
        vocab_size = Vocabulary.of(load_tokenizer(recipe.tokenizer)).size
    if start is not None and (start / "config.json").is_file():
        found = read_config(start)
        values = {
            "vocab_size": vocab_size or found.vocab_size,
            "attention_output_dropout": recipe.model.attention_output_dropout,
        }
        return found.model_copy(update=values)
    if start is not None and "preset" not in recipe.model.model_fields_set:
        raise ConfigError(f"{start} is not here to show its shape; write it first, or set model.preset beside it.")
    return recipe.model.config(vocab_size=vocab_size or _PUBLISHED_VOCABULARY)


def simulate_updates(
    batch: BatchSize, max_length: int, tokens: int, tokens_per_row: Fraction | int
) -> tuple[Stage, ...]:
    """The updates of a phase by batch size: what stepping through `BatchSize.at` until `tokens` are read would count.

    In whole numbers and fractions, so that it is exact over trillions of tokens.
    """
    sizes, each = batch.growth()
    stages, left = [], Fraction(tokens)
    for number, size in enumerate(sizes, 1):
        if left <= 0:
            break
        rows = max(1, size // max_length)
        wanted = math.ceil(left / (rows * tokens_per_row))
        updates = wanted if number == len(sizes) else min(each, wanted)
        stages.append(Stage(size, rows, updates))
        left -= updates * rows * tokens_per_row
    return tuple(stages)


def _plan_phase(
    name: str,
    phase: Phase,
    recipe: PretrainRecipe,
    config: EncoderConfig,
    rows: Rows,
    device: Device,
    gpus: int,
    utilisation: float,
    cost_per_hour: float | None,
) -> PhasePlan:
    run = recipe.run
    stages = simulate_updates(phase.batch_tokens, phase.max_length, phase.tokens, rows.tokens_per_row)
    if stages[0].rows < gpus:
        raise ConfigError(
            f"A batch of {stages[0].rows} rows in phases.{name} has none for some of the {gpus} devices; "
            "raise batch_tokens (and its start), or give fewer --gpus."
        )
    warmup = simulate_updates(phase.batch_tokens, phase.max_length, phase.schedule.warmup_tokens, rows.tokens_per_row)
    flops = count_flops(config, rows, phase.mask_ratio)
    work = flops.total + (flops.recomputed if run.activation_checkpointing else 0.0)
    # The table knows bf16 peaks; fp32 runs far from them.
    speed = gpus * device.peak_flops * utilisation if run.precision == "bf16" else None
    seconds = None if speed is None else phase.tokens * work / speed
    setting = Setting(run.precision, run.parallel, gpus, run.activation_checkpointing)
    share = math.ceil(stages[-1].rows / gpus)

    def memory(count: int) -> Memory:
        return estimate_memory(
            config, setting, count * phase.max_length, phase.mask_ratio, passes=math.ceil(share / count)
        )

    usable = (1 - HEADROOM) * device.memory
    largest = next((count for count in range(share, 0, -1) if memory(count).total <= usable), 0)
    at_once = min(share, run.microbatch_tokens // phase.max_length)
    return PhasePlan(
        name=name,
        tokens=phase.tokens,
        max_length=phase.max_length,
        mask_ratio=phase.mask_ratio,
        fill=rows.fill,
        document_tokens=1 / rows.pieces_per_token,
        stages=stages,
        updates=sum(stage.updates for stage in stages),
        growing_updates=sum(s.updates for s in stages if s.batch_tokens < phase.batch_tokens.tokens),
        lr_warmup_updates=sum(stage.updates for stage in warmup),
        flops_per_token=flops,
        flops=phase.tokens * flops.total,
        seconds=seconds,
        device_seconds=None if seconds is None else seconds * gpus,
        cost=None if seconds is None or cost_per_hour is None else seconds / 3600 * gpus * cost_per_hour,
        microbatch_rows=at_once,
        passes=math.ceil(share / at_once),
        memory=memory(at_once),
        fits=memory(at_once).total <= usable,
        largest_microbatch_rows=largest,
    )


def _implied(given: str, phases: Sequence[PhasePlan], device: Device, gpus: int) -> Implied:
    names, _, text = given.partition("=")
    by_name = {phase.name: phase for phase in phases}
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < math.inf:
        raise ConfigError(f"The hours {given!r} are not of the form phase=194.2 or phase+phase=425.3.")
    if unknown := [name for name in names.split("+") if name not in by_name]:
        raise ConfigError(f"There is no phase {unknown[0]!r} to have hours; the recipe has {', '.join(by_name)}.")
    chosen = [by_name[name] for name in names.split("+")]
    seconds = hours * 3600 * gpus
    return Implied(
        phases=tuple(phase.name for phase in chosen),
        hours=hours,
        tokens_per_second=sum(phase.tokens for phase in chosen) / seconds,
        share_of_peak=sum(phase.flops for phase in chosen) / seconds / device.peak_flops,
    )


def _source_lengths(recipe: PretrainRecipe, shards: Path | None, histogram: Path | None) -> tuple[dict[str, Ints], str]:
    """The lengths of the documents of every source that train, and where they come from."""
    if shards is not None and histogram is not None:
        raise ConfigError("Lengths come from --shards or from --histogram; give one of them.")
    missing = [data.path for data in recipe.data.values() if not data.path.exists()]
    if shards is not None:
        found, description = dict.fromkeys(recipe.data, Shards.open(shards).lengths), f"those of {shards}"
    elif histogram is not None:
        found, description = dict.fromkeys(recipe.data, histogram_lengths(histogram)), f"drawn from {histogram}"
    elif missing:
        found, description = dict.fromkeys(recipe.data, assumed_lengths()), f"{ASSUMPTION}, as {missing[0]} is not here"
    else:
        fraction = recipe.validation.fraction
        found = {name: Shards.open(data.path).split(fraction).train.lengths for name, data in recipe.data.items()}
        description = "those of the recipe's shards"
    fitting = {}
    for name, data in recipe.data.items():
        most = np.inf if data.max_tokens is None else data.max_tokens
        fitting[name] = found[name][(found[name] >= data.min_tokens) & (found[name] <= most)]
        if not fitting[name].any():
            raise DataError(
                f"No document of data.{name} has {data.min_tokens} to {data.max_tokens or 'any number of'} tokens "
                f"(lengths {description}); change data.{name}, or give other lengths."
            )
    return fitting, description


def _rows(
    packed: dict[tuple[str, int], Rows],
    sources: Mapping[str, Ints],
    source: str,
    max_length: int,
    config: EncoderConfig,
) -> Rows:
    """The rows of a source, packed once for each length; sources of equal documents share them."""
    same = next(name for name, lengths in sources.items() if np.array_equal(lengths, sources[source]))
    key = (same, max_length)
    if key not in packed:
        windows = {config.window(layer) for layer in range(config.num_hidden_layers)}
        packed[key] = packed_rows(sources[source], max_length, windows)
    return packed[key]


def describe(plan: Plan) -> str:
    """The plan as text for people: assumptions first, then a column for each phase."""
    parts = plan.parameters
    given = [
        ("parameters", f"{parts.total:,}"),
        ("", f"embedding {parts.embedding:,}, attention {parts.attention:,}, feed-forward {parts.feed_forward:,}, "
             f"norms {parts.norms:,}, head {parts.head:,}"),
        ("vocabulary", f"{plan.vocabulary:,}"),
        ("devices", f"{plan.gpus} x {plan.device.name}: {plan.device.peak_flops / 1e12:,.0f} TFLOP/s (bf16, dense) and "
                    f"{plan.device.memory / 1e9:,.0f} GB each"),
        ("utilisation", f"{plan.utilisation:.1%} of the peak"
                        + (", assumed: the published base in its first phase" if plan.utilisation_is_assumed else "")),
        ("document lengths", plan.lengths),
    ]  # fmt: skip
    lines = [f"{name:<18}{value}" for name, value in given]
    rows = [(label, [show(phase) for phase in plan.phases]) for label, show in _ROWS]
    totals = {
        "tokens": f"{plan.tokens:,}",
        "updates": f"{plan.updates:,}",
        "operations": f"{sum(phase.flops for phase in plan.phases):.3g}",
        "hours": _sum(plan, lambda phase: phase.seconds and phase.seconds / 3600),
        "device hours": _sum(plan, lambda phase: phase.seconds and phase.seconds / 3600 * plan.gpus),
        "cost": _sum(plan, lambda phase: phase.cost),
    }
    table = [("", [phase.name for phase in plan.phases], "total")]
    table += [(label, cells, totals.get(label, "")) for label, cells in rows if set(cells) != {""}]
    widths = [max(len(line[1][column]) for line in table) + 3 for column in range(len(plan.phases))]
    last = max(len(line[2]) for line in table) + 3
    lines.append("")
    for label, cells, total in table:
        shown = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{label:<30}{shown}{total:>{last}}".rstrip())
    for found in plan.implied:
        lines.append(
            f"\n{' + '.join(found.phases)} in {found.hours:,.1f} hours: {found.tokens_per_second:,.0f} tokens/s on each "
            f"device, {found.share_of_peak:.1%} of its peak"
        )
    return "\n".join(lines)


def _sum(plan: Plan, value: Callable[[PhasePlan], float | None]) -> str:
    values = [value(phase) for phase in plan.phases]
    return f"{sum(v for v in values if v is not None):,.1f}" if None not in values else ""


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f}"


_ROWS: tuple[tuple[str, Callable[[PhasePlan], str]], ...] = (
    ("tokens", lambda p: f"{p.tokens:,}"),
    ("length of a row", lambda p: f"{p.max_length:,}"),
    ("rows filled to", lambda p: f"{p.fill:.2%}"),
    ("tokens of a document in a row", lambda p: f"{p.document_tokens:,.0f}"),
    ("masked", lambda p: f"{p.mask_ratio:.0%}"),
    ("tokens of a batch, first", lambda p: f"{p.stages[0].batch_tokens:,}"),
    ("tokens of a batch, last", lambda p: f"{p.stages[-1].batch_tokens:,}"),
    ("rows of a batch, last", lambda p: f"{p.stages[-1].rows:,}"),
    ("updates", lambda p: f"{p.updates:,}"),
    ("  while the batch grows", lambda p: f"{p.growing_updates:,}"),
    ("  while the rate warms up", lambda p: f"{p.lr_warmup_updates:,}"),
    ("operations of a token", lambda p: f"{p.flops_per_token.total:.3g}"),
    ("  layers", lambda p: f"{p.flops_per_token.layers:.3g}"),
    ("  attention", lambda p: f"{p.flops_per_token.attention:.3g}"),
    ("  head", lambda p: f"{p.flops_per_token.head:.3g}"),
    ("operations", lambda p: f"{p.flops:.3g}"),
    ("hours", lambda p: "" if p.seconds is None else f"{p.seconds / 3600:,.1f}"),
    ("device hours", lambda p: "" if p.device_seconds is None else f"{p.device_seconds / 3600:,.1f}"),
    ("cost", lambda p: "" if p.cost is None else f"{p.cost:,.1f}"),
    ("microbatch, rows", lambda p: f"{p.microbatch_rows:,}"),
    ("  passes of an update", lambda p: f"{p.passes:,}"),
    ("memory of a device, GB", lambda p: _gb(p.memory.total)),
    ("  weights", lambda p: _gb(p.memory.weights)),
    ("  bf16 copies", lambda p: _gb(p.memory.casts)),
    ("  gradients", lambda p: _gb(p.memory.gradients)),
    ("  optimizer", lambda p: _gb(p.memory.optimizer)),
    ("  activations", lambda p: _gb(p.memory.activations)),
    ("  logits", lambda p: _gb(p.memory.logits)),
    ("  temporaries", lambda p: _gb(p.memory.temporaries)),
    ("  fits", lambda p: "yes" if p.fits else "no"),
    ("largest microbatch, rows", lambda p: f"{p.largest_microbatch_rows:,}"),
    ("  tokens", lambda p: f"{p.largest_microbatch_rows * p.max_length:,}"),
)
