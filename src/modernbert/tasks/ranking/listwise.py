"""Losses of a reranker: pointwise on scores, and listwise on the order of documents."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_MIN_IDEAL_GAIN = 1e-10  # for lists without a relevant document


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

    The mean, over pairs of documents of a query in which the first one is more relevant, of the logistic loss of their
    score difference, weighted by the cost of exchanging them: mu times the weight by the difference of their ranks,
    plus that of LambdaRank by the ranks themselves. With `top`, only pairs with a document in the first `top` ranks
    count. Gains are 2^label - 1. Documents that are not `present` are padding.
    """
    longest = scores.shape[1]
    order = scores.float().masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranked, grades, real = (x.gather(1, order) for x in (scores.float(), labels.float(), present))
    positions = torch.arange(longest, device=scores.device)
    discount = torch.log2(2.0 + positions)
    gains = torch.exp2(grades.clamp(min=0)).sub(1).where(real, 0)
    ideal = gains.sort(dim=1, descending=True).values
    best = (ideal / discount)[:, :top].sum(1, keepdim=True).clamp(min=_MIN_IDEAL_GAIN)
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
