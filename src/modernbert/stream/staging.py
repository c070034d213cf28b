"""Asynchronous copies: microbatches to a CUDA device, and a few numbers back to the host.

A microbatch is one buffer of 64-bit words in pinned memory, copied at once; the tensors on the device are views of the
copy. It is padded to few shapes, so that kernels are compiled once and CUDA graphs can be replayed.

Buffers are not reused explicitly: torch's allocator of pinned memory reuses a block after the copies from it are done.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modernbert.packed import IGNORED, Sequences
from modernbert.stream.loader import Batch

_ALIGNMENT = 16  # words: every view begins at a multiple of 128 bytes, for kernels with wide loads
_PREDICTIONS_STEP = 256
_SEQUENCE_STEP = 64


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of the loss for a microbatch, on one device."""

    tokens: Int[Tensor, "tokens"]
    sequences: Sequences
    predicted_positions: Int[Tensor, "predictions"]
    targets: Int[Tensor, "predictions"]  # -100 on padding
    total_predicted: Float[Tensor, ""]  # number of predicted tokens in the update, by which the summed loss is divided

    @classmethod
    def of(cls, batch: Batch, total_predicted: Tensor, device: torch.device) -> "Inputs":
        """Copy a batch without padding, tensor by tensor."""
        return cls(
            batch.input_ids.to(device),
            batch.sequences.to(device),
            batch.predicted_positions.to(device),
            batch.targets.to(device),
            total_predicted.to(torch.float32),
        )


@dataclass(frozen=True)
class Shape:
    """The numbers of tokens, predictions and sequences of a padded microbatch, and the maximum length."""

    tokens: int
    predictions: int
    sequences: int
    max_length: int

    @property
    def words(self) -> int:
        """The size of a buffer, in 64-bit words."""
        return sum(_aligned(words) for words in self._words())

    def inputs(self, buffer: Int[Tensor, "words"], lengths: tuple[int, ...] | None = None) -> Inputs:
        """Views of a buffer. With `lengths` of the sequences, no kernel has to read them from the device."""
        tokens, positions, slots, predicted_positions, targets, ends, total = self._views(buffer)
        sequences = Sequences.unchecked(
            cu_seqlens=ends.view(torch.int32)[: self.sequences + 1],
            max_length=self.max_length,
            positions=positions,
            slots=slots,
            padded_shape=(self.sequences, self.max_length),
        )
        if lengths is not None:
            sequences.__dict__["lengths"] = lengths
        return Inputs(tokens, sequences, predicted_positions, targets, total.view(torch.float32)[0])

    def _words(self) -> tuple[int, ...]:
        return (self.tokens,) * 3 + (self.predictions,) * 2 + (self.sequences // 2 + 1, 1)

    def _views(self, buffer: Tensor) -> list[Tensor]:
        views, first = [], 0
        for words in self._words():
            views.append(buffer[first : first + words])
            first += _aligned(words)
        return views


@dataclass(frozen=True, eq=False)
class StagedBatch:
    """A microbatch in pinned memory."""

    shape: Shape
    buffer: Int[Tensor, "words"]
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> Inputs:
        """Copy the microbatch to a device, into new memory."""
        return self.shape.inputs(self.buffer.to(device, non_blocking=True), self.lengths)


class Staging:
    """Puts microbatches of one phase into buffers of few shapes.

    Sequences of `filler_id`, without predictions, pad each packed sequence to `max_length`. The predictions are padded
    to a number that a batch almost never exceeds (mean and six standard deviations of the masking); the padding has
    position 0 and no target. Empty sequences pad the number of sequences to the largest one so far. Padding changes
    neither loss nor gradients.
    """

    def __init__(self, *, max_length: int, mask_ratio: float, filler_id: int, pinned: bool) -> None:
        self._max_length = max_length
        self._mask_ratio = mask_ratio
        self._filler_id = filler_id
        self._pinned = pinned
        self._most_sequences: dict[int, int] = {}  # by the number of tokens

    def stage(self, batch: Batch, total_predicted: int) -> StagedBatch:
        """Pad a batch. `total_predicted` is the number of predicted tokens in its update."""
        real, tokens = len(batch.input_ids), batch.num_packed_sequences * self._max_length
        full, rest = divmod(tokens - real, self._max_length)
        lengths = (*batch.sequences.lengths, *(self._max_length,) * full, *(rest,) * (rest > 0))
        predictions = padded_predictions(tokens, self._mask_ratio, len(batch.predicted_positions))
        shape = Shape(tokens, predictions, self._num_sequences(tokens, len(lengths)), self._max_length)
        lengths += (0,) * (shape.sequences - len(lengths))
        buffer = torch.empty(shape.words, dtype=torch.int64, pin_memory=self._pinned)
        inputs = shape.inputs(buffer)
        sizes = np.array(lengths)
        ends = sizes.cumsum()
        positions = np.arange(tokens) - np.repeat(ends - sizes, sizes)
        inputs.tokens[:real] = batch.input_ids
        inputs.tokens[real:] = self._filler_id
        inputs.predicted_positions.zero_()[: len(batch.predicted_positions)] = batch.predicted_positions
        inputs.targets.fill_(IGNORED)[: len(batch.predicted_positions)] = batch.targets
        inputs.total_predicted.fill_(total_predicted)
        sequences = inputs.sequences
        sequences.positions.numpy()[:] = positions
        sequences.slots.numpy()[:] = positions + np.repeat(np.arange(len(sizes)) * self._max_length, sizes)
        sequences.cu_seqlens.numpy()[:] = np.concatenate([[0], ends])
        return StagedBatch(shape, buffer, lengths)

    def _num_sequences(self, tokens: int, needed: int) -> int:
        if needed > self._most_sequences.get(tokens, 0):  # with a margin, as the next batch may have a few more
            self._most_sequences[tokens] = _round_up(needed + needed // 4, _SEQUENCE_STEP)
        return self._most_sequences[tokens]


class HostCopy:
    """An asynchronous copy of a tensor to the host. `read` and `tensor` wait until it is complete."""

    def __init__(self, values: Tensor) -> None:
        self._completed: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._completed = torch.cuda.Event()
            self._completed.record()

    def tensor(self) -> Tensor:
        """The values in host memory that is not pinned."""
        if self._completed is None:
            return self._values.cpu()
        self._completed.synchronize()
        return self._values.clone()

    def read(self) -> list[float]:
        if self._completed is not None:
            self._completed.synchronize()
        values: list[float] = self._values.tolist()
        return values


def numbers_to_device(values: list[float], device: torch.device) -> Tensor:
    """Numbers as a tensor on a device, in fp64 if the device supports it."""
    dtype = torch.float64 if device.type != "mps" else torch.float32
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def padded_predictions(tokens: int, mask_ratio: float, predicted: int) -> int:
    """The padded number of predictions of a batch with `predicted` predictions and up to `tokens` tokens."""
    usual = tokens * mask_ratio + 6 * math.sqrt(tokens * mask_ratio * (1 - mask_ratio))
    return _round_up(max(math.ceil(usual), predicted), _PREDICTIONS_STEP)


def _aligned(words: int) -> int:
    return _round_up(words, _ALIGNMENT)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
