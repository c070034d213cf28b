"""InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) on a matrix of scores, and what is left out of it."""

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

    `scores` are similarities of any kind, `positives[i]` is the column of the positive of query i. Entries that are
    `excluded` are no negatives; a positive must never be one of them. With `both_ways` the same is also asked from the
    positive documents' side, among the queries, and the two losses are averaged.
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
    """Which documents are relevant to a query beside its positive in this batch: they are no negatives.

    `relevant[i]` names all documents known to be relevant to query i, `documents` what each column is.
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
    """Which documents a guide scores so near to the positive, or above it, that they are probably relevant too.

    Those above the positive's score minus `margin`; with `relative`, minus `margin` times its absolute value
    (Solatorio 2024, arXiv 2402.16829; Moreira et al. 2024, arXiv 2407.15831). `guide` may be the scores of another
    model, or of this one, which the caller detaches.
    """
    of_positive = guide.gather(1, positives.unsqueeze(1))
    threshold = of_positive - (margin if kind == "absolute" else of_positive.abs() * margin)
    return (guide > threshold).scatter(1, positives.unsqueeze(1), False)
