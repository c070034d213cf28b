"""Documents into rows of a token budget: best fit, split where they are longer, in an order that a seed fixes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert.errors import ConfigError, DataError
from modernbert.stream.shards import Counts, Documents
from modernbert.text.framing import FRAME_TOKENS

_BUFFER_DOCUMENTS = 16_384  # packed together: large enough that the last, unfilled row is below 0.1 %

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """A document, or the part of one that fits a row."""

    document: int
    start: int
    length: int


@dataclass(frozen=True)
class Position:
    """Where a source stands: rows before `row` of this buffer of this epoch are used."""

    epoch: int = 0
    buffer: int = 0
    row: int = 0


def cut(lengths: Ints, max_length: int) -> tuple[Ints, Ints, Ints]:
    """Cut documents into chunks of at most `max_length - 2` tokens: index of the document, start, length of each."""
    room = max_length - FRAME_TOKENS
    counts = -(-lengths // room)
    owner = np.repeat(np.arange(len(lengths)), counts)
    start = (np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)) * room
    return owner, start, np.minimum(room, lengths[owner] - start)


def best_fit(sizes: Ints, capacity: int) -> list[list[int]]:
    """Best-fit decreasing: put each item, largest first, into the fullest row that still holds it.

    Rows are lists of item numbers; none exceeds `capacity`, and no item may. The open rows are kept by remaining space,
    and a bit mask of the spaces that occur finds the smallest sufficient one.
    """
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0
    order = np.argsort(-sizes, kind="stable")
    for item, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
            rows[row].append(item)
        else:
            space, row = capacity, len(rows)
            rows.append([item])
        left = space - size
        if left > FRAME_TOKENS:  # less holds no chunk
            by_space[left].append(row)
            spaces |= 1 << left
    return rows


class Packer:
    """The endless rows of one source. Every token comes exactly once an epoch; each epoch has its own order.

    An epoch is a PCG64DXSM permutation of the documents, cut into buffers; each buffer is packed by itself and its rows
    are shuffled. So a `Position` of three integers is the whole state.

    Raises:
        ConfigError: `max_length` leaves no room beside [CLS] and [SEP].
        DataError: the documents hold no token.
    """

    def __init__(self, documents: Documents, max_length: int, seed: int, position: Position | None = None) -> None:
        if max_length <= FRAME_TOKENS:
            raise ConfigError(f"A row of {max_length} tokens has no room beside [CLS] and [SEP]; give at least 3.")
        if not documents.lengths.any():
            raise DataError(f"{documents.shards.folder} holds no token; write it again from a corpus with text.")
        self._documents = documents
        self._max_length = max_length
        self._seed = seed
        self.position = position or Position()
        self._order_epoch = -1
        self._order: Counts = documents.indices[:0]
        self._rows_of = (-1, -1)
        self._rows: list[list[int]] = []
        none: Ints = np.empty(0, dtype=np.int64)
        self._chunks: tuple[Counts, Ints, Ints] = (self._order, none, none)

    def next_row(self) -> list[Chunk]:
        """The next row. Passes into the next buffer and the next epoch by itself."""
        while True:
            at = self.position
            if at.buffer * _BUFFER_DOCUMENTS >= len(self._documents.indices):
                self.position = Position(epoch=at.epoch + 1)
                continue
            if self._rows_of != (at.epoch, at.buffer):
                self._pack(at.epoch, at.buffer)
            if at.row < len(self._rows):
                self.position = Position(at.epoch, at.buffer, at.row + 1)
                document, start, length = (column[self._rows[at.row]].tolist() for column in self._chunks)
                return list(map(Chunk, document, start, length))
            self.position = Position(at.epoch, at.buffer + 1)

    def _pack(self, epoch: int, buffer: int) -> None:
        if self._order_epoch != epoch:
            generator = np.random.Generator(np.random.PCG64DXSM([self._seed, epoch]))
            self._order, self._order_epoch = generator.permutation(self._documents.indices), epoch
        members = self._order[buffer * _BUFFER_DOCUMENTS : (buffer + 1) * _BUFFER_DOCUMENTS]
        owner, start, length = cut(self._documents.shards.lengths[members].astype(np.int64), self._max_length)
        self._chunks = (members[owner], start, length)
        self._rows = best_fit(length + FRAME_TOKENS, self._max_length)
        np.random.Generator(np.random.PCG64DXSM([self._seed, epoch, buffer])).shuffle(self._rows)
        self._rows_of = (epoch, buffer)
