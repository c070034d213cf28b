"""Packed sequences: the only form of a batch that the encoder knows. Padding lives in `pack` and `unpack`."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from modernbert.errors import DataError


@dataclass(frozen=True, eq=False)
class Sequences:
    """Where each sequence of a packed stream begins, and which padded slot each token came from.

    `cu_seqlens` (int32, one more than there are sequences) are the running ends, FlashAttention's convention. A
    sequence may be empty. Positions restart at 0 in every sequence and count real tokens only.
    Two objects are equal only if they are the same one, so kernels may cache what they derive from it.
    """

    cu_seqlens: Int[Tensor, "boundaries"]
    max_length: int
    positions: Int[Tensor, "tokens"]
    slots: Int[Tensor, "tokens"]
    padded_shape: tuple[int, int]

    @classmethod
    def from_lengths(cls, lengths: Iterable[int], device: torch.device | str | None = None) -> "Sequences":
        """Sequences that lie one after the other; `unpack` puts each into a row of its own, left-aligned.

        Raises:
            DataError: there is no sequence, or a length is negative.
        """
        numbers = torch.tensor(list(lengths), dtype=torch.int64)
        if numbers.numel() == 0 or int(numbers.min()) < 0:
            raise DataError("A packed batch needs at least one sequence, and no length below 0.")
        max_length = int(numbers.max())
        ends = numbers.cumsum(0)
        rows = torch.repeat_interleave(torch.arange(len(numbers)), numbers)
        positions = torch.arange(int(ends[-1])) - (ends - numbers)[rows]
        made = cls(
            cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(device, torch.int32),
            max_length=max_length,
            positions=positions.to(device),
            slots=(rows * max_length + positions).to(device),
            padded_shape=(len(numbers), max_length),
        )
        made.__dict__["lengths"] = tuple(numbers.tolist())  # known on the host: nobody waits for the device
        return made

    def to(self, device: torch.device | str) -> "Sequences":
        """The same sequences on another device."""
        moved = Sequences(
            self.cu_seqlens.to(device),
            self.max_length,
            self.positions.to(device),
            self.slots.to(device),
            self.padded_shape,
        )
        if "lengths" in self.__dict__:
            moved.__dict__["lengths"] = self.lengths
        return moved

    def filled(self, tokens: int) -> "Sequences":
        """One more sequence behind the others, so long that there are so many tokens in all; itself if there are.

        It belongs to no row: what is computed for it is to be cut off before `unpack`.
        """
        more = tokens - self.num_tokens
        if more == 0:
            return self
        filler = torch.arange(more, dtype=self.positions.dtype, device=self.device)
        return Sequences(
            torch.cat([self.cu_seqlens, self.cu_seqlens.new_full((1,), tokens)]),
            max(self.max_length, more),
            torch.cat([self.positions, filler]),
            torch.cat([self.slots, filler.new_full((more,), -1)]),
            self.padded_shape,
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


def pack(
    input_ids: Shaped[Tensor, "batch length *rest"],
    attention_mask: Tensor | None = None,
) -> tuple[Shaped[Tensor, "tokens *rest"], Sequences]:
    """Take the padding out of a batch. The mask is (batch, length), 1 or true on real tokens; without one all are real.

    Works for ids, labels or hidden states, and for any mask: left or right padding, holes, rows without a token (which
    become empty sequences, so that sequence i is always row i).

    Raises:
        DataError: the mask is of another shape, holds other values than 0 and 1, or leaves no token at all.
    """
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
        raise DataError("The attention mask leaves no token at all; give at least one real token.")
    lengths = real.sum(1)
    ends = lengths.cumsum(0)
    positions = torch.arange(slots.numel(), device=slots.device) - (ends - lengths)[slots // length]
    sequences = Sequences(
        cu_seqlens=torch.nn.functional.pad(ends, (1, 0)).to(torch.int32),
        max_length=int(lengths.max()),
        positions=positions,
        slots=slots,
        padded_shape=(batch, length),
    )
    return input_ids.flatten(0, 1)[slots], sequences


def unpack(output: Shaped[Tensor, "tokens *rest"], sequences: Sequences) -> Shaped[Tensor, "batch length *rest"]:
    """Put every token back where `pack` took it from, with zeros on padding. Differentiable.

    Raises:
        DataError: `output` has another number of tokens than `sequences`.
    """
    if len(output) != sequences.num_tokens:
        raise DataError(
            f"The output has {len(output)} rows but its sequences have {sequences.num_tokens} tokens; "
            "unpack with the sequences that pack returned beside these tokens."
        )
    batch, length = sequences.padded_shape
    padded = output.new_zeros(batch * length, *output.shape[1:])
    return padded.index_copy(0, sequences.slots, output).unflatten(0, (batch, length))
