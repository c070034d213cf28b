"""Packed sequences, the only form of a batch that the encoder accepts. `pack` and `unpack` convert padded batches."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import index

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from modernbert.errors import DataError

IGNORED = -100  # the label of a token without loss, as everywhere in PyTorch
_MAX_TOKENS = 2**31 - 1  # boundaries are int32


@dataclass(frozen=True, eq=False)
class Sequences:
    """Where each sequence of a packed batch begins, and the slot of each token in the padded batch.

    `cu_seqlens` (int32, number of sequences + 1) are the boundaries, in FlashAttention's convention. A
    sequence may be empty. Positions restart at 0 in every sequence and count real tokens only.
    Equality is identity, so that kernels may cache values derived from an object.
    """

    cu_seqlens: Int[Tensor, "boundaries"]
    max_length: int
    positions: Int[Tensor, "tokens"]
    slots: Int[Tensor, "tokens"]
    padded_shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Check that the tensors are consistent. Kernels access memory by them without further checks.

        This waits for a CUDA device. Code of this package uses `unchecked`, as its tensors are always consistent.

        Raises:
            DataError: a tensor has a wrong dtype, shape or device, or boundaries, positions, slots and `max_length` do
                not describe the same sequences.
        """
        if reason := self._invalid_form() or (self._invalid_values() if self._values_readable() else None):
            raise DataError(f"These sequences are not consistent: {reason}; make them with pack or from_lengths.")

    @classmethod
    def unchecked(
        cls, cu_seqlens: Tensor, max_length: int, positions: Tensor, slots: Tensor, padded_shape: tuple[int, int]
    ) -> "Sequences":
        """Sequences from tensors that are known to be consistent, without checks and without waiting for a device.

        `max_length` may be larger than the longest sequence.
        """
        sequences = object.__new__(cls)
        sequences.__dict__.update(
            cu_seqlens=cu_seqlens, max_length=max_length, positions=positions, slots=slots, padded_shape=padded_shape
        )
        return sequences

    def _invalid_form(self) -> str | None:
        ends, positions, slots = self.cu_seqlens, self.positions, self.slots
        if not all(isinstance(x, Tensor) for x in (ends, positions, slots)):
            return "cu_seqlens, positions and slots must be tensors"
        if ends.dtype != torch.int32 or ends.dim() != 1 or ends.numel() < 2 or not ends.is_contiguous():
            return (
                "cu_seqlens must be contiguous, one-dimensional and int32, with one number more than there are "
                f"sequences, not {tuple(ends.shape)} in {ends.dtype}"
            )
        for name, x in (("positions", positions), ("slots", slots)):
            if x.dtype not in (torch.int32, torch.int64) or x.dim() != 1:
                return f"{name} must have one integer for each token, not {tuple(x.shape)} in {x.dtype}"
        if positions.shape != slots.shape:
            return f"there are {len(positions)} positions and {len(slots)} slots"
        if not ends.device == positions.device == slots.device:
            return f"cu_seqlens is on {ends.device}, positions on {positions.device} and slots on {slots.device}"
        if len(self.padded_shape) != 2 or min(self.padded_shape) < 0:
            return f"padded_shape must be (rows, length), not {self.padded_shape}"
        return None

    def _values_readable(self) -> bool:
        """False on the device `meta` and while torch traces."""
        return type(self.cu_seqlens) is Tensor and self.device.type != "meta" and not torch.compiler.is_compiling()

    def _invalid_values(self) -> str | None:
        ends = self.cu_seqlens.to("cpu", torch.int64)
        positions, slots = self.positions.cpu(), self.slots.cpu()
        lengths = ends.diff()
        if int(ends[0]) != 0 or int(lengths.min()) < 0 or int(ends[-1]) != len(positions):
            return f"cu_seqlens does not rise from 0 to the {len(positions)} tokens"
        if self.max_length != int(lengths.max()):
            return f"max_length is {self.max_length} where the longest sequence has {int(lengths.max())} tokens"
        expected = torch.arange(len(positions)) - torch.repeat_interleave(ends[:-1], lengths)
        if not torch.equal(positions.long(), expected):
            return "positions do not count from 0 in each sequence"
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < self.padded_shape[0] * self.padded_shape[1]:
            return f"a slot lies outside the padded batch of {self.padded_shape}"
        if len(slots.unique()) != len(slots):
            return "two tokens have the same slot"
        return None

    @classmethod
    def from_lengths(cls, lengths: Iterable[int], device: torch.device | str | None = None) -> "Sequences":
        """Consecutive sequences; `unpack` puts each into its own row, left-aligned.

        Raises:
            DataError: there is no sequence, a length is negative or not an integer, or there are 2^31 tokens or more.
        """
        try:
            counts = [index(length) for length in lengths]
        except TypeError:
            raise DataError("The lengths of sequences must be integers.") from None
        if not counts or min(counts) < 0:
            raise DataError("A packed batch needs at least one sequence, and no length below 0.")
        if sum(counts) > _MAX_TOKENS:
            raise DataError(f"A packed batch holds at most {_MAX_TOKENS} tokens; split it into several batches.")
        max_length, tokens = max(counts), sum(counts)
        ends = torch.tensor([0, *accumulate(counts)], dtype=torch.int32)
        cu_seqlens = to_device(ends, ends.device if device is None else torch.device(device))
        # The other tensors are computed on the device: no further copy, no waiting.
        rows = torch.repeat_interleave(cu_seqlens.diff().long(), output_size=tokens)
        positions = torch.arange(tokens, device=cu_seqlens.device) - cu_seqlens.long()[rows]
        sequences = cls.unchecked(
            cu_seqlens=cu_seqlens,
            max_length=max_length,
            positions=positions,
            slots=rows * max_length + positions,
            padded_shape=(len(counts), max_length),
        )
        sequences.__dict__["lengths"] = tuple(counts)  # known on the host, so no use waits for the device
        return sequences

    def to(self, device: torch.device | str) -> "Sequences":
        """The same sequences on another device."""
        moved = Sequences.unchecked(
            self.cu_seqlens.to(device),
            self.max_length,
            self.positions.to(device),
            self.slots.to(device),
            self.padded_shape,
        )
        if "lengths" in self.__dict__:
            moved.__dict__["lengths"] = self.lengths
        return moved

    def padded_to(self, tokens: int) -> "Sequences":
        """Add a padding sequence at the end, so that there are `tokens` tokens in total.

        It belongs to no row: cut off its outputs before `unpack`.
        """
        padding = tokens - self.num_tokens
        if padding == 0:
            return self
        assert padding > 0, f"{self.num_tokens} tokens cannot be padded to {tokens}"
        positions = torch.arange(padding, dtype=self.positions.dtype, device=self.device)
        return Sequences.unchecked(
            torch.cat([self.cu_seqlens, self.cu_seqlens.new_full((1,), tokens)]),
            max(self.max_length, padding),
            torch.cat([self.positions, positions]),
            torch.cat([self.slots, positions.new_full((padding,), -1)]),
            self.padded_shape,
        )

    def require_ids(self, tokens: object) -> None:
        """Check that tokens are ids, one for each token of the sequences, on their device. Their values are not read.

        Raises:
            DataError: they are not.
        """
        if not isinstance(tokens, Tensor) or tokens.dim() != 1 or tokens.dtype not in (torch.int64, torch.int32):
            given = f"{tuple(tokens.shape)} in {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
            raise DataError(f"Tokens are ids in one dimension, int64 or int32, as pack returns them, not {given}.")
        self.require(tokens)

    def require(self, tokens: Tensor) -> None:
        """Check that the tokens have the number and the device of the sequences.

        Raises:
            DataError: there are more or fewer, or they are on another device.
        """
        if len(tokens) != self.num_tokens:
            raise DataError(
                f"There are {len(tokens)} tokens but the sequences have {self.num_tokens}; "
                "give the tokens and the sequences that pack returned together."
            )
        if tokens.device != self.device:
            raise DataError(
                f"The tokens are on {tokens.device} but the sequences on {self.device}; move them with sequences.to()."
            )

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each sequence, on the host. The first use waits for the device."""
        return tuple(self.cu_seqlens.diff().tolist())

    @property
    def num_sequences(self) -> int:
        return self.cu_seqlens.numel() - 1

    @property
    def num_tokens(self) -> int:
        return self.positions.numel()

    @property
    def device(self) -> torch.device:
        return self.cu_seqlens.device


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. A copy to CUDA goes through pinned memory, so that the host does not wait.

    torch reuses the pinned memory only after the copy is finished.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def pack(
    input_ids: Shaped[Tensor, "batch length *rest"],
    attention_mask: Tensor | None = None,
) -> tuple[Shaped[Tensor, "tokens *rest"], Sequences]:
    """Remove the padding of a batch. The mask is (batch, length), 1 or true on real tokens; default: all are real.

    It accepts ids, labels or hidden states, and any mask: left or right padding, gaps, and rows without a token. Such a
    row becomes an empty sequence, so that sequence i is always row i.

    Raises:
        DataError: the ids are not a batch; or the mask has another shape, other values than 0 and 1, or no 1.
    """
    if input_ids.dim() < 2:
        raise DataError(f"A batch is (batch, length), not {tuple(input_ids.shape)}; give one text as a batch of one.")
    batch, length = input_ids.shape[:2]
    if attention_mask is None:
        attention_mask = torch.ones(batch, length, dtype=torch.bool, device=input_ids.device)
    if attention_mask.shape != (batch, length):
        raise DataError(
            f"The attention mask is {tuple(attention_mask.shape)} but the batch is {(batch, length)}; "
            "give one 0 or 1 for each token."
        )
    real = attention_mask.to(torch.bool)
    if attention_mask.dtype != torch.bool and not torch.equal(real.to(attention_mask.dtype), attention_mask):
        raise DataError("The attention mask holds other values than 0 and 1; give one 0 or 1 for each token.")
    slots = real.flatten().nonzero().squeeze(1)
    if slots.numel() == 0:
        raise DataError("The attention mask has no real token; give at least one.")
    lengths = real.sum(1)
    ends = lengths.cumsum(0)
    positions = torch.arange(slots.numel(), device=slots.device) - (ends - lengths)[slots // length]
    sequences = Sequences.unchecked(
        cu_seqlens=torch.nn.functional.pad(ends, (1, 0)).to(torch.int32),
        max_length=int(lengths.max()),
        positions=positions,
        slots=slots,
        padded_shape=(batch, length),
    )
    return input_ids.flatten(0, 1)[slots], sequences


def unpack(output: Shaped[Tensor, "tokens *rest"], sequences: Sequences) -> Shaped[Tensor, "batch length *rest"]:
    """Put every token back into its slot of the padded batch, with zeros on padding. Differentiable.

    Raises:
        DataError: `output` has another number of tokens than `sequences`.
    """
    if len(output) != sequences.num_tokens:
        raise DataError(
            f"The output has {len(output)} rows but its sequences have {sequences.num_tokens} tokens; "
            "unpack with the sequences that pack returned together with these tokens."
        )
    batch, length = sequences.padded_shape
    padded = output.new_zeros(batch * length, *output.shape[1:])
    return padded.index_copy(0, sequences.slots, output).unflatten(0, (batch, length))
