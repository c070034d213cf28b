"""Losses of a reranker: of single scores, and of the order of a list."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_LEAST_GAIN = 1e-10  # of an ideal list in which nothing is relevant


def binary(
    scores: Float[Tensor, "*documents"], labels: Float[Tensor, "*documents"], present: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy (nats) of scores before the sigmoid; labels between 0 and 1."""
    nats = F.binary_cross_entropy_with_logits(scores.float(), labels.float(), reduction="none")
    return nats.mean() if present is None else nats.where(present, 0).sum() / present.sum().clamp(min=1)


def lambda_loss(
    scores: Float[Tensor, "queries documents"],
    labels: Float[Tensor, "queries documents"],
    present: Bool[Tensor, "queries documents"],
    *,
    top: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
) -> Float[Tensor, ""]:
    """NDCG-Loss2++ of Wang et al. 2018 (LambdaLoss, CIKM), eq. 12 to 18: a bound on 1 - nDCG@`top`, in bits.

    For every two documents of one query of which the first is more relevant, the logistic loss of their score
    difference, weighted by what exchanging them costs: mu times the weight by the difference of their ranks, plus that
    of LambdaRank by their ranks themselves. The mean over all such pairs. With `top`, one of the two must be ranked
    that high. Gains are 2^label - 1. Documents that are not `present` fill up shorter lists.
    """
    longest = scores.shape[1]
    order = scores.float().masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranked, grades, real = (x.gather(1, order) for x in (scores.float(), labels.float(), present))
    positions = torch.arange(longest, device=scores.device)
    discount = torch.log2(2.0 + positions)
    gains = torch.exp2(grades.clamp(min=0)).sub(1).where(real, 0)
    ideal = gains.sort(dim=1, descending=True).values
    best = (ideal / discount)[:, :top].sum(1, keepdim=True).clamp(min=_LEAST_GAIN)
    gains = gains / best
    distance = (positions.unsqueeze(1) - positions.unsqueeze(0)).abs()
    inverse = torch.cat([discount, torch.log2(discount.new_tensor([2.0 + longest]))]).reciprocal()
    by_distance = (inverse[(distance - 1).clamp(min=0)] - inverse[distance]).abs().masked_fill(distance == 0, 0)
    by_rank = (inverse[:longest].unsqueeze(1) - inverse[:longest].unsqueeze(0)).abs()
    weights = (mu * by_distance + by_rank) * (gains.unsqueeze(2) - gains.unsqueeze(1)).abs()
    counted = real.unsqueeze(2) & real.unsqueeze(1) & (grades.unsqueeze(2) > grades.unsqueeze(1))
    if top is not None:
        high = positions < top
        counted = counted & (high.unsqueeze(1) | high.unsqueeze(0))
    differences = ranked.unsqueeze(2) - ranked.unsqueeze(1)
    terms = weights * F.logsigmoid(sigma * differences.where(counted, 0)) / math.log(2)
    return -terms.where(counted, 0).sum() / counted.sum().clamp(min=1)
