"""Packed, masked batches from a weighted mixture of shard folders. Its state is a few integers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.packed import IGNORED, Sequences
from modernbert.stream.masking import mask_tokens
from modernbert.stream.packing import Chunk, Packer, Position
from modernbert.stream.shards import Documents, Shards
from modernbert.text.framing import FRAME_TOKENS, Frame
from modernbert.text.tokenizer import Vocabulary


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows as one packed stream: each sequence is one chunk with its [CLS] and [SEP]. On the host.

    `rows` and `targets` are what `MaskedLM.loss_at` takes; they are found here, so that no device is asked for them.
    """

    input_ids: Int[Tensor, "tokens"]
    labels: Int[Tensor, "tokens"]
    sequences: Sequences
    num_rows: int

    @cached_property
    def rows(self) -> Int[Tensor, "predicted"]:
        """The numbers of the tokens that are predicted."""
        return torch.from_numpy(np.flatnonzero(self.labels.numpy() != IGNORED))

    @cached_property
    def targets(self) -> Int[Tensor, "predicted"]:
        """The ids that these tokens had before they were masked."""
        return self.labels[self.rows]

    def without_labels(self) -> "Batch":
        """The same tokens with nothing to predict."""
        return replace(self, labels=torch.full_like(self.labels, IGNORED))


@dataclass(frozen=True)
class Row:
    """One row of the stream before its tokens are read: its number, its source, and the chunks of documents in it."""

    number: int
    source: str
    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        """With [CLS] and [SEP] of each chunk."""
        return sum(chunk.length + FRAME_TOKENS for chunk in self.chunks)


class Loader:
    """Rows of several sources in the proportions of `weights`, by tokens.

    The next row comes from the source whose share of the tokens served so far is furthest below its weight: no chance
    is involved, and at any time no source is more than a row ahead of its share. The stream depends on `seed` only, not
    on how it is cut into batches: row n is masked with (seed, n).

    Raises:
        ConfigError: sources and weights differ in names, a weight is not above 0, or `max_length` is below 3.
        DataError: a source holds no token.
    """

    def __init__(
        self,
        sources: Mapping[str, Documents],
        weights: Mapping[str, float],
        vocabulary: Vocabulary,
        *,
        max_length: int,
        mask_ratio: float,
        seed: int,
    ) -> None:
        if not sources or sources.keys() != weights.keys() or min(weights.values()) <= 0:
            raise ConfigError(
                f"The sources {sorted(sources)} need a weight above 0 each and no other; given are {dict(weights)}."
            )
        self._vocabulary = vocabulary
        self._max_length = max_length
        self._mask_ratio = mask_ratio
        self._seed = seed
        total = sum(weights.values())
        self._weights = {name: weight / total for name, weight in weights.items()}
        self._shards = {name: documents.shards for name, documents in sources.items()}
        self._packers = {name: Packer(documents, max_length, seed) for name, documents in sources.items()}
        self._served = dict.fromkeys(sources, 0)
        self._rows = 0
        self._elsewhere: dict[str, Any] = {}  # positions of sources that this mixture leaves out

    def next_batch(self, rows: int) -> Batch:
        """The next `rows` rows, at least one."""
        return self.batch(self.next_rows(rows))

    def next_rows(self, count: int) -> list[Row]:
        """Move on by `count` rows without reading them: several processes draw all rows and read their own."""
        return [self._next_row() for _ in range(count)]

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Read, frame and mask some rows, at least one."""
        assert rows
        return _batch(rows, self._shards, self._vocabulary, self._mask_ratio, self._seed)

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain integers and names for JSON."""
        positions = {name: asdict(packer.position) for name, packer in self._packers.items()}
        return {
            "rows": self._rows,
            "max_length": self._max_length,
            "weights": self._weights,
            "served": self._served.copy(),
            "positions": self._elsewhere | positions,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. After a change of `max_length` each source goes on at its next buffer of documents, as
        rows of another length are other rows: no document comes twice in an epoch, and what was left of the buffer
        waits for the next one. After a change of weights, the counts start again.
        """
        self._rows = state["rows"]
        if state["weights"] == self._weights:
            self._served = dict(state["served"])
        for name, position in state["positions"].items():
            at = Position(**position)
            if state["max_length"] != self._max_length and at.row:
                at = Position(at.epoch, at.buffer + 1)
            if name in self._packers:
                self._packers[name].position = at
            else:
                self._elsewhere[name] = asdict(at)

    def _next_row(self) -> Row:
        total = sum(self._served.values())
        name = max(self._served, key=lambda source: self._weights[source] * total - self._served[source])
        chunks = self._packers[name].next_row()
        row = Row(self._rows, name, tuple(chunks))
        self._served[name] += row.num_tokens
        self._rows += 1
        return row


def validation_batches(
    documents: Documents, vocabulary: Vocabulary, *, max_length: int, tokens: int, mask_ratio: float
) -> list[Batch]:
    """About `tokens` tokens of held-out documents, at most one epoch of them: the same rows and masks every time."""
    packer = Packer(documents, max_length, seed=0)
    rows: list[Row] = []
    count = 0
    while count < tokens:
        chunks = packer.next_row()
        if packer.position.epoch:
            break
        rows.append(Row(len(rows), "", tuple(chunks)))
        count += rows[-1].num_tokens
    at_once = max(1, 16_384 // max_length)
    return [
        _batch(rows[first : first + at_once], {"": documents.shards}, vocabulary, mask_ratio, seed=0)
        for first in range(0, len(rows), at_once)
    ]


def _batch(
    rows: Sequence[Row], shards: Mapping[str, Shards], vocabulary: Vocabulary, mask_ratio: float, seed: int
) -> Batch:
    frame = Frame(vocabulary.cls_id, vocabulary.sep_id)
    inputs, labels, lengths = [], [], []
    for row in rows:
        parts: list[npt.NDArray[np.integer]] = []
        for chunk in row.chunks:
            ids = shards[row.source].slice(chunk.document, chunk.start, chunk.start + chunk.length)
            parts += frame.parts(ids)
            lengths.append(chunk.length + FRAME_TOKENS)
        masked, label = mask_tokens(
            np.concatenate(parts, dtype=np.int64), vocabulary, ratio=mask_ratio, seed=seed, step=row.number
        )
        inputs.append(masked)
        labels.append(label)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(inputs)),
        labels=torch.from_numpy(np.concatenate(labels)),
        sequences=Sequences.from_lengths(lengths),
        num_rows=len(rows),
    )
