"""Statistics of a shard folder: documents, packed sequences and packing efficiency."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modernbert.stream.packing import Packer
from modernbert.stream.shards import Documents, Shards
from modernbert.text.framing import FRAME_TOKENS


@dataclass(frozen=True)
class Bin:
    """Documents of at least `start` and fewer than `stop` tokens."""

    start: int
    stop: int
    documents: int


@dataclass(frozen=True)
class Inspection:
    """Statistics of one epoch of packed sequences of `max_length` tokens."""

    folder: str
    max_length: int
    documents: int
    tokens: int
    packed_sequences: int
    chunks: int
    chunks_per_sequence: float
    packing_efficiency: float  # real tokens, [CLS] and [SEP] included, over all positions
    median_length: int
    longest: int
    histogram: tuple[Bin, ...]


def inspect(folder: str | Path, max_length: int, seed: int = 0) -> Inspection:
    """Pack one epoch of a shard folder and compute its statistics.

    Raises:
        DataError: the folder has no valid shards.
    """
    shards = Shards.open(folder)
    packer = Packer(Documents.all_of(shards), max_length, seed)
    packed = chunks = filled = 0
    while True:
        sequence = packer.next_packed_sequence()
        if packer.position.epoch:
            break
        packed, chunks = packed + 1, chunks + len(sequence)
        filled += sum(chunk.length + FRAME_TOKENS for chunk in sequence)
    edges = [0, *(2**power for power in range(4, 64) if 2 ** (power - 1) <= shards.lengths.max())]
    counts = np.histogram(shards.lengths, bins=edges)[0]
    return Inspection(
        folder=str(folder),
        max_length=max_length,
        documents=shards.num_documents,
        tokens=shards.num_tokens,
        packed_sequences=packed,
        chunks=chunks,
        chunks_per_sequence=chunks / packed,
        packing_efficiency=filled / (packed * max_length),
        median_length=int(np.median(shards.lengths)),
        longest=int(shards.lengths.max()),
        histogram=tuple(map(Bin, edges[:-1], edges[1:], counts.tolist())),
    )
