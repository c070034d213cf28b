"""The reference for all backends: dense attention, one sequence at a time, in fp32. Slow, but simple."""

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.packed import Sequences


def attention(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens heads head_dim"],
    v: Float[Tensor, "tokens heads head_dim"],
    sequences: Sequences,
    window: int | None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window. fp64 stays fp64."""
    precise = torch.promote_types(q.dtype, torch.float32)
    outputs = []
    for q1, k1, v1 in zip(*(x.to(precise).split(sequences.lengths) for x in (q, k, v)), strict=True):
        scores = torch.einsum("ihd,jhd->hij", q1, k1) * q.shape[-1] ** -0.5
        if window is not None:
            index = torch.arange(len(q1), device=q.device)
            scores = scores.masked_fill((index[:, None] - index).abs() > window, float("-inf"))
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v1))
    return torch.cat(outputs).to(q.dtype)
