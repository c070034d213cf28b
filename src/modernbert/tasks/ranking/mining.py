"""Hard negatives: documents that a ranker ranks high for a query and that are not relevant."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from modernbert.config import Config
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.tasks.ranking.rankers import Bm25, Ranker
from modernbert.tasks.rerank import Reranker


class Mining(Config):
    """Which documents become negatives.

    `negatives` documents of each query from the ranks `first` to `last` (from 1), the highest ones or random ones. With
    `margin`, their score must not exceed that of the positive minus the margin (`relative`: minus this fraction of it).
    With a cross-encoder, its score must not exceed that of the positive minus `check_margin`.
    """

    negatives: PositiveInt = 5
    first: PositiveInt = 10
    last: PositiveInt = 100
    choose: Literal["top", "random"] = "top"
    margin: float | None = None
    margin_kind: Literal["absolute", "relative"] = "relative"
    check_margin: float = Field(0.1, ge=0)  # of the scores of the cross-encoder, after its activation
    seed: int = 0


@dataclass(frozen=True)
class Mined:
    """Examples with negatives, and the numbers of candidates that were left out, by reason."""

    examples: list[RankingExample]
    left_out: dict[str, int]
    num_without_negatives: int  # pairs without a negative, which are not in `examples`


def mine(
    pairs: Sequence[RankingExample],
    documents: Sequence[str],
    ranker: Ranker,
    settings: Mining,
    checker: Reranker | None = None,
) -> Mined:
    """Negatives for each pair, from `documents`. Documents that are known to be relevant are left out."""
    queries = list({pair.query: None for pair in pairs})
    ranked = dict(zip(queries, ranker.rank(queries, documents, settings.last + 100), strict=True))
    indices = {text: index for index, text in enumerate(documents)}
    known = _known_relevant(pairs)
    left_out = {"known to be relevant": 0, "too near to the positive": 0, "relevant to the cross-encoder": 0}
    generator = np.random.default_rng(settings.seed)
    examples: list[RankingExample] = []
    num_without_negatives = 0
    for pair in pairs:
        run = ranked[pair.query]
        scores = dict(run)
        positive_score = scores.get(indices.get(pair.documents[0], -1))
        candidates: list[str] = []
        for index, score in run[settings.first - 1 : settings.last]:
            if documents[index] in known[pair.query]:
                left_out["known to be relevant"] += 1
            elif _too_near(score, positive_score, settings):
                left_out["too near to the positive"] += 1
            else:
                candidates.append(documents[index])
        if settings.choose == "random":
            candidates = [candidates[number] for number in generator.permutation(len(candidates))]
        if checker is not None and candidates:
            candidates, rejected = _check_candidates(checker, pair, candidates, settings)
            left_out["relevant to the cross-encoder"] += rejected
        if not candidates:
            num_without_negatives += 1
            continue
        negatives = candidates[: settings.negatives]
        examples.append(replace(pair, documents=(pair.documents[0], *negatives)))
    return Mined(examples, left_out, num_without_negatives)


def with_bm25_negatives(
    pairs: list[RankingExample], documents: list[str], count: int, first: int
) -> list[RankingExample]:
    """The pairs with `count` negatives each from the ranks of BM25, starting at `first`; some may have none."""
    mined = mine(pairs, documents, Bm25(), Mining(negatives=count, first=first, last=first + 20 + count))
    with_negatives = {(example.query, example.documents[0]): example for example in mined.examples}
    return [with_negatives.get((pair.query, pair.documents[0]), pair) for pair in pairs]


def with_random_negatives(
    pairs: list[RankingExample], documents: Sequence[str], count: int, seed: int = 0
) -> list[RankingExample]:
    """The pairs with `count` more negatives each, random documents that are not known to be relevant.

    There are fewer if the collection is too small. An untrained reranker learns from such negatives first.
    """
    if not count:
        return pairs
    generator = np.random.default_rng(seed)
    known = _known_relevant(pairs)
    unique = list(dict.fromkeys(documents))
    examples = []
    for pair in pairs:
        excluded = known[pair.query].union(pair.documents)
        drawn = generator.choice(len(unique), min(len(unique), count + len(excluded)), replace=False, shuffle=True)
        negatives = [unique[index] for index in drawn if unique[index] not in excluded][:count]
        examples.append(replace(pair, documents=(*pair.documents, *negatives)))
    return examples


def _known_relevant(pairs: Sequence[RankingExample]) -> dict[str, set[str]]:
    """The documents of each query that are known to be relevant, from all of its pairs."""
    known: dict[str, set[str]] = {}
    for pair in pairs:
        known.setdefault(pair.query, set()).update(pair.relevant, pair.documents[:1])
    return known


def _too_near(score: float, positive_score: float | None, settings: Mining) -> bool:
    if settings.margin is None or positive_score is None:
        return False
    margin = settings.margin if settings.margin_kind == "absolute" else settings.margin * abs(positive_score)
    return score > positive_score - margin


def _check_candidates(
    checker: Reranker, pair: RankingExample, candidates: list[str], settings: Mining
) -> tuple[list[str], int]:
    """The first candidates that a cross-encoder does not rate as relevant, and the number of rejected ones."""
    kept: list[str] = []
    rejected = 0
    positive_score = float(checker.predict([(pair.query, pair.documents[0])])[0])
    for begin in range(0, len(candidates), 2 * settings.negatives):
        part = candidates[begin : begin + 2 * settings.negatives]
        for text, score in zip(part, checker.predict([(pair.query, text) for text in part]), strict=True):
            if float(score) > positive_score - settings.check_margin:
                rejected += 1
            else:
                kept.append(text)
        if len(kept) >= settings.negatives:
            break
    return kept, rejected
