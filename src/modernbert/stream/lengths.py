"""Lengths of documents, and the packed sequences that result from them, without reading tokens."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from modernbert.config import Config
from modernbert.errors import DataError
from modernbert.stream.packing import Packer
from modernbert.stream.shards import Documents, Shard, Shards
from modernbert.text.framing import FRAME_TOKENS

Ints = npt.NDArray[np.int64]

SAMPLE_DOCUMENTS = 4 * 16_384  # a multiple of the packer's buffer
ASSUMPTION = "assumed: log-normal, median 500 tokens, sigma 1.2"


def assumed_lengths() -> Ints:
    """Random lengths as in `ASSUMPTION` (mean about a thousand tokens, a long tail), if no lengths are known."""
    lengths = np.random.Generator(np.random.PCG64DXSM(0)).lognormal(np.log(500), 1.2, SAMPLE_DOCUMENTS)
    return np.maximum(1, lengths).astype(np.int64)


class _Bin(Config):
    start: NonNegativeInt
    stop: PositiveInt
    documents: NonNegativeInt


class _Histogram(Config, extra="ignore"):
    histogram: tuple[_Bin, ...] = Field(min_length=1)
    longest: PositiveInt | None = None


def histogram_lengths(path: Path) -> Ints:
    """Random lengths from the histogram of `modernbert inspect --json`, log-uniform in each bin.

    Raises:
        DataError: the file cannot be read, or has no document.
    """
    try:
        parsed = _Histogram.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        raise DataError(
            f"{path} is not a length histogram; write one with `modernbert inspect SHARDS --json`."
        ) from None
    bins = [bin_ for bin_ in parsed.histogram if bin_.documents and bin_.stop > max(1, bin_.start)]
    if not bins:
        raise DataError(f"{path} has no document; write it with `modernbert inspect SHARDS --json`.")
    generator = np.random.Generator(np.random.PCG64DXSM(0))
    counts = np.array([bin_.documents for bin_ in bins], dtype=np.float64)
    chosen = generator.choice(len(bins), size=SAMPLE_DOCUMENTS, p=counts / counts.sum())
    low = np.log([max(1, bin_.start) for bin_ in bins])[chosen]
    high = np.log([min(bin_.stop, (parsed.longest or bin_.stop - 1) + 1) for bin_ in bins])[chosen]
    return np.exp(low + (high - low).clip(min=0) * generator.random(SAMPLE_DOCUMENTS)).astype(np.int64).clip(min=1)


@dataclass(frozen=True)
class PackingStatistics:
    """Averages over the packed sequences of a source or a mixture."""

    max_length: int
    tokens_per_sequence: Fraction  # including [CLS] and [SEP], without padding
    chunks_per_token: float
    keys: Mapping[int | None, float]  # mean number of keys that a token attends to, by window; None is global

    @property
    def packing_efficiency(self) -> float:
        return float(self.tokens_per_sequence / self.max_length)


def packing_statistics(lengths: Ints, max_length: int, windows: Collection[int | None]) -> PackingStatistics:
    """Pack documents of these lengths (a sample of them, if there are many) as training does, and compute averages.

    Raises:
        ConfigError: `max_length` is too short for [CLS], [SEP] and a token.
        DataError: the documents hold no token.
    """
    if len(lengths) > SAMPLE_DOCUMENTS:
        lengths = np.random.Generator(np.random.PCG64DXSM(0)).choice(lengths, SAMPLE_DOCUMENTS)
    ends = np.cumsum(lengths).astype(np.uint64)
    shard = Shard(Path("sample"), np.zeros(0, dtype=np.uint16), ends)  # the packer reads lengths only
    packer = Packer(Documents.all_of(Shards(Path("sample"), [shard], None)), max_length, seed=0)
    sizes: list[int] = []
    packed = buffer = 0
    while True:
        sequence = packer.next_packed_sequence()
        position = packer.position
        enough = position.buffer > buffer and len(sizes) >= SAMPLE_DOCUMENTS  # after a complete buffer
        if position.epoch or enough:
            break
        buffer = position.buffer
        packed += 1
        sizes += [chunk.length + FRAME_TOKENS for chunk in sequence]
    size = np.array(sizes)
    tokens = int(size.sum())
    keys = {window: float(visible_keys(size, window).sum() / tokens) for window in windows}
    return PackingStatistics(max_length, Fraction(tokens, packed), len(size) / tokens, keys)


def mixture_statistics(sources: Mapping[str, PackingStatistics], weights: Mapping[str, float]) -> PackingStatistics:
    """The statistics of a mixture whose sources have these shares of the tokens."""
    total = sum(map(Fraction, weights.values()))
    shares = {name: Fraction(weight) / total for name, weight in weights.items()}
    first = next(iter(sources.values()))
    sequences_per_token = sum(
        (share / sources[name].tokens_per_sequence for name, share in shares.items()), Fraction(0)
    )
    return PackingStatistics(
        max_length=first.max_length,
        tokens_per_sequence=1 / sequences_per_token,
        chunks_per_token=sum(float(share) * sources[name].chunks_per_token for name, share in shares.items()),
        keys={
            window: sum(float(share) * sources[name].keys[window] for name, share in shares.items())
            for window in first.keys
        },
    )


def visible_keys(lengths: Ints, window: int | None) -> Ints:
    """Number of query-key pairs with attention in sequences of these lengths: all, or those with |i - j| <= window."""
    if window is None:
        return lengths**2
    reach = np.minimum(window, lengths - 1)
    return lengths * (2 * reach + 1) - reach * (reach + 1)
