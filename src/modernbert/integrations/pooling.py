"""One vector of each packed sequence, as the Pooling of sentence-transformers and the heads of transformers make it."""

import torch
from torch import Tensor

from modernbert.packed import Sequences

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")  # in the order of Pooling


def pool(hidden: Tensor, sequences: Sequences, mode: str) -> Tensor:
    """(tokens, hidden) -> (sequences, hidden). Sums are fp32. No sequence is empty.

    `weightedmean` weighs the tokens 1, 2, 3, ...; `mean_sqrt_len_tokens` divides the sum by the root of the length.
    """
    ends = sequences.cu_seqlens[1:].long()
    if mode == "cls":
        return hidden[sequences.cu_seqlens[:-1].long()]
    if mode == "lasttoken":
        return hidden[ends - 1]
    if mode == "max":
        return torch.stack([part.amax(0) for part in hidden.split(sequences.lengths)])
    lengths = sequences.cu_seqlens.diff()
    values, divisor = hidden.float(), lengths.float().unsqueeze(1)
    if mode == "weightedmean":
        values = values * (sequences.positions + 1).unsqueeze(1)
        divisor = divisor * (divisor + 1) / 2
    owner = torch.repeat_interleave(lengths, output_size=len(hidden))
    sums = values.new_zeros(len(lengths), hidden.shape[1]).index_add_(0, owner, values)
    if mode == "mean_sqrt_len_tokens":
        divisor = divisor.sqrt()
    return (sums / divisor).to(hidden.dtype)


def splade(logits: Tensor, sequences: Sequences, strategy: str, activation: str) -> Tensor:
    """(tokens, vocabulary) -> (sequences, vocabulary): max or sum over tokens of log(1 + relu), applied once or twice.

    The function rises, so that of the maximum it is the maximum of it.
    """

    def activated(x: Tensor) -> Tensor:
        x = x.relu().log1p_()
        return x.log1p_() if activation == "log1p_relu" else x

    parts = logits.split(sequences.lengths)
    if strategy == "max":
        return activated(torch.stack([part.amax(0) for part in parts]))
    return torch.stack([activated(part).sum(0) for part in parts])
