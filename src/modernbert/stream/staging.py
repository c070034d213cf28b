"""Microbatches on their way to a CUDA device, and a few numbers on their way back. Nobody waits for either.

A microbatch is one buffer of 64-bit words in pinned memory and one copy; the tensors on the device are views of the
buffer there. It is padded to few shapes, so that kernels are compiled once and CUDA graphs can be replayed.

Buffers need no turns: torch's allocator of pinned memory gives a block out again only when the copies from it are over.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modernbert.packed import IGNORED, Sequences
from modernbert.stream.loader import Batch

_ALIGNMENT = 16  # words: every view begins at a multiple of 128 bytes, as kernels with wide loads like it
_ROW_STEP = 256
_SEQUENCE_STEP = 64


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a microbatch gives to the loss, on one device."""

    tokens: Int[Tensor, "tokens"]
    sequences: Sequences
    rows: Int[Tensor, "rows"]
    targets: Int[Tensor, "rows"]  # -100 on padding
    predicted: Float[Tensor, ""]  # tokens predicted in the whole update: what the sum of losses is divided by

    @classmethod
    def of(cls, batch: Batch, predicted: Tensor, device: torch.device) -> "Inputs":
        """A batch as it is, tensor by tensor."""
        return cls(
            batch.input_ids.to(device),
            batch.sequences.to(device),
            batch.rows.to(device),
            batch.targets.to(device),
            predicted.to(torch.float32),
        )


@dataclass(frozen=True)
class Shape:
    """How many tokens, predicted rows and sequences a microbatch has with its padding, and the longest sequence."""

    tokens: int
    rows: int
    sequences: int
    max_length: int

    @property
    def words(self) -> int:
        """The size of a buffer, in 64-bit words."""
        return sum(_aligned(words) for words in self._words())

    def inputs(self, buffer: Int[Tensor, "words"], lengths: tuple[int, ...] | None = None) -> Inputs:
        """Views of a buffer. With `lengths`, those of the sequences, no kernel has to ask the device for them."""
        tokens, positions, slots, rows, targets, ends, predicted = self._views(buffer)
        sequences = Sequences.unchecked(
            cu_seqlens=ends.view(torch.int32)[: self.sequences + 1],
            max_length=self.max_length,
            positions=positions,
            slots=slots,
            padded_shape=(self.sequences, self.max_length),
        )
        if lengths is not None:
            sequences.__dict__["lengths"] = lengths
        return Inputs(tokens, sequences, rows, targets, predicted.view(torch.float32)[0])

    def _words(self) -> tuple[int, ...]:
        return (self.tokens,) * 3 + (self.rows,) * 2 + (self.sequences // 2 + 1, 1)

    def _views(self, buffer: Tensor) -> list[Tensor]:
        views, first = [], 0
        for words in self._words():
            views.append(buffer[first : first + words])
            first += _aligned(words)
        return views


@dataclass(frozen=True, eq=False)
class Staged:
    """A microbatch in pinned memory, ready for its copy."""

    shape: Shape
    buffer: Int[Tensor, "words"]
    lengths: tuple[int, ...]

    def on(self, device: torch.device) -> Inputs:
        """On a device, in memory of its own."""
        return self.shape.inputs(self.buffer.to(device, non_blocking=True), self.lengths)


class Staging:
    """Puts microbatches of one phase into buffers of few shapes.

    Behind the real tokens come sequences of `filler_id` up to `max_length` for each row, with nothing to predict. The
    predicted rows are as many as a batch has with all but certainty (mean and six standard deviations of the
    masking), or more where that is not enough; the surplus ones name row 0 and count for nothing. Empty sequences
    follow up to the largest number that was needed so far. None of this changes loss or gradients.
    """

    def __init__(self, *, max_length: int, mask_ratio: float, filler_id: int, pinned: bool) -> None:
        self._max_length = max_length
        self._mask_ratio = mask_ratio
        self._filler_id = filler_id
        self._pinned = pinned
        self._most_sequences: dict[int, int] = {}  # by the number of tokens

    def stage(self, batch: Batch, predicted: int) -> Staged:
        """A batch with its padding. `predicted` is the number of tokens that its whole update predicts."""
        real, tokens = len(batch.input_ids), batch.num_rows * self._max_length
        full, rest = divmod(tokens - real, self._max_length)
        lengths = (*batch.sequences.lengths, *(self._max_length,) * full, *(rest,) * (rest > 0))
        rows = padded_rows(tokens, self._mask_ratio, len(batch.rows))
        shape = Shape(tokens, rows, self._num_sequences(tokens, len(lengths)), self._max_length)
        lengths += (0,) * (shape.sequences - len(lengths))
        buffer = torch.empty(shape.words, dtype=torch.int64, pin_memory=self._pinned)
        inputs = shape.inputs(buffer)
        sizes = np.array(lengths)
        ends = sizes.cumsum()
        positions = np.arange(tokens) - np.repeat(ends - sizes, sizes)
        inputs.tokens[:real] = batch.input_ids
        inputs.tokens[real:] = self._filler_id
        inputs.rows.zero_()[: len(batch.rows)] = batch.rows
        inputs.targets.fill_(IGNORED)[: len(batch.rows)] = batch.targets
        inputs.predicted.fill_(predicted)
        sequences = inputs.sequences
        sequences.positions.numpy()[:] = positions
        sequences.slots.numpy()[:] = positions + np.repeat(np.arange(len(sizes)) * self._max_length, sizes)
        sequences.cu_seqlens.numpy()[:] = np.concatenate([[0], ends])
        return Staged(shape, buffer, lengths)

    def _num_sequences(self, tokens: int, needed: int) -> int:
        if needed > self._most_sequences.get(tokens, 0):  # with room, as the next batch may have a few more
            self._most_sequences[tokens] = _round_up(needed + needed // 4, _SEQUENCE_STEP)
        return self._most_sequences[tokens]


class Arriving:
    """Numbers on their way from the device. `read` and `tensor` wait until they are there."""

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def tensor(self) -> Tensor:
        """On the host, in memory that is not pinned."""
        if self._arrived is None:
            return self._values.cpu()
        self._arrived.synchronize()
        return self._values.clone()

    def read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[float] = self._values.tolist()
        return found


def send(values: list[float], device: torch.device) -> Tensor:
    """Numbers as a tensor on a device, in fp64 where it has that."""
    dtype = torch.float64 if device.type != "mps" else torch.float32
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def padded_rows(tokens: int, mask_ratio: float, predicted: int) -> int:
    """How many rows to decode where `predicted` of at most `tokens` tokens are masked."""
    usual = tokens * mask_ratio + 6 * math.sqrt(tokens * mask_ratio * (1 - mask_ratio))
    return _round_up(max(math.ceil(usual), predicted), _ROW_STEP)


def _aligned(words: int) -> int:
    return _round_up(words, _ALIGNMENT)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
