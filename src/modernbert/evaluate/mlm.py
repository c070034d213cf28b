"""How well a masked language model knows texts: bits per byte and accuracy, by source and by length."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from modernbert.errors import ConfigError, DataError
from modernbert.model import MaskedLM
from modernbert.packed import Sequences
from modernbert.progress import Progress
from modernbert.runtime import Precision, select_device
from modernbert.stream.loader import Batch
from modernbert.stream.masking import mask_tokens
from modernbert.text.documents import read_texts
from modernbert.text.framing import Frame
from modernbert.text.tokenizer import Vocabulary, check_fits, load_tokenizer
from modernbert.train.validation import Totals, count

Row = npt.NDArray[np.int64]  # ids of a text, or of a piece of it, with [CLS] and [SEP]

TOKENS_AT_ONCE = 8192
_BORDERS = (0, 128, 512, 2048, 8192)  # tokens of a row


@dataclass(frozen=True)
class Quality:
    """What was measured over some rows: loss in nats per masked token, accuracy, bits per byte of the masked tokens."""

    name: str
    rows: int
    tokens: int
    predictions: int
    loss: float
    accuracy: float
    bits_per_byte: float


@dataclass(frozen=True)
class MaskedQuality:
    """The same rows in all, by their source and by their length in tokens."""

    model: str
    mask_ratio: float
    everything: Quality
    by_source: tuple[Quality, ...]
    by_length: tuple[Quality, ...]


def masked_quality(
    model: str | Path,
    sources: Sequence[str],
    *,
    text_key: str = "text",
    max_length: int | None = None,
    tokens: int = 200_000,
    mask_ratio: float = 0.15,
    seed: int = 0,
    precision: Precision = "fp32",
    device: str = "auto",
) -> MaskedQuality:
    """Mask the first `tokens` tokens of each source and measure how well they are found.

    A source is a path as `modernbert corpus` takes it: JSON lines, Parquet, text, a folder, a glob. Texts over
    `max_length`, by default what the model reads, are cut into rows. Row n of a source is always masked alike.

    Raises:
        DataError: a path leads to no text.
        CheckpointError: there is no such masked language model.
        ConfigError: `max_length` is longer than what the model reads, or the ratio is not between 0 and 1.
    """
    check_mask_ratio(mask_ratio)
    loaded, tokenizer, vocabulary = load_masked_model(model, device)
    reads = loaded.config.max_position_embeddings
    if max_length is not None and not 3 <= max_length <= reads:
        raise ConfigError(f"A length of {max_length} does not fit: {model} reads 3 to {reads} tokens.")
    names = source_names(sources)
    cells: list[_Cell] = []
    with Progress(total=tokens * len(sources), unit=" tokens", unit_scale=True, desc="masked tokens") as progress:
        for name, source in zip(names, sources, strict=True):
            by_length: dict[int, list[tuple[int, Row]]] = {}
            rows = _first(_rows(tokenizer, read_texts([source], text_key), max_length or reads), tokens)
            for number, row in enumerate(rows):
                by_length.setdefault(int(np.searchsorted(_BORDERS[1:], len(row))), []).append((number, row))
            for length, numbered in sorted(by_length.items()):
                totals = Totals()
                for batch in masked_batches(numbered, vocabulary, mask_ratio, seed):
                    totals += count(loaded, [batch], vocabulary, precision)
                    progress.update(len(batch.input_ids))
                cells.append(_Cell(name, length, len(numbered), sum(len(row) for _, row in numbered), totals))
    if not any(cell.totals.predictions for cell in cells):
        raise DataError("No token was masked; give more text.")
    lengths = [f"{low + 1:,} to {high:,}" for low, high in pairwise(_BORDERS)] + [f"over {_BORDERS[-1]:,}"]
    return MaskedQuality(
        str(model),
        mask_ratio,
        _quality("everything", cells),
        tuple(_quality(name, [cell for cell in cells if cell.source == name]) for name in names),
        tuple(
            _quality(lengths[length], [cell for cell in cells if cell.length == length])
            for length in sorted({cell.length for cell in cells})
        ),
    )


def check_mask_ratio(mask_ratio: float) -> None:
    """Refuse what is no part of the tokens, or none or all of them.

    Raises:
        ConfigError: the ratio is not between 0 and 1.
    """
    if not 0 < mask_ratio < 1:
        raise ConfigError(f"The mask ratio is {mask_ratio}; give a part between 0 and 1, such as 0.15.")


def load_masked_model(model: str | Path, device: str) -> tuple[MaskedLM, Tokenizer, Vocabulary]:
    """A masked language model in fp32, and its tokenizer.

    Raises:
        CheckpointError: there is no such model.
        DataError: it has no tokenizer, or one with ids that it does not embed.
    """
    loaded = MaskedLM.from_pretrained(model, device=select_device(device), dtype=torch.float32)
    assert loaded.tokenizer_source is not None
    tokenizer = load_tokenizer(loaded.tokenizer_source)
    check_fits(tokenizer, loaded.config.vocab_size, model)
    return loaded, tokenizer, Vocabulary.of(tokenizer)


def masked_batches(
    rows: Sequence[tuple[int, Row]], vocabulary: Vocabulary, mask_ratio: float, seed: int
) -> Iterator[Batch]:
    """Numbered rows, masked by their number, as many together as fit; a longer one is alone."""
    waiting: list[tuple[Row, Row]] = []
    held = 0
    for number, row in rows:
        if waiting and held + len(row) > TOKENS_AT_ONCE:
            yield batch_of(waiting)
            waiting, held = [], 0
        waiting.append(mask_tokens(row, vocabulary, ratio=mask_ratio, seed=seed, step=number))
        held += len(row)
    if waiting:
        yield batch_of(waiting)


def batch_of(masked: Sequence[tuple[Row, Row]]) -> Batch:
    """Rows of inputs and labels as one packed batch."""
    return Batch(
        torch.from_numpy(np.concatenate([inputs for inputs, _ in masked])),
        torch.from_numpy(np.concatenate([labels for _, labels in masked])),
        Sequences.from_lengths(len(inputs) for inputs, _ in masked),
        len(masked),
    )


def source_names(sources: Sequence[str]) -> list[str]:
    """Files by their name without its endings, where that tells them apart; otherwise by their path."""
    short = [Path(source).name.partition(".")[0] or source for source in sources]
    return [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]


def _rows(tokenizer: Tokenizer, texts: Iterator[str], max_length: int) -> Iterator[Row]:
    frame = Frame.of(tokenizer)
    room = frame.content_length(max_length)
    tokenizer.encode_special_tokens = True  # "[MASK]" written in a text is text
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for begin in range(0, len(ids), room):
            yield frame.ids(ids[begin : begin + room]).astype(np.int64)


def _first(rows: Iterator[Row], tokens: int) -> Iterator[Row]:
    """Whole rows until `tokens` tokens are reached."""
    seen = 0
    for row in rows:
        yield row
        seen += len(row)
        if seen >= tokens:
            return


@dataclass(frozen=True)
class _Cell:
    """Rows of one source and one stretch of lengths."""

    source: str
    length: int  # which stretch
    rows: int
    tokens: int
    totals: Totals


def _quality(name: str, cells: Sequence[_Cell]) -> Quality:
    totals = sum((cell.totals for cell in cells), Totals())
    nothing = {"loss": math.nan, "accuracy": math.nan, "bits_per_byte": math.nan}
    found = totals.results() if totals.predictions else nothing
    return Quality(
        name,
        sum(cell.rows for cell in cells),
        sum(cell.tokens for cell in cells),
        int(totals.predictions),
        found["loss"],
        found["accuracy"],
        found["bits_per_byte"],
    )
