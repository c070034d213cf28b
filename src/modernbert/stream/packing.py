"""Pack documents into sequences of a maximum length: best fit, split if they are longer, in an order set by a seed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert.errors import ConfigError, DataError
from modernbert.stream.shards import Counts, Documents
from modernbert.text.framing import FRAME_TOKENS

_BUFFER_DOCUMENTS = 16_384  # packed together; the last, incomplete sequence of a buffer is below 0.1 % of it

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """A document, or a part of one that fits into a packed sequence."""

    document: int
    start: int
    length: int


@dataclass(frozen=True)
class Position:
    """The position in a source: `row` is the index of the next packed sequence in a buffer of an epoch."""

    epoch: int = 0
    buffer: int = 0
    row: int = 0


def split_documents(lengths: Ints, max_length: int) -> tuple[Ints, Ints, Ints]:
    """Split documents into chunks of at most `max_length - 2` tokens: index of the document, start, length of each."""
    chunk_length = max_length - FRAME_TOKENS
    counts = -(-lengths // chunk_length)
    owner = np.repeat(np.arange(len(lengths)), counts)
    start = (np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)) * chunk_length
    return owner, start, np.minimum(chunk_length, lengths[owner] - start)


def best_fit(sizes: Ints, capacity: int) -> list[list[int]]:
    """Best-fit decreasing: put each item, largest first, into the fullest bin that has space for it.

    Bins are lists of item indices. No bin exceeds `capacity`, and no item may. Open bins are grouped by remaining
    space; a bit mask of the existing spaces gives the smallest sufficient one.
    """
    bins: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0
    order = np.argsort(-sizes, kind="stable")
    for item, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            bin_ = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
            bins[bin_].append(item)
        else:
            space, bin_ = capacity, len(bins)
            bins.append([item])
        left = space - size
        if left > FRAME_TOKENS:  # smaller spaces fit no chunk
            by_space[left].append(bin_)
            spaces |= 1 << left
    return bins


class Packer:
    """An endless stream of packed sequences of one source. Each epoch has every token once, in its own order.

    An epoch is a PCG64DXSM permutation of the documents, split into buffers. Each buffer is packed separately, and its
    packed sequences are shuffled. So the complete state is a `Position` of three integers.

    Raises:
        ConfigError: `max_length` is too short for [CLS], [SEP] and a token.
        DataError: the documents hold no token.
    """

    def __init__(self, documents: Documents, max_length: int, seed: int, position: Position | None = None) -> None:
        if max_length <= FRAME_TOKENS:
            raise ConfigError(
                f"A max_length of {max_length} is too short for [CLS], [SEP] and a token; give at least 3."
            )
        if not documents.lengths.any():
            raise DataError(f"{documents.shards.folder} holds no token; write it again from a corpus with text.")
        self._documents = documents
        self._max_length = max_length
        self._seed = seed
        self.position = position or Position()
        self._order_epoch = -1
        self._order: Counts = documents.indices[:0]
        self._packed_buffer = (-1, -1)
        self._packed: list[list[int]] = []
        none: Ints = np.empty(0, dtype=np.int64)
        self._chunks: tuple[Counts, Ints, Ints] = (self._order, none, none)

    def next_packed_sequence(self) -> list[Chunk]:
        """The next packed sequence; after the last one of a buffer or an epoch, that of the next one."""
        while True:
            position = self.position
            if position.buffer * _BUFFER_DOCUMENTS >= len(self._documents.indices):
                self.position = Position(epoch=position.epoch + 1)
                continue
            if self._packed_buffer != (position.epoch, position.buffer):
                self._pack(position.epoch, position.buffer)
            if position.row < len(self._packed):
                self.position = Position(position.epoch, position.buffer, position.row + 1)
                document, start, length = (column[self._packed[position.row]].tolist() for column in self._chunks)
                return list(map(Chunk, document, start, length))
            self.position = Position(position.epoch, position.buffer + 1)

    def _pack(self, epoch: int, buffer: int) -> None:
        if self._order_epoch != epoch:
            generator = np.random.Generator(np.random.PCG64DXSM([self._seed, epoch]))
            self._order, self._order_epoch = generator.permutation(self._documents.indices), epoch
        members = self._order[buffer * _BUFFER_DOCUMENTS : (buffer + 1) * _BUFFER_DOCUMENTS]
        owner, start, length = split_documents(
            self._documents.shards.lengths[members].astype(np.int64), self._max_length
        )
        self._chunks = (members[owner], start, length)
        self._packed = best_fit(length + FRAME_TOKENS, self._max_length)
        np.random.Generator(np.random.PCG64DXSM([self._seed, epoch, buffer])).shuffle(self._packed)
        self._packed_buffer = (epoch, buffer)
