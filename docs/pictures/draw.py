"""Plot the figures of docs/how-it-works.md: packing, attention and phases, as SVG files next to this one.

python docs/pictures/draw.py
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from modernbert.config import load
from modernbert.packed import Sequences
from modernbert.train.recipe import PretrainRecipe

matplotlib.use("Agg")
FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
COLOURS = ["#3f6fb5", "#d9822b", "#4f9d69", "#a45ea8", "#b5504c", "#6b7280"]
PADDING = "#e6e6e6"
STYLE = {
    "svg.hashsalt": "modernbert",  # the same file each time
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "white",
}


def packing() -> Figure:
    """A padded batch and the packed stream of the same texts: each square is eight tokens."""
    lengths = [16, 5, 9, 3, 12, 7]
    figure, (padded, packed) = plt.subplots(2, 1, figsize=(7.2, 4.6), height_ratios=[6, 2.6], layout="constrained")
    for row, (length, colour) in enumerate(zip(lengths, COLOURS, strict=True)):
        for column in range(max(lengths)):
            _square(padded, column, row, colour if column < length else PADDING)
        padded.text(-0.4, row + 0.45, f"text {row + 1}", ha="right", va="center")
    real, slots = sum(lengths), max(lengths) * len(lengths)
    padded.set_title(f"padded: {slots} squares are computed, {slots - real} of them padding", loc="left")
    column = 0
    for length, colour in zip(lengths, COLOURS, strict=True):
        for _ in range(length):
            _square(packed, column % 26, column // 26, colour)
            column += 1
    packed.set_title(f"packed: {real} squares are computed", loc="left")
    packed.text(
        0, 2.75, "sequences = Sequences.from_lengths(" + str([8 * n for n in lengths]) + ")", family="monospace", size=9
    )
    _blank(padded, max(lengths), len(lengths))
    _blank(packed, 26, 3)
    return figure


def attention() -> Figure:
    """The visible keys of queries in a packed stream of three texts: a global layer and one with a window of two."""
    lengths = [9, 5, 7]
    sequences = Sequences.from_lengths(lengths)
    edges = sequences.cu_seqlens.tolist()
    text = np.repeat(np.arange(len(lengths)), lengths)
    place = sequences.positions.numpy()
    same = text[:, None] == text[None, :]
    near = np.abs(place[:, None] - place[None, :]) <= 2
    figure, both = plt.subplots(1, 2, figsize=(7.2, 3.9), layout="constrained")
    titles = ("global layer (one of three)", "window layer: here 2 tokens on each side")
    for axes, seen, title in zip(both, (same, same & near), titles, strict=True):
        shown = np.where(seen, text[:, None] + 1, 0)
        axes.imshow(shown, cmap=ListedColormap(["#f4f4f4", *COLOURS[:3]]), vmin=0, vmax=3)
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color="white", lw=2)
            axes.axvline(edge - 0.5, color="white", lw=2)
        axes.set(xlabel="keys", ylabel="queries", xticks=[], yticks=[])
        axes.set_title(title, size=10)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def phases() -> Figure:
    """The published base over its tokens, from recipes/base/pretrain.toml."""
    recipe = load(PretrainRecipe, ROOT / "recipes" / "base" / "pretrain.toml")
    figure, (rate, batch, length) = plt.subplots(3, 1, figsize=(7.2, 5.2), sharex=True, layout="constrained")
    begin = 0.0
    for (name, phase), colour in zip(recipe.phases.items(), COLOURS, strict=False):
        tokens = np.linspace(0, phase.tokens, 801)
        x = (begin + tokens) / 1e12
        rate.plot(x, [phase.schedule.learning_rate(int(t), phase.tokens) for t in tokens], color=colour, label=name)
        size = phase.batch_tokens
        grown = np.minimum(1, tokens / size.warmup_tokens) if size.warmup_tokens else np.ones_like(tokens)
        start = size.start or size.tokens
        batch.plot(x, (start + (size.tokens - start) * grown) / 1e6, color=colour)
        length.plot(x, np.full_like(x, phase.max_length), color=colour, lw=3)
        begin += phase.tokens
    for axes, label in (
        (rate, "learning rate"),
        (batch, "million tokens\nof a batch"),
        (length, "tokens of\na sequence"),
    ):
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    rate.legend(frameon=False, loc="lower left")
    length.set_xlabel("trillion tokens")
    figure.align_ylabels()
    return figure


def _square(axes: Axes, column: int, row: int, colour: str) -> None:
    axes.add_patch(plt.Rectangle((column + 0.05, row + 0.05), 0.9, 0.9, color=colour, lw=0))


def _blank(axes: Axes, columns: int, rows: int) -> None:
    axes.set(xlim=(-2.6 if rows > 3 else 0, columns), ylim=(rows, 0), aspect="equal")
    axes.axis("off")


def main() -> None:
    with matplotlib.rc_context(STYLE):
        for draw in (packing, attention, phases):
            path = FOLDER / f"{draw.__name__}.svg"
            draw().savefig(path, metadata={"Date": None})
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
