"""Pictures of runs: the loss curve, one page with everything that metrics.jsonl holds, and the schedule of a plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError, DataError
from modernbert.files import replaced_file
from modernbert.train.plan import Plan
from modernbert.train.recipe import PretrainRecipe
from modernbert.train.tracking import Metrics

Lines = list[dict[str, Any]]

_PANELS = {  # what is drawn beside the loss, and its axis
    "learning_rate": "learning rate",
    "batch_tokens": "tokens in a batch",
    "tokens_per_second": "tokens/s",
    "grad_norm": "gradient norm",
    "fill": "real tokens in a row",
}


def plot_loss(metrics: Lines, path: Path) -> None:
    """Draw the training loss of every phase and the held-out loss of every source of one run.

    Raises:
        DataError: matplotlib is missing, or the run has no step yet.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    training = [line for line in metrics if "loss" in line]
    for phase in dict.fromkeys(line["phase"] for line in training):
        _draw(axes, [line for line in training if line["phase"] == phase], "loss", f"{phase}, training")
    for source, lines in _by_source(metrics).items():
        _draw(axes, lines, "loss", f"{source}, held out", "o--")
    axes.set(xlabel="million tokens", ylabel="loss (nats per masked token)")
    _finish(figure, [axes], path)


def plot_runs(directories: Sequence[Path], path: Path) -> None:
    """Draw one page on one or several runs: loss, held-out loss, accuracy and bits per byte, learning rate, batch size,
    speed, gradient norm and packing. The ending of `path` (.png, .svg, .pdf) decides the format.

    Raises:
        DataError: a directory holds no metrics, or matplotlib is missing.
        ConfigError: the ending is none that matplotlib writes.
    """
    pyplot = _pyplot()
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path} must end in .png, .svg or .pdf.")
    figure, grid = pyplot.subplots(3, 3, figsize=(15, 11), layout="constrained")
    axes = list(grid.flat)
    validations = {"loss": "held-out loss", "accuracy": "held-out accuracy", "bits_per_byte": "held-out bits per byte"}
    names = ["loss", *_PANELS]
    for directory in directories:
        metrics = Metrics(directory / "metrics.jsonl").read()
        training = [line for line in metrics if "loss" in line]
        if not training:
            raise DataError(f"{directory} holds no metrics.jsonl with a step in it; give the directory of a run.")
        for panel, name in zip(axes, names, strict=False):
            _draw(panel, training, name, str(directory))
        for panel, name in zip(axes[len(names) :], validations, strict=True):
            for source, lines in _by_source(metrics).items():
                _draw(panel, lines, name, f"{directory}, {source}", "o-")
    labels = ["training loss (nats)", *_PANELS.values(), *validations.values()]
    for panel, label in zip(axes, labels, strict=True):
        panel.set(title=label, xlabel="million tokens")
    _finish(figure, axes, path)


def plot_plan(plan: Plan, recipe: PretrainRecipe, path: Path) -> None:
    """Draw what is planned over the tokens of the run: learning rate, batch size, row length and mask ratio.

    Raises:
        DataError: matplotlib is missing.
        ConfigError: the ending of `path` is none that matplotlib writes.
    """
    pyplot = _pyplot()
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path} must end in .png, .svg or .pdf.")
    figure, grid = pyplot.subplots(4, 1, figsize=(9, 10), sharex=True, layout="constrained")
    rate, batch, length, masked = grid
    begin = 0.0
    for planned, (name, phase) in zip(plan.phases, recipe.phases.items(), strict=True):
        warmup = phase.schedule.warmup_tokens
        tokens = sorted({phase.tokens * i // 400 for i in range(401)} | {warmup * i // 40 for i in range(1, 41)})
        x = [(begin + t) / 1e9 for t in tokens]
        [line] = rate.plot(x, [phase.schedule.learning_rate(t, phase.tokens) for t in tokens], label=name)
        edges, read = [begin / 1e9], begin
        for stage in planned.stages:
            read += stage.updates * stage.rows * planned.fill * phase.max_length
            edges.append(read / 1e9)
        batch.stairs([stage.batch_tokens for stage in planned.stages], edges, baseline=None, color=line.get_color())
        for axes, value in ((length, phase.max_length), (masked, phase.mask_ratio)):
            axes.hlines(value, begin / 1e9, (begin + phase.tokens) / 1e9, color=line.get_color(), lw=2)
        begin += phase.tokens
    labels = ("learning rate", "tokens in a batch", "tokens in a row", "share of masked tokens")
    for panel, label in zip(grid, labels, strict=True):
        panel.set(ylabel=label, ylim=(0, 1.05 * panel.get_ylim()[1]))
        panel.grid(alpha=0.3)
    masked.set(xlabel="billion tokens")
    _finish(figure, [rate], path)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise DataError("Pictures need matplotlib: pip install 'modernbert[plot]'.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _by_source(metrics: Lines) -> dict[str, Lines]:
    """The validation results of each source, as lines with the tokens at which they were taken."""
    found: dict[str, Lines] = {}
    for line in metrics:
        for source, result in line.get("validation", {}).items():
            found.setdefault(source, []).append({"tokens": line["tokens"], **result})
    return found


def _draw(axes: Any, lines: Lines, name: str, label: str, style: str = "-") -> None:
    tokens = [line["tokens"] / 1e6 for line in lines]
    axes.plot(tokens, [line[name] for line in lines], style, ms=3, lw=1.3, label=label)


def _finish(figure: Any, axes: Sequence[Any], path: Path) -> None:
    from matplotlib import pyplot

    for panel in axes:
        panel.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize="small")
    if len(axes) > 1:
        axes[-1].legend(frameon=False, fontsize="small")
    with replaced_file(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix.removeprefix("."))
    pyplot.close(figure)
