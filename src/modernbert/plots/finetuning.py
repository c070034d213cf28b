"""Pictures of a fine-tuning run: the confusion matrix, predicted numbers, and the learning curve."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modernbert.installation import install_command
from modernbert.plots.style import COLOURS, add_packaged_font, pyplot, save

logger = logging.getLogger(__name__)

_MAX_CLASSES_WITH_COUNTS = 24  # of a confusion matrix; cells of a larger one are too small for numbers
# Fonts with Chinese, Japanese and Korean characters; the first one that is installed is used.
_WIDE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "MS Gothic",
    "WenQuanYi Zen Hei",
)


def draw_confusion(names: Sequence[str], matrix: npt.NDArray[np.int64], title: str, path: Path) -> None:
    """Rows are expected classes, columns are predicted classes. Colours show shares of a row, numbers show counts."""
    plt = _pyplot_with_fonts()
    size = min(14.0, 2.6 + 0.55 * len(names))
    figure, axes = plt.subplots(figsize=(size + 0.8, size), layout="constrained")
    shares = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="predicted", ylabel="expected", title=title)
    shown = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
    axes.set_xticklabels(shown, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticklabels(shown, parse_math=False)
    if len(names) <= _MAX_CLASSES_WITH_COUNTS:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#333333"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize="small")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the expected class", shrink=0.8)
    _save(figure, path)


class Run(Protocol):
    """What `draw_curve` needs of one seed of a fine-tuning run."""

    @property
    def seed(self) -> int: ...
    @property
    def best_step(self) -> int: ...
    @property
    def curve(self) -> Sequence[Mapping[str, Any]]: ...  # the lines of metrics.jsonl


def draw_curve(results: Sequence[Run], metric: str, path: Path) -> None:
    """The training loss and, if there is a validation set, its metric with the best evaluation marked."""
    plt = _pyplot_with_fonts()
    validated = any("validation" in line for result in results for line in result.curve)
    figure, panels = plt.subplots(
        1, 2 if validated else 1, figsize=(9 if validated else 5, 3.6), layout="constrained", squeeze=False
    )
    for result, colour in zip(results, cycle(COLOURS), strict=False):
        losses = [(line["epoch"], line["loss"]) for line in result.curve if "loss" in line]
        panels[0, 0].plot(*zip(*losses, strict=True), color=colour, lw=1.4, label=f"seed {result.seed}")
        if validated:
            lines = [line for line in result.curve if "validation" in line]
            panels[0, 1].plot(
                [line["epoch"] for line in lines],
                [line["validation"][metric] for line in lines],
                color=colour, lw=1.4, marker="o", ms=4, label=f"seed {result.seed}",
            )  # fmt: skip
            best = next(line for line in lines if line["step"] == result.best_step)
            panels[0, 1].plot(best["epoch"], best["validation"][metric], marker="*", ms=14, color=colour)
    panels[0, 0].set(xlabel="epoch", title="training loss", ylim=(0, None))
    if validated:
        panels[0, 1].set(xlabel="epoch", title=f"validation, {metric.replace('_', ' ')} (best: star)")
    for panel in panels.flat:
        panel.xaxis.get_major_locator().set_params(integer=True)  # whole epochs
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    if len(results) > 1:
        panels[0, 0].legend(frameon=False, fontsize="small")
    _save(figure, path)


def draw_numbers(expected: Sequence[float], predicted: Sequence[float], title: str, path: Path) -> None:
    """Predicted over expected numbers, with a point for each example."""
    plt = _pyplot_with_fonts()
    figure, axes = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
    axes.plot(expected, predicted, ls="", marker="o", ms=3, alpha=0.35, mew=0, color=COLOURS[0])
    ends = [min(expected), max(expected)]
    axes.plot(ends, ends, color="#333333", lw=1)
    axes.set(xlabel="expected", ylabel="predicted", title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _pyplot_with_fonts() -> Any:
    plt = pyplot()
    from matplotlib import font_manager

    add_packaged_font()
    installed = {font.name for font in font_manager.fontManager.ttflist}
    plt.rcParams["font.family"] = ["DejaVu Sans", *[name for name in _WIDE_FONTS if name in installed][:1]]
    return plt


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph .* missing from", category=UserWarning)
        try:
            save(figure, path)
            return
        except UserWarning:
            logger.warning(
                "%s shows boxes for characters that no installed font has; install one such as Noto Sans CJK, or %s.",
                path.name,
                install_command("japanese"),
            )
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        save(figure, path)
