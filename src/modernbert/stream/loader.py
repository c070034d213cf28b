"""Packed, masked batches from a weighted mixture of shard folders. The state of the loader is a few integers."""

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
    """Some packed sequences as one stream: each sequence is one chunk with its [CLS] and [SEP]. On the host.

    `predicted_positions` and `targets` are arguments of `MaskedLM.loss_at`. They are computed here, so that the host
    does not wait for the device.
    """

    input_ids: Int[Tensor, "tokens"]
    labels: Int[Tensor, "tokens"]
    sequences: Sequences
    num_packed_sequences: int

    @cached_property
    def predicted_positions(self) -> Int[Tensor, "predicted"]:
        """The positions of the predicted tokens in the stream."""
        return torch.from_numpy(np.flatnonzero(self.labels.numpy() != IGNORED))

    @cached_property
    def targets(self) -> Int[Tensor, "predicted"]:
        """The ids of the predicted tokens before masking."""
        return self.labels[self.predicted_positions]

    def without_labels(self) -> "Batch":
        """The same tokens without predictions."""
        return replace(self, labels=torch.full_like(self.labels, IGNORED))


@dataclass(frozen=True)
class PackedSequence:
    """A packed sequence before its tokens are read: its number in the stream, its source and its chunks."""

    number: int
    source: str
    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        """Including [CLS] and [SEP] of each chunk."""
        return sum(chunk.length + FRAME_TOKENS for chunk in self.chunks)


class Loader:
    """Packed sequences of several sources in the proportions of `weights`, by tokens.

    The next packed sequence comes from the source whose share of the tokens so far is furthest below its weight. This
    is deterministic, and no source is ever more than one packed sequence ahead of its share. The stream depends on
    `seed` only, not on the batches: packed sequence n is masked with (seed, n).

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
                f"The sources {sorted(sources)} need one weight above 0 each; the weights are {dict(weights)}."
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
        self._num_packed = 0
        self._unused_positions: dict[str, Any] = {}  # of sources that are not in this mixture

    def next_batch(self, count: int) -> Batch:
        """The next `count` packed sequences, at least one."""
        return self.batch(self.next_packed_sequences(count))

    def next_packed_sequences(self, count: int) -> list[PackedSequence]:
        """Advance by `count` packed sequences without reading their tokens; each process then reads its own ones."""
        return [self._next_packed_sequence() for _ in range(count)]

    def batch(self, packed: Sequence[PackedSequence]) -> Batch:
        """Read and mask some packed sequences, at least one."""
        assert packed
        return _batch(packed, self._shards, self._vocabulary, self._mask_ratio, self._seed)

    def state(self) -> dict[str, Any]:
        """The position in the stream, as integers and names for JSON."""
        positions = {name: asdict(packer.position) for name, packer in self._packers.items()}
        return {
            "rows": self._num_packed,
            "max_length": self._max_length,
            "weights": self._weights,
            "served": self._served.copy(),
            "positions": self._unused_positions | positions,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        After a change of `max_length`, each source continues at its next buffer of documents, as its packed sequences
        are different ones. So no document is read twice in an epoch; the rest of the buffer is skipped in this epoch.
        After a change of weights, the token counts restart.
        """
        self._num_packed = state["rows"]
        if state["weights"] == self._weights:
            self._served = dict(state["served"])
        for name, position in state["positions"].items():
            start = Position(**position)
            if state["max_length"] != self._max_length and start.row:
                start = Position(start.epoch, start.buffer + 1)
            if name in self._packers:
                self._packers[name].position = start
            else:
                self._unused_positions[name] = asdict(start)

    def _next_packed_sequence(self) -> PackedSequence:
        total = sum(self._served.values())
        name = max(self._served, key=lambda source: self._weights[source] * total - self._served[source])
        chunks = self._packers[name].next_packed_sequence()
        packed = PackedSequence(self._num_packed, name, tuple(chunks))
        self._served[name] += packed.num_tokens
        self._num_packed += 1
        return packed


def validation_batches(
    documents: Documents, vocabulary: Vocabulary, *, max_length: int, tokens: int, mask_ratio: float
) -> list[Batch]:
    """About `tokens` tokens of held-out documents, at most one epoch, always packed and masked alike."""
    packer = Packer(documents, max_length, seed=0)
    packed: list[PackedSequence] = []
    count = 0
    while count < tokens:
        chunks = packer.next_packed_sequence()
        if packer.position.epoch:
            break
        packed.append(PackedSequence(len(packed), "", tuple(chunks)))
        count += packed[-1].num_tokens
    per_batch = max(1, 16_384 // max_length)
    return [
        _batch(packed[first : first + per_batch], {"": documents.shards}, vocabulary, mask_ratio, seed=0)
        for first in range(0, len(packed), per_batch)
    ]


def _batch(
    packed: Sequence[PackedSequence], shards: Mapping[str, Shards], vocabulary: Vocabulary, mask_ratio: float, seed: int
) -> Batch:
    frame = Frame(vocabulary.cls_id, vocabulary.sep_id)
    inputs, labels, lengths = [], [], []
    for sequence in packed:
        parts: list[npt.NDArray[np.integer]] = []
        for chunk in sequence.chunks:
            ids = shards[sequence.source].slice(chunk.document, chunk.start, chunk.start + chunk.length)
            parts += frame.parts(ids)
            lengths.append(chunk.length + FRAME_TOKENS)
        masked, label = mask_tokens(
            np.concatenate(parts, dtype=np.int64), vocabulary, ratio=mask_ratio, seed=seed, step=sequence.number
        )
        inputs.append(masked)
        labels.append(label)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(inputs)),
        labels=torch.from_numpy(np.concatenate(labels)),
        sequences=Sequences.from_lengths(lengths),
        num_packed_sequences=len(packed),
    )
