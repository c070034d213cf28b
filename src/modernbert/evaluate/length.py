"""Quality and speed by sequence length: bits per byte and tokens/s from 128 to 8,192 tokens, on equal masked tokens."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tokenizers import Tokenizer

from modernbert.errors import ConfigError, DataError
from modernbert.evaluate.mlm import BATCH_TOKENS, Row, batch_of, check_mask_ratio, load_masked_model
from modernbert.progress import Progress
from modernbert.runtime import Precision
from modernbert.stream.loader import Batch
from modernbert.stream.masking import framed_labels, mask_tokens
from modernbert.text.documents import read_texts
from modernbert.text.framing import Frame
from modernbert.text.tokenizer import Vocabulary
from modernbert.train.validation import Totals, count

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class LengthResult:
    """Rows of one length: quality over all masked tokens, and the median speed of batches of about 8,192 tokens."""

    length: int
    rows: int
    predictions: int
    loss: float
    accuracy: float
    bits_per_byte: float
    tokens_per_second: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class LengthReport:
    """Results for the same stretches of documents, masked once, in rows of each length."""

    model: str
    stretches: int
    tokens: int
    threads: int
    precision: str
    results: tuple[LengthResult, ...]


def quality_by_length(
    model: str | Path,
    sources: Sequence[str],
    *,
    text_key: str = "text",
    lengths: Sequence[int] = (),
    stretches: int = 16,
    mask_ratio: float = 0.15,
    seed: int = 0,
    precision: Precision = "fp32",
    device: str = "auto",
) -> LengthReport:
    """Mask stretches of long documents once, and measure them in rows of each of `lengths`.

    Every length predicts the same tokens, and only their context differs. The default lengths are those from 128 to
    8,192 that the model supports. A stretch is as long as the longest row.

    Raises:
        DataError: a path has no text, or no document is long enough.
        CheckpointError: there is no such masked language model.
        ConfigError: the model does not support a length, `stretches` is below 1, or the ratio is not between 0 and 1.
    """
    check_mask_ratio(mask_ratio)
    if stretches < 1:
        raise ConfigError(f"stretches is {stretches}; it must be at least 1.")
    loaded, tokenizer, vocabulary = load_masked_model(model, device)
    max_length = loaded.config.max_position_embeddings
    chosen = sorted(set(lengths)) or [length for length in LENGTHS if length <= max_length] or [max_length]
    if chosen[0] < 8 or chosen[-1] > max_length:
        raise ConfigError(f"The lengths must be from 8 to {max_length} tokens, which is what {model} reads.")
    masked = [
        mask_tokens(ids, vocabulary, ratio=mask_ratio, seed=seed, step=number)
        for number, ids in enumerate(
            _stretches(tokenizer, sources, text_key, Frame.content_length(chosen[-1]), stretches)
        )
    ]
    results = []
    with Progress(total=len(chosen) * len(masked), unit=" stretches", desc="lengths") as progress:
        for length in chosen:
            batches = list(_batches(masked, length, vocabulary))
            count(loaded, batches[:1], vocabulary, precision)  # warm-up, not timed
            totals, speeds = Totals(), []
            for batch in batches:
                began = time.perf_counter()
                totals += count(loaded, [batch], vocabulary, precision)
                speeds.append(len(batch.input_ids) / (time.perf_counter() - began))
                progress.update(len(masked) / len(batches))
            if not totals.predictions:
                raise DataError("No token was masked; give more or longer documents.")
            quality = totals.results()
            results.append(
                LengthResult(
                    length,
                    sum(batch.num_packed_sequences for batch in batches),
                    int(totals.predictions),
                    quality["loss"],
                    quality["accuracy"],
                    quality["bits_per_byte"],
                    median(speeds),
                    max(speeds),
                    min(speeds),
                )
            )
    tokens = sum(len(inputs) for inputs, _ in masked)
    return LengthReport(str(model), len(masked), tokens, torch.get_num_threads(), precision, tuple(results))


def _stretches(tokenizer: Tokenizer, sources: Sequence[str], text_key: str, size: int, limit: int) -> list[Row]:
    """The first `limit` stretches of `size` tokens, each of one document, without special tokens."""
    rows: list[Row] = []
    tokenizer.encode_special_tokens = True  # "[MASK]" written in a text is text
    for text in read_texts(sources, text_key):
        if 4 * len(text) < size:  # a character has at most four bytes, and a byte at most one token
            continue
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        rows += [ids[begin : begin + size] for begin in range(0, len(ids) - size + 1, size)]
        if len(rows) >= limit:
            break
    if not rows:
        raise DataError(f"No document has {size:,} tokens; give longer ones, or smaller --length.")
    return rows[:limit]


def _batches(masked: Sequence[tuple[Row, Row]], length: int, vocabulary: Vocabulary) -> Iterator[Batch]:
    """Batches of the stretches, split into rows of `length` tokens with [CLS] and [SEP]."""
    frame = Frame(vocabulary.cls_id, vocabulary.sep_id)
    row_tokens = frame.content_length(length)
    rows = [
        (
            frame.ids(inputs[begin : begin + row_tokens]).astype(np.int64),
            framed_labels(labels[begin : begin + row_tokens]),
        )
        for inputs, labels in masked
        for begin in range(0, len(inputs), row_tokens)
    ]
    at_once = max(1, BATCH_TOKENS // length)
    for first in range(0, len(rows), at_once):
        yield batch_of(rows[first : first + at_once])
