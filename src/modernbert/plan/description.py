"""A plan as text."""

from collections.abc import Callable

from modernbert.plan.plan import HEADROOM, PUBLISHED_UTILISATION, Effort, PhasePlan, Plan

_MANY_EPOCHS = 4  # more repetitions reduce quality (Muennighoff et al. 2023, arXiv 2305.16264)


def describe(plan: Plan) -> str:
    """The plan as text: the assumptions, a column for each phase, then warnings."""
    cluster, parts, device = plan.cluster, plan.parameters, plan.cluster.device
    peak = (
        f"{device.peak_flops / 1e12:,.0f} TFLOP/s (bf16, dense)"
        if device.on_cuda
        else f"{(device.peak(plan.precision) or 0) / 1e9:,.0f} GFLOP/s ({plan.precision}, measured)"
    )
    lines = [
        f"parameters        {plan.parameters_total:,}",
        f"                  embedding {parts.embedding:,}, attention {parts.attention:,}, "
        f"feed-forward {parts.feed_forward:,}, norms {parts.norms:,}, head {parts.head:,}",
        f"vocabulary        {plan.vocabulary:,}",
        f"devices           {cluster.count} x {device.name}: {peak} and {_gib(device.memory)} GiB each",
        f"utilisation       {cluster.utilisation:.1%} of the peak"
        + (", as in the first phase of the published base" if cluster.utilisation == PUBLISHED_UTILISATION else ""),
        f"document lengths  {plan.lengths}",
        "",
    ]
    totals = {label: show(plan.total) for label, show in _EFFORT}
    table = [("", [phase.name for phase in plan.phases], "total")]
    table += [(label, [show(phase) for phase in plan.phases], totals.get(label, "")) for label, show in _ROWS]
    for source in dict.fromkeys(source for phase in plan.phases for source in phase.epochs):
        epochs = [f"{phase.epochs[source]:,.2f}" if source in phase.epochs else "" for phase in plan.phases]
        table.append((f"epochs of {source}", epochs, ""))
    table = [line for line in table if any(line[1])]
    widths = [3 + max(len(cells[column]) for _, cells, _ in table) for column in range(len(plan.phases))]
    last = 3 + max(len(total) for _, _, total in table)
    for label, cells, total in table:
        shown = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{label:<31}{shown}{total:>{last}}".rstrip())
    lines.append("")
    for speed in plan.implied:
        lines.append(
            f"{' + '.join(speed.phases)} in {speed.hours:,.1f} hours: {speed.tokens_per_second:,.0f} tokens/s on each "
            f"device, {speed.share_of_peak:.1%} of its peak"
        )
    if plan.total.hours is None:
        lines.append("no hours: the table of devices has bf16 peaks only, and run.precision is fp32")
    if not all(phase.fits for phase in plan.phases):
        most = min(phase.largest_microbatch_rows * phase.max_length for phase in plan.phases)
        remedy = f"run.microbatch_tokens={most}" if most else "run.activation_checkpointing=true or run.parallel=fsdp"
        lines.append(f"the microbatch does not fit {1 - HEADROOM:.0%} of the memory; try {remedy}")
    for phase in plan.phases:
        often = [f"{source} {epochs:,.0f} times" for source, epochs in phase.epochs.items() if epochs > _MANY_EPOCHS]
        if often:
            lines.append(
                f"phases.{phase.name} reads {', '.join(often)}: after about {_MANY_EPOCHS} times, repeated text helps "
                f"less and less (arXiv 2305.16264); phases.{phase.name}.max_repeats limits it"
            )
    return "\n".join(lines).rstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _gib(count: int) -> str:
    return f"{count / 2**30:,.2f}"


_EFFORT: tuple[tuple[str, Callable[[Effort], str]], ...] = (
    ("tokens", lambda effort: f"{effort.tokens:,}"),
    ("updates", lambda effort: f"{effort.updates:,}"),
    ("operations", lambda effort: f"{effort.flops:.3g}"),
    ("hours", lambda effort: _number(effort.hours)),
    ("device hours", lambda effort: _number(effort.device_hours)),
    ("cost", lambda effort: _number(effort.cost)),
)


def _effort_line(label: str) -> tuple[str, Callable[[PhasePlan], str]]:
    show = dict(_EFFORT)[label]
    return label, lambda phase: show(phase.effort)


_ROWS: tuple[tuple[str, Callable[[PhasePlan], str]], ...] = (
    _effort_line("tokens"),
    ("tokens of a packed sequence", lambda phase: f"{phase.max_length:,}"),
    ("  packing efficiency", lambda phase: f"{phase.packing_efficiency:.2%}"),
    ("  mean length of a chunk", lambda phase: f"{phase.chunk_tokens:,.0f}"),
    ("  masked", lambda phase: f"{phase.mask_ratio:.0%}"),
    ("tokens of a batch", lambda phase: f"{phase.stages[-1].batch_tokens:,}"),
    ("  at first", lambda phase: f"{phase.stages[0].batch_tokens:,}"),
    ("packed sequences of a batch", lambda phase: f"{phase.stages[-1].rows:,}"),
    _effort_line("updates"),
    ("  while the batch grows", lambda phase: f"{phase.growing_updates:,}"),
    ("  while the rate warms up", lambda phase: f"{phase.rate_warmup_updates:,}"),
    ("operations of a token", lambda phase: f"{phase.flops_per_token.total:.3g}"),
    ("  layers", lambda phase: f"{phase.flops_per_token.layers:.3g}"),
    ("  attention", lambda phase: f"{phase.flops_per_token.attention:.3g}"),
    ("  head", lambda phase: f"{phase.flops_per_token.head:.3g}"),
    _effort_line("operations"),
    _effort_line("hours"),
    _effort_line("device hours"),
    _effort_line("cost"),
    ("sequences of a microbatch", lambda phase: f"{phase.microbatch_rows:,}"),
    ("  passes of an update", lambda phase: f"{phase.passes:,}"),
    ("memory of a device, GiB", lambda phase: _gib(phase.memory.total)),
    ("  weights", lambda phase: _gib(phase.memory.weights)),
    ("  copies of weights in bf16", lambda phase: _gib(phase.memory.copies)),
    ("  gradients", lambda phase: _gib(phase.memory.gradients)),
    ("  optimizer", lambda phase: _gib(phase.memory.optimizer)),
    ("  activations", lambda phase: _gib(phase.memory.activations)),
    ("  logits, before the backward", lambda phase: _gib(phase.memory.logits)),
    ("  or temporaries, in it", lambda phase: _gib(phase.memory.temporaries)),
    ("  fits", lambda phase: "yes" if phase.fits else "no"),
    ("sequences of the largest", lambda phase: f"{phase.largest_microbatch_rows:,}"),
    ("  that fits, in tokens", lambda phase: f"{phase.largest_microbatch_rows * phase.max_length:,}"),
)
