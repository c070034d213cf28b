"""Figures of reports, as PNG and SVG: speed relative to transformers, and the cost of a token."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from modernbert.bench.report import BASELINE, OURS, Report, Result
from modernbert.bench.scaling import ScalingReport
from modernbert.errors import ConfigError
from modernbert.plots.style import COLOURS, MARKERS, pyplot, save

_GREY = "#717581"
_HEIGHT = 0.8  # of a bar, in units of the distance between bars


def figure_paths(path: Path) -> tuple[Path, Path]:
    """The paths of the PNG and the SVG file of a figure, from one of them.

    Raises:
        ConfigError: the suffix is neither .png nor .svg.
    """
    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"{path} must end in .png or .svg; both are written.")
    return path.with_suffix(".png"), path.with_suffix(".svg")


def draw_report(report: Report, path: Path) -> tuple[Path, Path]:
    """Bars for each workload: the speed of each engine as a multiple of that of transformers (the line at 1).

    Raises:
        DataError: matplotlib is missing.
        ConfigError: `path` ends neither in .png nor in .svg, or no engine was compared with transformers.
    """
    paths = figure_paths(path)
    workloads = [(result, bars) for result in report.results if (bars := _bars(result))]
    names = list(dict.fromkeys(bar.name for _, bars in workloads for bar in bars))
    if not names:
        raise ConfigError("No engine was compared with transformers, so there is nothing to draw.")
    drawing = pyplot()
    every = [bar for _, bars in workloads for bar in bars]
    figure, axes = drawing.subplots(figsize=(9, 1.5 + 0.24 * len(every) + 0.2 * len(workloads)), layout="constrained")
    colours = colours_of(names)
    top, ticks = 0.0, []
    for _, bars in workloads:
        for bar in bars:
            axes.barh(top, bar.ratio, height=_HEIGHT, color=colours[bar.name], zorder=2)
            axes.annotate(
                f"{bar.ratio:.2f} x", (bar.ratio, top), (4, 0), textcoords="offset points", va="center",
                fontsize="small", fontweight="bold" if bar.name.startswith(OURS) else "normal",
                bbox={"fc": "white", "ec": "none", "pad": 0.8}, zorder=4,
            )  # fmt: skip
            axes.annotate(
                f"{bar.tokens_per_second:,.0f} tokens/s", (1, top), (-4, 0), ("axes fraction", "data"),
                "offset points", ha="right", va="center", fontsize="x-small", color=_GREY,
            )  # fmt: skip
            top += 1
        ticks.append(top - (len(bars) + 1) / 2)
        top += 0.6
    axes.axvline(1, color="black", lw=1.2, zorder=3)
    axes.set_yticks(ticks, [_label(result) for result, _ in workloads])
    axes.set_ylim(top - 0.6 - 0.3, -0.7)
    axes.set_xlim(0, 1.35 * max(1.0, *(bar.ratio for bar in every)))
    axes.set_xlabel(f"speed, real tokens per second: multiples of {BASELINE} (the line at 1)", fontsize="small")
    _style(axes, "x")
    axes.tick_params(axis="y", length=0)
    figure.suptitle(_title(report.model, report.dtype, report.machine, f"threads: {report.threads}"), fontsize="medium")
    if len(names) > 1:
        handles = [drawing.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3), frameon=False)
    return _write(figure, paths)


def draw_scaling(report: ScalingReport, path: Path) -> tuple[Path, Path]:
    """Microseconds per token by sequence length: a colour for each engine, a line for each number of threads.

    Raises:
        DataError: matplotlib is missing.
        ConfigError: `path` ends neither in .png nor in .svg, or no engine was timed.
    """
    paths = figure_paths(path)
    points = [point for point in report.points if point.cost is not None]
    if not points:
        raise ConfigError("No engine was timed, so there is nothing to draw.")
    drawing = pyplot()
    figure, axes = drawing.subplots(figsize=(9, 5), layout="constrained")
    colours = colours_of(dict.fromkeys(point.engine for point in points))
    styles = dict(zip(dict.fromkeys(point.threads for point in points), cycle(("-", "--", ":", "-.")), strict=False))
    markers = dict(zip(styles, cycle(MARKERS), strict=False))
    for name, colour in colours.items():
        for threads, style in styles.items():
            line = [point for point in points if (point.engine, point.threads) == (name, threads)]
            costs = [point.cost for point in line if point.cost is not None]
            lengths = [point.tokens for point in line]
            axes.fill_between(
                lengths, [c.lowest for c in costs], [c.highest for c in costs], color=colour, alpha=0.15, lw=0
            )
            axes.plot(
                lengths, [c.median for c in costs], color=colour, ls=style, lw=1.6, marker=markers[threads], ms=5,
                label=f"{name}, {threads} thread{'s' * (threads > 1)}",
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted({point.tokens for point in points})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}")
    axes.yaxis.set_minor_locator(drawing.NullLocator())
    axes.set_xlabel("tokens in the sequence", fontsize="small")
    axes.set_ylabel("microseconds per token", fontsize="small")
    _style(axes, "both")
    axes.legend(frameon=False, fontsize="small")
    figure.suptitle(_title(report.model, report.dtype, report.machine), fontsize="medium")
    return _write(figure, paths)


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each engine; transformers is grey."""
    rest = cycle(colour for colour in COLOURS if colour not in (_GREY, "#94a4a2"))
    return {name: _GREY if name == BASELINE else next(rest) for name in names}


@dataclass(frozen=True)
class _Bar:
    name: str
    ratio: float
    tokens_per_second: float


def _bars(result: Result) -> list[_Bar]:
    return [
        _Bar(entry.engine, entry.ratio, entry.tokens_per_second.median)
        for entry in result.entries
        if entry.ratio is not None and entry.tokens_per_second is not None and entry.engine != BASELINE
    ]


def _label(result: Result) -> str:
    name = ",\n".join(result.workload.rsplit(", ", 1))
    if result.of_documents is None:
        return name
    return f"{name}\n{result.documents:,} of {result.of_documents:,} documents"


def _title(model: str, dtype: str, machine: dict[str, str], *rest: str) -> str:
    return f"{model}\n{', '.join((dtype, *rest, machine['processor'], 'torch ' + machine['torch']))}"


def _style(axes: Any, grid: str) -> None:
    axes.tick_params(labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25, lw=0.6, zorder=0)


def _write(figure: Any, paths: tuple[Path, Path]) -> tuple[Path, Path]:
    for path in paths:
        save(figure, path)
    return paths
