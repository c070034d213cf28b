"""A figure of a plan: learning rate, batch size, sequence length and mask ratio over the tokens of a run."""

from pathlib import Path

from modernbert.errors import ConfigError
from modernbert.plan.plan import Plan
from modernbert.plots.style import pyplot, save
from modernbert.train.recipe import PretrainRecipe


def plot_plan(plan: Plan, recipe: PretrainRecipe, path: Path) -> None:
    """Draw learning rate, batch size, sequence length and mask ratio over the tokens of the run.

    Raises:
        DataError: matplotlib is missing.
        ConfigError: the suffix of `path` is not supported.
    """
    drawing = pyplot()
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path} must end in .png, .svg or .pdf.")
    figure, grid = drawing.subplots(4, 1, figsize=(9, 10), sharex=True, layout="constrained")
    rate, batch, length, masked = grid
    begin = 0.0
    for planned, (name, phase) in zip(plan.phases, recipe.phases.items(), strict=True):
        warmup = phase.schedule.warmup_tokens
        tokens = sorted({phase.tokens * i // 400 for i in range(401)} | {warmup * i // 40 for i in range(1, 41)})
        x = [(begin + t) / 1e9 for t in tokens]
        [line] = rate.plot(x, [phase.schedule.learning_rate(t, phase.tokens) for t in tokens], label=name)
        edges, read = [begin / 1e9], begin
        for stage in planned.stages:
            read += stage.updates * stage.rows * planned.packing_efficiency * phase.max_length
            edges.append(read / 1e9)
        batch.stairs([stage.batch_tokens for stage in planned.stages], edges, baseline=None, color=line.get_color())
        for axes, value in ((length, phase.max_length), (masked, phase.mask_ratio)):
            axes.hlines(value, begin / 1e9, (begin + phase.tokens) / 1e9, color=line.get_color(), lw=2)
        begin += phase.tokens
    labels = ("learning rate", "tokens in a batch", "tokens in a packed sequence", "share of masked tokens")
    for panel, label in zip(grid, labels, strict=True):
        panel.set(ylabel=label, ylim=(0, 1.05 * panel.get_ylim()[1]))
        panel.grid(alpha=0.3)
    masked.set(xlabel="billion tokens")
    rate.legend(frameon=False)
    save(figure, path)
