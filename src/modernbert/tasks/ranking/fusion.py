"""Fusion of several rankings of the same documents: by ranks, or by scores."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from modernbert.errors import ConfigError

Scored = list[tuple[int, float]]  # indices of documents with their scores, best first
Fusion = Literal["rrf", "scores"]
FUSIONS: tuple[Fusion, ...] = ("rrf", "scores")
_CONSTANT = 60  # of Cormack et al. 2009


def reciprocal_rank_fusion(rankings: Sequence[Iterable[int]], weights: Sequence[float]) -> Scored:
    """Documents with the sum over rankings of weight / (60 + rank), best first (Cormack et al. 2009).

    Each ranking is a list of document indices, best first.

    Raises:
        ValueError: the numbers of weights and rankings differ.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, document in enumerate(ranking, 1):
            scores[document] += weight / (_CONSTANT + rank)
    return _sorted(scores)


def score_fusion(rankings: Sequence[Scored], weights: Sequence[float]) -> Scored:
    """Documents with the weighted mean of their scores, best first (Bruch et al. 2022, arXiv 2210.11934).

    The scores of each ranking are first scaled to 0..1 (all to 1 if they are equal); a document that a ranking lacks
    has 0 there.

    Raises:
        ValueError: the numbers of weights and rankings differ.
    """
    scores: dict[int, float] = defaultdict(float)
    total = sum(weights)
    for ranking, weight in zip(rankings, weights, strict=True):
        values = [score for _, score in ranking]
        lowest, highest = (min(values), max(values)) if values else (0.0, 0.0)
        for document, score in ranking:
            scaled = (score - lowest) / (highest - lowest) if highest > lowest else 1.0
            scores[document] += weight * scaled / total
    return _sorted(scores)


def fusion_named(name: str) -> Fusion:
    """The fusion with this name.

    Raises:
        ConfigError: there is none.
    """
    chosen = next((one for one in FUSIONS if one == name), None)
    if chosen is None:
        raise ConfigError(f"There is no fusion {name!r}; choose {' or '.join(FUSIONS)}.")
    return chosen


def fuse(rankings: Sequence[Scored], weights: Sequence[float], fusion: Fusion) -> Scored:
    """The fusion of rankings of one query.

    Raises:
        ConfigError: there is no such fusion.
        ValueError: the numbers of weights and rankings differ.
    """
    if fusion_named(fusion) == "scores":
        return score_fusion(rankings, weights)
    return reciprocal_rank_fusion([[document for document, _ in ranking] for ranking in rankings], weights)


def interpolate_reranking(first: Scored, reranked: Scored, first_weight: float) -> Scored:
    """Reranked documents with a part of their scores in the first stage (`score_fusion`); the reranker has weight 1.

    Both stages have the same documents.
    """
    return score_fusion([first, reranked], [first_weight, 1.0]) if first_weight else reranked


def _sorted(scores: dict[int, float]) -> Scored:
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
