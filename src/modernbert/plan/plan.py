"""Estimates for a recipe without running it: steps, operations, memory, hours and cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from modernbert.errors import ConfigError
from modernbert.model.config import EncoderConfig
from modernbert.plan.costs import (
    DEVICES,
    Device,
    Flops,
    Memory,
    Parameters,
    Setting,
    count_flops,
    count_parameters,
    estimate_memory,
    this_cpu,
)
from modernbert.plan.inputs import Lengths, document_lengths, model_shape
from modernbert.runtime import Precision, select_precision
from modernbert.stream.lengths import (
    PackingStatistics,
    mixture_statistics,
    packing_statistics,
)
from modernbert.stream.mixture import cap_repeats
from modernbert.text.framing import FRAME_TOKENS
from modernbert.train.recipe import BatchSize, Phase, PretrainRecipe, Run

# The fraction of an H100's dense bf16 peak that the published base reached in its first phase: 1.719 T tokens in 194.2
# hours on eight (arXiv 2412.13663, appendix A), at the operations that `count_flops` counts for the assumed lengths.
PUBLISHED_UTILISATION = 0.252
# The fraction of this processor's measured matrix products that a training step of `mini` reached, with one thread in
# bf16 (docs/benchmarks/cpu.md; base reached 0.81).
CPU_UTILISATION = 0.65
# Memory that a plan leaves free: CUDA's context, communication buffers, fragmentation. A choice, not a measurement.
HEADROOM = 0.1
_MOST_DEVICES = 8  # of one machine


@dataclass(frozen=True)
class Cluster:
    """The devices of a run, one process each, and the assumptions about them."""

    device: Device
    count: int | None  # None: the largest number for which every phase has packed sequences, at most eight
    utilisation: float  # fraction of the peak that the run reaches
    cost_per_hour: float | None  # of one device

    @classmethod
    def of(
        cls,
        device: str = "h100",
        count: int | None = None,
        utilisation: float | None = None,
        cost_per_hour: float | None = None,
    ) -> "Cluster":
        """Devices of this name; `cpu` is this machine. The utilisation has a default.

        Raises:
            ConfigError: the device is unknown, or a number is out of range.
        """
        if device not in (*DEVICES, "cpu"):
            raise ConfigError(f"There is no device {device!r} in the table; choose one of cpu, {', '.join(DEVICES)}.")
        if count is not None and count < 1:
            raise ConfigError(f"A run cannot use {count} devices; give 1 or more.")
        assumed = CPU_UTILISATION if device == "cpu" else PUBLISHED_UTILISATION
        share = assumed if utilisation is None else utilisation
        if not 0 < share <= 1:
            raise ConfigError(f"A utilisation of {share:g} is not possible; give a number above 0, at most 1.")
        if cost_per_hour is not None and not 0 <= cost_per_hour < math.inf:
            raise ConfigError(f"A device hour cannot cost {cost_per_hour:g}; give 0 or more.")
        if device == "cpu":
            return cls(this_cpu(), count or 1, share, cost_per_hour)
        return cls(DEVICES[device], count, share, cost_per_hour)

    def with_count(self, recipe: PretrainRecipe) -> "Cluster":
        """The same devices. If their number is open, it becomes the largest one for which each phase has sequences."""
        if self.count is not None:
            return self
        return replace(self, count=min(_MOST_DEVICES, *(_first_batch(phase) for phase in recipe.phases.values())))

    @property
    def num_devices(self) -> int:
        assert self.count is not None  # see `with_count`
        return self.count

    def precision(self, run: Run) -> Precision:
        """The precision of the run on these devices."""
        if self.device.on_cuda:
            return "fp32" if run.precision == "fp32" else "bf16"
        return select_precision(torch.device("cpu"), run.precision)

    @property
    def usable_memory(self) -> float:
        """Bytes of one device that the run may use."""
        return (1 - HEADROOM) * self.device.memory


@dataclass(frozen=True)
class Stage:
    """Updates of one batch size."""

    batch_tokens: int
    rows: int  # packed sequences of a batch
    updates: int


@dataclass(frozen=True)
class Effort:
    """Tokens, operations, time and cost. Time and cost are None in fp32: the table of devices has bf16 peaks only."""

    tokens: int
    updates: int
    flops: float  # of the model; recomputation by checkpointing counts for `hours` only
    hours: float | None
    device_hours: float | None
    cost: float | None


@dataclass(frozen=True)
class PhasePlan:
    """The estimate for one phase."""

    name: str
    max_length: int
    mask_ratio: float
    packing_efficiency: float  # real tokens, [CLS] and [SEP] included, over all positions
    chunk_tokens: float  # mean length of the documents, or parts of them, in the packed sequences
    stages: tuple[Stage, ...]
    growing_updates: int  # before the batch reaches its final size
    rate_warmup_updates: int
    flops_per_token: Flops
    effort: Effort
    microbatch_rows: int  # packed sequences of a microbatch
    passes: int  # microbatches in an update of the final batch size
    memory: Memory
    fits: bool
    largest_microbatch_rows: int  # the largest that fits, at most the part of a batch on one device
    epochs: Mapping[str, float]  # how often the phase reads each source; empty if the shards do not exist


@dataclass(frozen=True)
class Implied:
    """The speed of the devices, computed from measured hours of some phases."""

    phases: tuple[str, ...]
    hours: float
    tokens_per_second: float  # of one device
    share_of_peak: float


@dataclass(frozen=True)
class Plan:
    """The estimate for a run, with its assumptions."""

    cluster: Cluster
    precision: Precision
    vocabulary: int
    lengths: str  # the source of the document lengths
    parameters: Parameters
    parameters_total: int
    phases: tuple[PhasePlan, ...]
    total: Effort
    implied: tuple[Implied, ...]


def plan(
    recipe: PretrainRecipe,
    cluster: Cluster,
    *,
    hours: Sequence[str] = (),
    vocab_size: int | None = None,
    shards: Path | None = None,
    histogram: Path | None = None,
) -> Plan:
    """Estimate the time and memory of a recipe. The tokenizer, the shards and the start model need not exist.

    Document lengths come from `shards` or `histogram`, otherwise from the recipe's shards if all exist, otherwise they
    are assumed. `hours` are of the form phase=194.2 or phase+phase=425.3.

    Raises:
        ConfigError: an argument is invalid, the shape of the model is unknown, or a batch has fewer sequences than
            there are devices.
        DataError: lengths cannot be read, or a source has no document of the lengths in the recipe.
    """
    measured = _parse_hours(recipe, hours)
    cluster = cluster.with_count(recipe)
    config = model_shape(recipe, vocab_size)
    lengths = document_lengths(recipe, shards, histogram)
    windows = {config.window(layer) for layer in range(config.num_hidden_layers)}
    packed: dict[tuple[int, int], PackingStatistics] = {}  # sources that share their lengths are packed once

    def packing_of(source: str, max_length: int) -> PackingStatistics:
        key = (id(lengths.sources[source]), max_length)
        if key not in packed:
            packed[key] = packing_statistics(lengths.sources[source], max_length, windows)
        return packed[key]

    phases = []
    for name, phase in recipe.phases.items():
        weights: Mapping[str, float] = phase.mixture
        if phase.max_repeats is not None and lengths.from_recipe:
            totals = {source: int(lengths.sources[source].sum()) for source in weights}
            weights = cap_repeats(weights, totals, phase.tokens, phase.max_repeats)
        packed_sources = {source: packing_of(source, phase.max_length) for source in weights}
        packing = mixture_statistics(packed_sources, weights)
        planned = _plan_phase(name, phase, recipe, config, packing, cluster)
        phases.append(replace(planned, epochs=_epochs(phase.tokens, weights, packed_sources, lengths)))
    parameters, precision = count_parameters(config), cluster.precision(recipe.run)
    return Plan(
        cluster=cluster,
        precision=precision,
        vocabulary=config.vocab_size,
        lengths=lengths.origin,
        parameters=parameters,
        parameters_total=parameters.total,
        phases=tuple(phases),
        total=_sum([phase.effort for phase in phases]),
        implied=tuple(_implied(names, number, phases, cluster, precision) for names, number in measured),
    )


def _epochs(
    tokens: int, weights: Mapping[str, float], packed: Mapping[str, PackingStatistics], lengths: Lengths
) -> dict[str, float]:
    """The epochs of each source in a phase. [CLS] and [SEP] count as tokens of the phase, but not of the source."""
    epochs = {}
    for source, weight in weights.items():
        source_tokens = lengths.tokens(source)
        if source_tokens is not None:
            share = weight / sum(weights.values()) * (1 - FRAME_TOKENS * packed[source].chunks_per_token)
            epochs[source] = tokens * share / source_tokens
    return epochs


def _first_batch(phase: Phase) -> int:
    """The number of packed sequences in the first update of a phase."""
    return max(1, phase.batch_tokens.at(0) // phase.max_length)


def simulate_updates(
    batch: BatchSize, max_length: int, tokens: int, tokens_per_sequence: Fraction | int
) -> tuple[Stage, ...]:
    """The updates of a phase by batch size, as if stepping through `BatchSize.at` until `tokens` are read.

    Computed with integers and fractions, so that it is exact for trillions of tokens.
    """
    sizes, each = batch.growth()
    stages, left = [], Fraction(tokens)
    for number, size in enumerate(sizes, 1):
        if left <= 0:
            break
        rows = max(1, size // max_length)
        needed = math.ceil(left / (rows * tokens_per_sequence))
        updates = needed if number == len(sizes) else min(each, needed)
        stages.append(Stage(size, rows, updates))
        left -= updates * rows * tokens_per_sequence
    return tuple(stages)


def _plan_phase(
    name: str, phase: Phase, recipe: PretrainRecipe, config: EncoderConfig, packing: PackingStatistics, cluster: Cluster
) -> PhasePlan:
    run, batch, length = recipe.run, phase.batch_tokens, phase.max_length
    stages = simulate_updates(batch, length, phase.tokens, packing.tokens_per_sequence)
    count = cluster.num_devices
    if stages[0].rows < count:
        raise ConfigError(
            f"A batch of {stages[0].rows} packed sequences in phases.{name} is too small for {count} devices; "
            "raise batch_tokens (and its start), or give fewer --gpus."
        )
    warmup = simulate_updates(batch, length, phase.schedule.warmup_tokens, packing.tokens_per_sequence)
    flops = count_flops(config, packing, phase.mask_ratio)
    computed_flops = flops.total + (flops.recomputed if run.activation_checkpointing else 0.0)
    precision = cluster.precision(run)
    setting = Setting(
        precision,
        shards=count if run.parallel == "fsdp" else 1,
        activation_checkpointing=run.activation_checkpointing,
        compiled=run.compile,
        on_cuda=cluster.device.on_cuda,
    )
    share = math.ceil(stages[-1].rows / count)

    def memory(rows: int) -> Memory:
        return estimate_memory(config, setting, rows * length, phase.mask_ratio, passes=math.ceil(share / rows))

    fitting = (rows for rows in range(share, 0, -1) if memory(rows).total <= cluster.usable_memory)
    per_microbatch = min(share, run.microbatch_tokens // length)
    updates = sum(stage.updates for stage in stages)
    return PhasePlan(
        name=name,
        max_length=length,
        mask_ratio=phase.mask_ratio,
        packing_efficiency=packing.packing_efficiency,
        chunk_tokens=1 / packing.chunks_per_token,
        stages=stages,
        growing_updates=sum(stage.updates for stage in stages if stage.batch_tokens < batch.tokens),
        rate_warmup_updates=sum(stage.updates for stage in warmup),
        flops_per_token=flops,
        effort=_effort(phase.tokens, updates, flops.total, computed_flops, cluster, cluster.device.peak(precision)),
        microbatch_rows=per_microbatch,
        passes=math.ceil(share / per_microbatch),
        memory=memory(per_microbatch),
        fits=memory(per_microbatch).total <= cluster.usable_memory,
        largest_microbatch_rows=next(fitting, 0),
        epochs={},
    )


def _effort(
    tokens: int, updates: int, flops: float, computed_flops: float, cluster: Cluster, peak: float | None
) -> Effort:
    if peak is None:
        return Effort(tokens, updates, tokens * flops, None, None, None)
    device_hours = tokens * computed_flops / (peak * cluster.utilisation) / 3600
    cost = None if cluster.cost_per_hour is None else device_hours * cluster.cost_per_hour
    return Effort(tokens, updates, tokens * flops, device_hours / cluster.num_devices, device_hours, cost)


def _sum(efforts: Sequence[Effort]) -> Effort:
    def total(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return Effort(
        tokens=sum(effort.tokens for effort in efforts),
        updates=sum(effort.updates for effort in efforts),
        flops=sum(effort.flops for effort in efforts),
        hours=total([effort.hours for effort in efforts]),
        device_hours=total([effort.device_hours for effort in efforts]),
        cost=total([effort.cost for effort in efforts]),
    )


def _parse_hours(recipe: PretrainRecipe, hours: Sequence[str]) -> list[tuple[tuple[str, ...], float]]:
    """Parse texts like phase+phase=425.3."""
    measured = []
    for argument in hours:
        names, _, text = argument.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number < math.inf:
            raise ConfigError(f"The hours {argument!r} are not of the form phase=194.2 or phase+phase=425.3.")
        if unknown := [name for name in names.split("+") if name not in recipe.phases]:
            raise ConfigError(f"--hours names the phase {unknown[0]!r}, but the recipe has {', '.join(recipe.phases)}.")
        measured.append((tuple(names.split("+")), number))
    return measured


def _implied(
    names: tuple[str, ...], hours: float, phases: Sequence[PhasePlan], cluster: Cluster, precision: Precision
) -> Implied:
    effort = _sum([phase.effort for phase in phases if phase.name in names])
    device_seconds = hours * 3600 * cluster.num_devices
    return Implied(
        phases=names,
        hours=hours,
        tokens_per_second=effort.tokens / device_seconds,
        share_of_peak=effort.flops / device_seconds / (cluster.device.peak(precision) or cluster.device.peak_flops),
    )
