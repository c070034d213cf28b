"""Loss by position in long held-out documents, which shows the effect of a context extension."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from modernbert import config as toml
from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write
from modernbert.model import MaskedLM
from modernbert.packed import IGNORED, Sequences
from modernbert.plots.style import pyplot
from modernbert.progress import Progress
from modernbert.runtime import autocast, select_device
from modernbert.stream.masking import mask_tokens
from modernbert.stream.shards import Shards
from modernbert.text.framing import Frame
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train import checkpoint
from modernbert.train.recipe import PretrainRecipe

_BINS = 16
_MIN_LENGTH = 1024


@dataclass(frozen=True)
class Curve:
    """Mean loss (nats per masked token) of one model in each bin of positions, and its standard error over rows."""

    model: str
    starts: tuple[int, ...]
    loss: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True)
class Positions:
    """The curves of some models over the same rows and the same masks."""

    length: int
    rows: int
    curves: tuple[Curve, ...]


def loss_by_position(
    run: Path, models: Sequence[str] = (), *, length: int = 8192, rows: int = 24, device: str = "auto"
) -> Positions:
    """Mask 15 % of rows of `length` tokens, each of one held-out document of `run`, and measure the loss by position.

    The default models are those at the ends of the run's phases. Matrix products are in bf16.

    Raises:
        DataError: `run` is not a run directory, or no held-out document is long enough.
        ConfigError: no model is named and the run has not ended a phase yet, or `length` is too short.
    """
    if not (run / "recipe.toml").is_file():
        raise DataError(f"{run} holds no recipe.toml; give the directory of a run.")
    if length < _MIN_LENGTH:
        raise ConfigError(f"A length of {length} tokens is too short for {_BINS} bins; give at least {_MIN_LENGTH}.")
    recipe = toml.load(PretrainRecipe, run / "recipe.toml")
    vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
    named = {name: Path(name) for name in models} or _phase_ends(run, recipe)
    masked = [
        mask_tokens(ids, vocabulary, ratio=recipe.validation.mask_ratio, seed=0, step=number)
        for number, ids in enumerate(_long_rows(recipe, vocabulary, length, rows))
    ]
    chosen = select_device(device)
    curves = []
    for name, folder in named.items():
        model = MaskedLM.from_pretrained(folder, device=chosen, dtype=torch.float32).eval()
        if model.config.vocab_size < vocabulary.size:
            raise ConfigError(f"{folder} does not have the vocabulary of the run in {run}; name models of this run.")
        sums = np.stack([_sums(model, inputs, labels) for inputs, labels in Progress(masked, desc=name, unit=" rows")])
        curves.append(_curve(name, sums, length))
    return Positions(length, len(masked), tuple(curves))


def plot_positions(positions: Positions, path: Path) -> None:
    """Draw the curves, each with a band of two standard errors. The suffix of `path` decides the format.

    Raises:
        DataError: matplotlib is missing.
        ConfigError: the suffix is not supported.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path} must end in .png, .svg or .pdf.")
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for curve in positions.curves:
        middles = np.array(curve.starts) + positions.length / _BINS / 2
        loss, error = np.array(curve.loss), np.array(curve.error)
        [line] = axes.plot(middles, loss, "o-", ms=3, lw=1.3, label=curve.model)
        axes.fill_between(middles, loss - 2 * error, loss + 2 * error, color=line.get_color(), alpha=0.15, lw=0)
    axes.set(
        xlabel="position in the document (tokens)", ylabel="loss (nats per masked token)", xlim=(0, positions.length)
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix.removeprefix("."))
    plt.close(figure)


def _phase_ends(run: Path, recipe: PretrainRecipe) -> Mapping[str, Path]:
    ends = checkpoint.phase_ends(run / "checkpoints")
    if not ends:
        raise ConfigError(f"The run in {run} has not ended a phase yet; name models with --model.")
    names = list(recipe.phases)
    return {f"after {names[phase]}": folder for phase, folder in ends.items()}


def _long_rows(recipe: PretrainRecipe, vocabulary: Vocabulary, length: int, count: int) -> list[np.ndarray]:
    """Full rows of held-out documents, taken from the sources in turn."""
    frame = Frame(vocabulary.cls_id, vocabulary.sep_id)
    row_tokens = frame.content_length(length)
    by_source = []
    for data in recipe.data.values():
        held_out = Shards.open(data.path).split(recipe.validation.fraction).validation
        by_source.append(
            [
                held_out.shards.slice(int(document), start, start + row_tokens)
                for document, tokens in zip(held_out.indices, held_out.lengths.tolist(), strict=True)
                for start in range(0, tokens - row_tokens + 1, row_tokens)
            ]
        )
    interleaved = [rows[turn] for turn in range(max(map(len, by_source))) for rows in by_source if turn < len(rows)]
    if not interleaved:
        raise DataError(
            f"No held-out document of the run has {row_tokens:,} tokens; give a smaller --length, or hold out more "
            "(validation.fraction)."
        )
    return [frame.ids(ids).astype(np.int64) for ids in interleaved[:count]]


@torch.inference_mode()
def _sums(model: MaskedLM, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(2, bins): the sum and the number of the losses in each bin of positions."""
    device = next(model.parameters()).device
    tokens, targets = torch.from_numpy(inputs).to(device), torch.from_numpy(labels).to(device)
    predicted = targets != IGNORED
    with autocast(device, "bf16"):
        logits = model.logits_at(tokens, Sequences.from_lengths([len(inputs)], device=device), predicted)
    losses = F.cross_entropy(logits.float(), targets[predicted], reduction="none").double().cpu()
    places = predicted.nonzero()[:, 0].cpu() * _BINS // len(inputs)
    return np.stack([np.bincount(places, weights=losses, minlength=_BINS), np.bincount(places, minlength=_BINS)])


def _curve(name: str, sums: np.ndarray, length: int) -> Curve:
    loss = sums[:, 0].sum(0) / sums[:, 1].sum(0)
    residuals = sums[:, 0] - loss * sums[:, 1]  # for the standard error of a ratio of sums
    error = np.sqrt((residuals**2).sum(0) / max(1, len(sums) - 1) / len(sums)) / sums[:, 1].mean(0)
    starts = tuple(length * number // _BINS for number in range(_BINS))
    return Curve(name, starts, tuple(loss.tolist()), tuple(error.tolist()))
