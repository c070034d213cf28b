"""Fusion of several rankings of the same documents."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

_CONSTANT = 60  # of Cormack et al. 2009


def reciprocal_rank_fusion(
    rankings: Sequence[Iterable[int]], weights: Sequence[float] | None = None
) -> list[tuple[int, float]]:
    """Documents with the sum over rankings of weight / (60 + rank), best first (Cormack et al. 2009).

    Each ranking is a list of document indices, best first. Weights are 1 unless given.

    Raises:
        ValueError: the numbers of weights and rankings differ.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, document in enumerate(ranking, 1):
            scores[document] += weight / (_CONSTANT + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
