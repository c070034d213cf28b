"""InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) on a matrix of scores, and masks of false negatives."""

from collections.abc import Collection, Hashable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    scores: Float[Tensor, "queries documents"],
    positives: Int[Tensor, "queries"],
    *,
    temperature: float,
    excluded: Bool[Tensor, "queries documents"] | None = None,
    both_ways: bool = False,
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of finding the positive document of each query among all documents.

    `scores` are similarities of any kind, `positives[i]` is the column of the positive of query i. `excluded` entries
    are not negatives; a positive must never be excluded. With `both_ways`, the loss is averaged with that of finding
    the query of each positive document among all queries.
    """
    logits = scores.float() / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    loss = F.cross_entropy(logits, positives)
    if not both_ways:
        return loss
    among_queries = logits.index_select(1, positives).T
    return (loss + F.cross_entropy(among_queries, torch.arange(len(logits), device=logits.device))) / 2


def known_positives(
    relevant: Sequence[Collection[Hashable]], documents: Sequence[Hashable], positives: Sequence[int]
) -> Bool[Tensor, "queries documents"]:
    """Which documents of a batch are relevant to a query besides its positive, and so are not negatives.

    `relevant[i]` are all documents known to be relevant to query i, `documents` those of the columns.
    """
    columns: dict[Hashable, list[int]] = {}
    for column, name in enumerate(documents):
        columns.setdefault(name, []).append(column)
    mask = torch.zeros(len(relevant), len(documents), dtype=torch.bool)
    for row, (names, positive) in enumerate(zip(relevant, positives, strict=True)):
        for name in {*names, documents[positive]}:
            mask[row, columns.get(name, [])] = True
        mask[row, positive] = False
    return mask


def likely_positives(
    guide: Float[Tensor, "queries documents"],
    positives: Int[Tensor, "queries"],
    margin: float,
    kind: Literal["absolute", "relative"] = "absolute",
) -> Bool[Tensor, "queries documents"]:
    """Which documents are probably relevant, as their score is close to that of the positive, or above it.

    These are above the positive's score minus `margin`; with `relative`, minus `margin` times its absolute value
    (Solatorio 2024, arXiv 2402.16829; Moreira et al. 2024, arXiv 2407.15831). `guide` are the scores of another
    model, or detached scores of this one.
    """
    positive_scores = guide.gather(1, positives.unsqueeze(1))
    threshold = positive_scores - (margin if kind == "absolute" else positive_scores.abs() * margin)
    return (guide > threshold).scatter(1, positives.unsqueeze(1), False)
