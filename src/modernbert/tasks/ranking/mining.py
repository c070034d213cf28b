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
    """Which documents are taken for negatives.

    Of the ranks `first` to `last` (from 1), `negatives` of each query, the highest ones or any of them. `margin`: none
    that the ranker scores above the positive's score minus this (`relative`: minus this part of it). With a
    cross-encoder, none whose score is above `most` or, again by `check_margin`, too near to the positive's.
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
    """Examples with negatives, and what was left out on the way, counted."""

    examples: list[RankingExample]
    left_out: dict[str, int]
    without: int  # queries for which no negative was found; they are not among the examples


def mine(
    pairs: Sequence[RankingExample],
    documents: Sequence[str],
    ranker: Ranker,
    settings: Mining,
    checker: Reranker | None = None,
) -> Mined:
    """Negatives for each pair, from `documents`. No document that is known to be relevant is one."""
    queries = list({pair.query: None for pair in pairs})
    ranked = dict(zip(queries, ranker.rank(queries, documents, settings.last + 100), strict=True))
    places = {text: place for place, text in enumerate(documents)}
    known: dict[str, set[str]] = {}
    for pair in pairs:
        known.setdefault(pair.query, set()).update(pair.relevant, pair.documents[:1])
    left_out = {"known to be relevant": 0, "too near to the positive": 0, "relevant to the cross-encoder": 0}
    draw = np.random.default_rng(settings.seed)
    examples: list[RankingExample] = []
    without = 0
    for pair in pairs:
        run = ranked[pair.query]
        scores = dict(run)
        of_positive = scores.get(places.get(pair.documents[0], -1))
        candidates: list[str] = []
        for place, score in run[settings.first - 1 : settings.last]:
            if documents[place] in known[pair.query]:
                left_out["known to be relevant"] += 1
            elif _too_near(score, of_positive, settings):
                left_out["too near to the positive"] += 1
            else:
                candidates.append(documents[place])
        if settings.choose == "random":
            candidates = [candidates[index] for index in draw.permutation(len(candidates))]
        if checker is not None and candidates:
            candidates, refused = _checked(checker, pair, candidates, settings)
            left_out["relevant to the cross-encoder"] += refused
        if not candidates:
            without += 1
            continue
        negatives = candidates[: settings.negatives]
        examples.append(replace(pair, documents=(pair.documents[0], *negatives)))
    return Mined(examples, left_out, without)


def with_bm25_negatives(
    pairs: list[RankingExample], documents: list[str], count: int, first: int
) -> list[RankingExample]:
    """The pairs with `count` negatives each, of the ranks of BM25 from `first` on; one without any stays a pair."""
    mined = mine(pairs, documents, Bm25(), Mining(negatives=count, first=first, last=first + 20 + count))
    found = {(example.query, example.documents[0]): example for example in mined.examples}
    return [found.get((pair.query, pair.documents[0]), pair) for pair in pairs]


def _too_near(score: float, of_positive: float | None, settings: Mining) -> bool:
    if settings.margin is None or of_positive is None:
        return False
    margin = settings.margin if settings.margin_kind == "absolute" else settings.margin * abs(of_positive)
    return score > of_positive - margin


def _checked(checker: Reranker, pair: RankingExample, candidates: list[str], settings: Mining) -> tuple[list[str], int]:
    """The first candidates that a cross-encoder does not take for relevant, as many as are needed."""
    kept: list[str] = []
    refused = 0
    of_positive = float(checker.predict([(pair.query, pair.documents[0])])[0])
    for begin in range(0, len(candidates), 2 * settings.negatives):
        part = candidates[begin : begin + 2 * settings.negatives]
        for text, score in zip(part, checker.predict([(pair.query, text) for text in part]), strict=True):
            if float(score) > of_positive - settings.check_margin:
                refused += 1
            else:
                kept.append(text)
        if len(kept) >= settings.negatives:
            break
    return kept, refused
