"""Quality of retrieval on a test collection, as trec_eval measures it, with confidence intervals over the queries."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modernbert.errors import ConfigError
from modernbert.tasks.ranking.rankers import Cost, Ranker, Scored, fused
from modernbert.text.collection import Collection

MEASURES = ("nDCG@10", "RR", "R@10", "R@100", "AP@1000")
TOP = 1000  # documents of a run
_DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Quality:
    """The mean of a measure over the queries, and the interval that holds it with a probability of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class System:
    """What one system reached on a collection. `by_query` are the values of each measure, in the order of queries."""

    name: str
    quality: dict[str, Quality]
    cost: Cost | None
    by_query: dict[str, list[float]] = field(repr=False)


def evaluate_ranker(collection: Collection, ranker: Ranker, top: int = TOP) -> tuple[list[Scored], System]:
    """The run of a ranker on the queries of a collection, and how good it is."""
    texts = [document.content for document in collection.documents.values()]
    run = ranker.rank(list(collection.queries.values()), texts, top)
    return run, evaluate_run(collection, run, ranker.name, ranker.cost)


def evaluate_fusion(
    collection: Collection, runs: Sequence[Sequence[Scored]], name: str, weights: Sequence[float] | None = None
) -> tuple[list[Scored], System]:
    """The reciprocal rank fusion of runs, and how good it is. Weights of the runs are 1 unless given."""
    run = fused(runs, TOP, weights)
    return run, evaluate_run(collection, run, name, None)


def evaluate_run(collection: Collection, run: Sequence[Scored], name: str, cost: Cost | None = None) -> System:
    """How good a run is: one list of scored documents for each query of the collection, in their order.

    trec_eval's own code computes the measures; it breaks ties of scores by the names of documents.

    Raises:
        ConfigError: the package that measures is missing.
    """
    names = list(collection.documents)
    scored = {
        query: {names[place]: score for place, score in ranked}
        for query, ranked in zip(collection.queries, run, strict=True)
    }
    by_query = measured(collection.judgements, scored)
    return System(name, {measure: mean_of(values) for measure, values in by_query.items()}, cost, by_query)


def measured(
    judgements: dict[str, dict[str, int]], run: dict[str, dict[str, float]], measures: Sequence[str] = MEASURES
) -> dict[str, list[float]]:
    """The value of each measure for each judged query, in their order. A query without documents has 0."""
    try:
        import ir_measures
    except ImportError:
        raise ConfigError("Measuring retrieval needs ir-measures: pip install 'modernbert[retrieval]'.") from None
    parsed = {name: ir_measures.parse_measure(name) for name in measures}
    found: dict[str, dict[str, float]] = {name: {} for name in measures}
    named = {str(measure): name for name, measure in parsed.items()}
    for one in ir_measures.iter_calc(list(parsed.values()), judgements, run):
        found[named[str(one.measure)]][one.query_id] = one.value
    return {name: [values.get(query, 0.0) for query in judgements] for name, values in found.items()}


def mean_of(values: Sequence[float], seed: int = 0) -> Quality:
    """The mean with its 95 % interval, from drawing as many queries again and again."""
    numbers = np.asarray(values)
    draws = np.random.default_rng(seed).integers(0, len(numbers), (_DRAWS, len(numbers)))
    low, high = np.quantile(numbers[draws].mean(1), [0.025, 0.975])
    return Quality(float(numbers.mean()), float(low), float(high))


def difference(one: System, other: System, measure: str = "nDCG@10") -> Quality:
    """How much better `one` is than `other` on the same queries, with its interval."""
    return mean_of(np.asarray(one.by_query[measure]) - np.asarray(other.by_query[measure]))
