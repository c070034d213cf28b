"""Pictures of runs: the loss curve, and one page with everything that metrics.jsonl holds."""

from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from modernbert.errors import ConfigError, DataError
from modernbert.plots.style import COLOURS, MARKERS, pyplot, save
from modernbert.run_metrics import Metrics

Lines = list[dict[str, Any]]
Runs = dict[str, Lines]

_TRAINING = {  # key of a training line: title of its panel
    "loss": "training loss, nats per masked token",
    "learning_rate": "learning rate",
    "batch_tokens": "batch, tokens",
    "tokens_per_second": "speed, tokens/s",
    "grad_norm": "gradient norm",
    "fill": "packing, real tokens of a row",
}
_HELD_OUT = {
    "loss": "held-out loss, nats per masked token",
    "accuracy": "held-out accuracy",
    "bits_per_byte": "held-out bits per byte",
}
_SPIKE = {"marker": "x", "ls": "", "ms": 7, "mew": 1.6, "color": "#000000", "zorder": 5}


def plot_loss(metrics: Lines, path: Path) -> None:
    """Draw the training loss of every phase and the held-out loss of every source of one run.

    Raises:
        DataError: matplotlib is missing, or the run has no step yet.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    training = [line for line in metrics if "loss" in line]
    for phase in dict.fromkeys(line["phase"] for line in training):
        _draw(axes, [line for line in training if line["phase"] == phase], "loss", label=f"{phase}, training")
    for source, lines in _by_source(metrics).items():
        _draw(axes, lines, "loss", marker="o", ls="--", label=f"{source}, held out")
    axes.set(xlabel="million tokens", ylabel="loss (nats per masked token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    save(figure, path)


def plot_runs(directories: Sequence[Path], path: Path) -> None:
    """Draw one page on one or several runs: loss, held-out loss, accuracy and bits per byte, learning rate, batch size,
    speed, gradient norm and packing. The suffix of `path` (.png, .svg, .pdf) decides the format.

    With one run, each source of held-out text has a colour. With several runs, each run has a colour: thin lines are
    its sources, and a thick line is the mean of the sources that every validation measures. Vertical lines mark the
    start of a phase, and crosses mark loss spikes.

    Raises:
        DataError: a directory holds no metrics, or matplotlib is missing.
        ConfigError: the suffix is not supported.
    """
    plt = pyplot()
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path} must end in .png, .svg or .pdf.")
    runs = dict(zip(_names(directories), map(_read, directories), strict=True))
    last_tokens = max(lines[-1]["tokens"] for lines in runs.values())
    unit, unit_name = (1e9, "billion") if last_tokens >= 2e9 else (1e6, "million")
    figure, grid = plt.subplots(3, 3, figsize=(15, 11), layout="constrained")
    panels = list(grid.flat)
    for panel, title in zip(panels, [*_TRAINING.values(), *_HELD_OUT.values()], strict=True):
        panel.set_title(title, loc="left", fontsize="medium", fontweight="bold")
        panel.set_xlabel(f"{unit_name} tokens", fontsize="small")
        panel.set_xlim(0, 1.02 * last_tokens / unit)
        panel.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if abs(y) >= 1000 else f"{y:g}")
        panel.tick_params(labelsize="small")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, lw=0.6)
    colours = dict(zip(runs, cycle(COLOURS), strict=False))
    training = dict(zip(_TRAINING, panels, strict=False))
    for name, lines in runs.items():
        _draw_training(training, lines, unit, colours[name])
    for name in ("batch_tokens", "tokens_per_second"):
        training[name].set_ylim(bottom=0)
    legend = (_draw_sources if len(runs) == 1 else _draw_means)(panels[len(_TRAINING) :], runs, unit, colours)
    _draw_phase_starts(panels, runs, unit, colours)
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)))
    if any("spike" in line for lines in runs.values() for line in lines):
        legend.append(_entry("spike", **_SPIKE))
    if legend:
        figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), 7), frameon=False)
    save(figure, path)


def _draw_training(panels: dict[str, Any], lines: Lines, unit: float, colour: str) -> None:
    steps = [line for line in lines if "loss" in line]
    for name, panel in panels.items():
        _draw(panel, steps, name, unit, color=colour, alpha=0.9)
    spikes = [{"tokens": line["tokens"], "loss": line["spike"]["loss"]} for line in lines if "spike" in line]
    _draw(panels["loss"], spikes, "loss", unit, **_SPIKE)


def _draw_sources(panels: Sequence[Any], runs: Runs, unit: float, _: dict[str, str]) -> list[Any]:
    """Each source of the only run. Returns the legend's entries."""
    [lines] = runs.values()
    entries = []
    for (source, results), colour, marker in zip(
        _by_source(lines).items(), cycle(COLOURS), cycle(MARKERS), strict=False
    ):
        for panel, name in zip(panels, _HELD_OUT, strict=True):
            _draw(panel, results, name, unit, color=colour, marker=marker)
        entries.append(_entry(f"{source}, held out", color=colour, marker=marker))
    return entries


def _draw_means(panels: Sequence[Any], runs: Runs, unit: float, colours: dict[str, str]) -> list[Any]:
    """Sources of several runs, and the mean of the sources that every validation of a run measures.

    If all runs share such sources, the mean is over these. Returns the legend's entries.
    """
    thick, thin = {"lw": 2.2, "marker": "o"}, {"lw": 0.7, "alpha": 0.4}
    validations = {run: [line for line in lines if "validation" in line] for run, lines in runs.items()}
    measured = {
        run: set.intersection(*(set(x["validation"]) for x in lines)) for run, lines in validations.items() if lines
    }
    common = set.intersection(*measured.values()) if measured else set()
    for run, sources in measured.items():
        for panel, name in zip(panels, _HELD_OUT, strict=True):
            for results in _by_source(validations[run]).values():
                _draw(panel, results, name, unit, color=colours[run], **thin)
            means = [
                {
                    "tokens": line["tokens"],
                    name: fmean(line["validation"][source][name] for source in common or sources),
                }
                for line in validations[run]
                if common or sources
            ]
            _draw(panel, means, name, unit, color=colours[run], **thick)
    entries = [_entry(run, color=colour, lw=3) for run, colour in colours.items()]
    if measured:
        entries.append(_entry("mean of the sources in every validation", color="#606060", **thick))
        entries.append(_entry("each source", color="#606060", **thin))
    return entries


def _draw_phase_starts(panels: Sequence[Any], runs: Runs, unit: float, colours: dict[str, str]) -> None:
    """Mark where phases begin: grey and named if all runs agree, otherwise in the colour of the run."""
    starts = {run: _phase_starts(lines) for run, lines in runs.items()}
    longest = max(starts.values(), key=len)
    if all(set(run_starts) <= set(longest) for run_starts in starts.values()):
        starts = {"": longest}
        for tokens, phase in longest:
            panels[0].annotate(
                phase, (tokens / unit, 1), (3, -2), ("data", "axes fraction"), "offset points",
                rotation=90, va="top", fontsize="small", color="#606060",
            )  # fmt: skip
    for run, run_starts in starts.items():
        for panel in panels:
            for tokens, _ in run_starts:
                panel.axvline(
                    tokens / unit, color=colours.get(run, "#909090"), lw=0.8, ls=":" if run else "-", zorder=0
                )


def _read(directory: Path) -> Lines:
    lines = Metrics(directory / "metrics.jsonl").read()
    if not any("loss" in line for line in lines):
        raise DataError(f"{directory} holds no metrics.jsonl with a training step; give the directory of a run.")
    return lines


def _names(directories: Sequence[Path]) -> list[str]:
    """The shortest unique ends of the paths, without the part that all of them end with."""
    paths = [directory.absolute().parts[1:] or ("/",) for directory in directories]
    while len(set(paths)) > 1 and len({parts[-1] for parts in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [parts[:-1] for parts in paths]
    length = 1 if len(set(paths)) > 1 else 2
    while len({parts[-length:] for parts in paths}) < len(set(paths)):
        length += 1
    names = ["/".join(parts[-length:]) for parts in paths]
    names = [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    return [name.replace("$", r"\$") for name in names]  # matplotlib reads an unescaped $ as mathematics


def _by_source(metrics: Lines) -> dict[str, Lines]:
    """The validation results of each source, as lines with the number of tokens at that point."""
    found: dict[str, Lines] = {}
    for line in metrics:
        for source, result in line.get("validation", {}).items():
            found.setdefault(source, []).append({"tokens": line["tokens"], **result})
    return found


def _phase_starts(lines: Lines) -> list[tuple[int, str]]:
    """The number of tokens before each phase except the first, and its name."""
    steps = [line for line in lines if "loss" in line]
    return [(one["tokens"], other["phase"]) for one, other in pairwise(steps) if one["phase"] != other["phase"]]


def _draw(axes: Any, lines: Lines, name: str, unit: float = 1e6, **style: Any) -> None:
    tokens = [line["tokens"] / unit for line in lines]
    axes.plot(tokens, [line[name] for line in lines], **{"ms": 3, "lw": 1.3} | style)


def _entry(label: str, **style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **({"ms": 5, "lw": 1.3} | style))
