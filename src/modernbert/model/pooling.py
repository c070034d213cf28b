"""From hidden states of packed tokens to one vector for each sequence."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modernbert.packed import Sequences

PoolingMode = Literal["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"]


class Pooling(nn.Module):
    """One vector for each sequence, in fp32; the vectors of several modes are concatenated.

    `weightedmean` gives token n of a sequence, counted from 1, the weight n (SGPT, arXiv 2202.08904). Without
    `include_prompt`, the first `prompt_tokens` tokens including [CLS] are ignored, as in sentence-transformers.
    """

    def __init__(self, modes: tuple[PoolingMode, ...], include_prompt: bool = True) -> None:
        super().__init__()
        self.include_prompt = include_prompt
        self.poolings = [_POOLINGS[mode] for mode in modes]

    def forward(
        self, x: Float[Tensor, "tokens hidden"], sequences: Sequences, prompt_tokens: int = 0
    ) -> Float[Tensor, "sequences pooled"]:
        """The pooled vectors; zeros for an empty sequence. `prompt_tokens` is the length of the prompt with [CLS]."""
        first = 0 if self.include_prompt else prompt_tokens
        return torch.cat([pooling(x.float(), sequences, first) for pooling in self.poolings], dim=-1)


def _owners(x: Tensor, sequences: Sequences) -> Tensor:
    """The number of the sequence of each token."""
    return torch.repeat_interleave(sequences.cu_seqlens.diff(), output_size=len(x))


def _sums(x: Tensor, sequences: Sequences, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of each sequence's tokens, and the sum of the weights."""
    owners = _owners(x, sequences)
    count = sequences.num_sequences
    sums = x.new_zeros(count, x.shape[1]).index_add(0, owners, x * weights.unsqueeze(1))
    return sums, x.new_zeros(count).index_add(0, owners, weights).unsqueeze(1)


def mean_pooling(x: Tensor, sequences: Sequences, first: int) -> Tensor:
    """The mean over the tokens of each sequence from token `first` on; zeros if there is no such token."""
    sums, count = _sums(x, sequences, (sequences.positions >= first).float())
    return sums / count.clamp(min=1e-9)


def _mean_sqrt_length(x: Tensor, sequences: Sequences, first: int) -> Tensor:
    sums, count = _sums(x, sequences, (sequences.positions >= first).float())
    return sums / count.clamp(min=1e-9).sqrt()


def _weighted_mean(x: Tensor, sequences: Sequences, first: int) -> Tensor:
    positions = sequences.positions
    sums, weight = _sums(x, sequences, (positions + 1).float() * (positions >= first))
    return sums / weight.clamp(min=1e-9)


def first_pooling(x: Tensor, sequences: Sequences, first: int) -> Tensor:
    """Token `first` of each sequence, or token 0 if the sequence is shorter; zeros for an empty sequence."""
    lengths = sequences.cu_seqlens.diff()
    return _at(x, sequences.cu_seqlens[:-1] + torch.where(lengths > first, first, 0), lengths)


def _last(x: Tensor, sequences: Sequences, first: int) -> Tensor:
    return _at(x, sequences.cu_seqlens[1:] - 1, sequences.cu_seqlens.diff())


def _at(x: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    if not len(x):
        return x.new_zeros(len(lengths), x.shape[1])
    return x[rows.long().clamp(0, len(x) - 1)].masked_fill((lengths == 0).unsqueeze(1), 0)


def _max(x: Tensor, sequences: Sequences, first: int) -> Tensor:
    owners = _owners(x, sequences).long().unsqueeze(1).expand_as(x)
    left_out = (sequences.positions < first).unsqueeze(1)
    highest = x.new_full((sequences.num_sequences, x.shape[1]), -torch.inf)
    highest = highest.scatter_reduce(0, owners, x.masked_fill(left_out, -torch.inf), "amax")
    return highest.masked_fill(highest == -torch.inf, 0)


_POOLINGS: dict[PoolingMode, Callable[[Tensor, Sequences, int], Tensor]] = {
    "mean": mean_pooling,
    "cls": first_pooling,
    "lasttoken": _last,
    "max": _max,
    "weightedmean": _weighted_mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
}
