"""Quality of a masked language model: bits per byte and accuracy, by source and by length."""

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

Row = npt.NDArray[np.int64]  # ids of a text or a part of it, with [CLS] and [SEP]

BATCH_TOKENS = 8192
_LENGTH_LIMITS = (0, 128, 512, 2048, 8192)  # tokens of a row


@dataclass(frozen=True)
class Quality:
    """Results over some rows: loss in nats per masked token, accuracy, bits per byte of the masked tokens."""

    name: str
    rows: int
    tokens: int
    predictions: int
    loss: float
    accuracy: float
    bits_per_byte: float


@dataclass(frozen=True)
class MaskedQuality:
    """Results over all rows, by source, and by length in tokens."""

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
    """Mask the first `tokens` tokens of each source and measure how well the model predicts them.

    A source is a path in the form of `modernbert corpus`: JSON lines, Parquet, text, a folder, a glob. Texts longer
    than `max_length` (default: the limit of the model) are split into rows. The mask of row n of a source is always the
    same.

    Raises:
        DataError: a path has no text.
        CheckpointError: there is no such masked language model.
        ConfigError: `max_length` is above the limit of the model, or the ratio is not between 0 and 1.
    """
    check_mask_ratio(mask_ratio)
    loaded, tokenizer, vocabulary = load_masked_model(model, device)
    limit = loaded.config.max_position_embeddings
    if max_length is not None and not 3 <= max_length <= limit:
        raise ConfigError(f"A length of {max_length} does not fit: {model} reads 3 to {limit} tokens.")
    names = source_names(sources)
    groups: list[_Group] = []
    with Progress(total=tokens * len(sources), unit=" tokens", unit_scale=True, desc="masked tokens") as progress:
        for name, source in zip(names, sources, strict=True):
            by_length: dict[int, list[tuple[int, Row]]] = {}
            rows = _first(_rows(tokenizer, read_texts([source], text_key), max_length or limit), tokens)
            for number, row in enumerate(rows):
                by_length.setdefault(int(np.searchsorted(_LENGTH_LIMITS[1:], len(row))), []).append((number, row))
            for length, numbered in sorted(by_length.items()):
                totals = Totals()
                for batch in masked_batches(numbered, vocabulary, mask_ratio, seed):
                    totals += count(loaded, [batch], vocabulary, precision)
                    progress.update(len(batch.input_ids))
                groups.append(_Group(name, length, len(numbered), sum(len(row) for _, row in numbered), totals))
    if not any(group.totals.predictions for group in groups):
        raise DataError("No token was masked; give more text.")
    lengths = [f"{low + 1:,} to {high:,}" for low, high in pairwise(_LENGTH_LIMITS)] + [f"over {_LENGTH_LIMITS[-1]:,}"]
    return MaskedQuality(
        str(model),
        mask_ratio,
        _quality("everything", groups),
        tuple(_quality(name, [group for group in groups if group.source == name]) for name in names),
        tuple(
            _quality(lengths[length], [group for group in groups if group.length == length])
            for length in sorted({group.length for group in groups})
        ),
    )


def check_mask_ratio(mask_ratio: float) -> None:
    """Check the mask ratio.

    Raises:
        ConfigError: the ratio is not between 0 and 1.
    """
    if not 0 < mask_ratio < 1:
        raise ConfigError(f"The mask ratio is {mask_ratio}; it must be between 0 and 1, such as 0.15.")


def load_masked_model(model: str | Path, device: str) -> tuple[MaskedLM, Tokenizer, Vocabulary]:
    """A masked language model in fp32, and its tokenizer.

    Raises:
        CheckpointError: there is no such model.
        DataError: it has no tokenizer, or its tokenizer has more ids than the model embeds.
    """
    loaded = MaskedLM.from_pretrained(model, device=select_device(device), dtype=torch.float32)
    assert loaded.tokenizer_source is not None
    tokenizer = load_tokenizer(loaded.tokenizer_source)
    check_fits(tokenizer, loaded.config.vocab_size, model)
    return loaded, tokenizer, Vocabulary.of(tokenizer)


def masked_batches(
    rows: Sequence[tuple[int, Row]], vocabulary: Vocabulary, mask_ratio: float, seed: int
) -> Iterator[Batch]:
    """Batches of at most BATCH_TOKENS tokens, or one longer row. The number of a row determines its mask."""
    pending: list[tuple[Row, Row]] = []
    tokens = 0
    for number, row in rows:
        if pending and tokens + len(row) > BATCH_TOKENS:
            yield batch_of(pending)
            pending, tokens = [], 0
        pending.append(mask_tokens(row, vocabulary, ratio=mask_ratio, seed=seed, step=number))
        tokens += len(row)
    if pending:
        yield batch_of(pending)


def batch_of(masked: Sequence[tuple[Row, Row]]) -> Batch:
    """Rows of inputs and labels as one packed batch."""
    return Batch(
        torch.from_numpy(np.concatenate([inputs for inputs, _ in masked])),
        torch.from_numpy(np.concatenate([labels for _, labels in masked])),
        Sequences.from_lengths(len(inputs) for inputs, _ in masked),
        len(masked),
    )


def source_names(sources: Sequence[str]) -> list[str]:
    """The name of each file without suffixes if it is unique, otherwise its path."""
    short = [Path(source).name.partition(".")[0] or source for source in sources]
    return [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]


def _rows(tokenizer: Tokenizer, texts: Iterator[str], max_length: int) -> Iterator[Row]:
    frame = Frame.of(tokenizer)
    row_tokens = frame.content_length(max_length)
    tokenizer.encode_special_tokens = True  # "[MASK]" written in a text is text
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for begin in range(0, len(ids), row_tokens):
            yield frame.ids(ids[begin : begin + row_tokens]).astype(np.int64)


def _first(rows: Iterator[Row], tokens: int) -> Iterator[Row]:
    """Rows until `tokens` tokens are reached."""
    seen = 0
    for row in rows:
        yield row
        seen += len(row)
        if seen >= tokens:
            return


@dataclass(frozen=True)
class _Group:
    """Results over the rows of one source in one range of lengths."""

    source: str
    length: int  # index of the range
    rows: int
    tokens: int
    totals: Totals


def _quality(name: str, groups: Sequence[_Group]) -> Quality:
    totals = sum((group.totals for group in groups), Totals())
    nothing = {"loss": math.nan, "accuracy": math.nan, "bits_per_byte": math.nan}
    results = totals.results() if totals.predictions else nothing
    return Quality(
        name,
        sum(group.rows for group in groups),
        sum(group.tokens for group in groups),
        int(totals.predictions),
        results["loss"],
        results["accuracy"],
        results["bits_per_byte"],
    )
