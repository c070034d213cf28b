"""The SPLADE head: the largest logit of each vocabulary entry in each sequence, without all logits in memory."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modernbert.packed import Sequences

_ELEMENTS = 1 << 24  # logits in memory at the same time


def highest_logits(
    x: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    bias: Float[Tensor, "vocab"] | None,
    sequences: Sequences,
) -> Float[Tensor, "sequences vocab"]:
    """The largest `x @ weight.T + bias` over the tokens of each sequence. Differentiable; -inf for an empty sequence.

    It is computed in the dtype of `x`, which under autocast differs from that of the weight. Columns are computed in
    chunks, so that no (tokens, vocab) tensor exists, also in the backward pass.
    """
    return _HighestLogits.apply(x, weight, bias, sequences.lengths)


def summed_activations(
    x: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    bias: Float[Tensor, "vocab"] | None,
    sequences: Sequences,
    twice: bool,
) -> Float[Tensor, "sequences vocab"]:
    """The sum of log(1 + relu(logit)) over the tokens of each sequence; with `twice`, log(1 + ...) is applied again."""
    owners = torch.repeat_interleave(sequences.cu_seqlens.diff(), output_size=len(x))

    def columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        values = F.linear(x, weight, bias).relu().log1p()
        values = (values.log1p() if twice else values).float()
        return values.new_zeros(sequences.num_sequences, len(weight)).index_add(0, owners, values)

    parts = [
        checkpoint(columns, x, weight[begin:end], None if bias is None else bias[begin:end], use_reentrant=False)
        for begin, end in _chunks(len(x), len(weight))
    ]
    return torch.cat(parts, dim=1)


def _chunks(tokens: int, vocab: int) -> list[tuple[int, int]]:
    width = max(64, _ELEMENTS // max(1, tokens))
    return [(begin, min(begin + width, vocab)) for begin in range(0, vocab, width)]


class _HighestLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lengths: tuple[int, ...]) -> Tensor:
        best = x.new_full((len(lengths), len(weight)), -torch.inf)
        needs_gradient = any(ctx.needs_input_grad)
        rows = torch.zeros(best.shape, dtype=torch.int32, device=x.device) if needs_gradient else None
        for begin, end in _chunks(len(x), len(weight)):
            columns = weight[begin:end].to(x.dtype)
            logits = F.linear(x, columns, None if bias is None else bias[begin:end].to(x.dtype)).to(x.dtype)
            first = 0
            for index, length in enumerate(lengths):
                if length and rows is not None:
                    values, indices = logits[first : first + length].max(0)
                    best[index, begin:end] = values
                    rows[index, begin:end] = indices + first
                elif length:
                    torch.amax(logits[first : first + length], 0, out=best[index, begin:end])
                first += length
        ctx.save_for_backward(x, weight, rows)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.lengths = lengths
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight, rows = ctx.saved_tensors
        (gradient,) = gradients
        not_empty = torch.tensor([length > 0 for length in ctx.lengths], device=x.device)
        gradient = gradient.masked_fill(~not_empty.unsqueeze(1), 0)
        grad_bias = None if ctx.bias_dtype is None else gradient.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        gradient = gradient.to(x.dtype)
        grad_x, grad_weight = torch.zeros_like(x), torch.empty_like(weight)
        for begin, end in _chunks(len(x), len(weight)):
            scattered = x.new_zeros(len(x), end - begin)
            scattered.scatter_add_(0, rows[:, begin:end].long(), gradient[:, begin:end])
            grad_x += scattered @ weight[begin:end].to(x.dtype)
            grad_weight[begin:end] = scattered.t() @ x
        return grad_x, grad_weight, grad_bias, None
