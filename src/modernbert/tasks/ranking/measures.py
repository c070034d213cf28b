"""Quality of retrieval on a test collection, as trec_eval measures it, with confidence intervals over the queries."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modernbert.errors import ConfigError
from modernbert.tasks.ranking.fusion import Scored
from modernbert.tasks.ranking.rankers import Cost, Ranker
from modernbert.text.collection import Collection

MEASURES = ("nDCG@10", "RR", "R@10", "R@100", "AP@1000")
TOP = 1000  # documents of a run
_BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Quality:
    """The mean of a measure over the queries, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class System:
    """The results of a retrieval system. `by_query` has the values of each measure, in the order of the queries."""

    name: str
    quality: dict[str, Quality]
    cost: Cost | None
    by_query: dict[str, list[float]] = field(repr=False)


def evaluate_ranker(collection: Collection, ranker: Ranker, top: int = TOP) -> tuple[list[Scored], System]:
    """The run of a ranker on the queries of a collection, and its quality."""
    texts = [document.content for document in collection.documents.values()]
    run = ranker.rank(list(collection.queries.values()), texts, top)
    return run, evaluate_run(collection, run, ranker.name, ranker.cost)


def evaluate_run(collection: Collection, run: Sequence[Scored], name: str, cost: Cost | None = None) -> System:
    """The quality of a run, which has a list of scored documents for each query of the collection, in order.

    trec_eval's own code computes the measures; it orders documents with equal scores by their names.

    Raises:
        ConfigError: the package ir-measures is missing.
    """
    by_query = measure_run(collection.judgements, named_run(collection, run))
    return System(name, {measure: mean_with_interval(values) for measure, values in by_query.items()}, cost, by_query)


def named_run(collection: Collection, run: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """The scores of a run, which is in the order of the queries, by the names of queries and documents."""
    names = list(collection.documents)
    return {
        query: {names[place]: score for place, score in ranked}
        for query, ranked in zip(collection.queries, run, strict=True)
    }


def measure_run(
    judgements: dict[str, dict[str, int]], run: dict[str, dict[str, float]], measures: Sequence[str] = MEASURES
) -> dict[str, list[float]]:
    """The value of each measure for each query with judgements, in order; 0 for a query without documents."""
    try:
        import ir_measures
    except ImportError:
        raise ConfigError("Measuring retrieval needs ir-measures: pip install 'modernbert[retrieval]'.") from None
    parsed = {name: ir_measures.parse_measure(name) for name in measures}
    by_measure: dict[str, dict[str, float]] = {name: {} for name in measures}
    name_of = {str(measure): name for name, measure in parsed.items()}
    for one in ir_measures.iter_calc(list(parsed.values()), judgements, run):
        by_measure[name_of[str(one.measure)]][one.query_id] = one.value
    return {name: [values.get(query, 0.0) for query in judgements] for name, values in by_measure.items()}


def mean_with_interval(values: Sequence[float], seed: int = 0) -> Quality:
    """The mean with its 95 % bootstrap interval over queries."""
    numbers = np.asarray(values)
    samples = np.random.default_rng(seed).integers(0, len(numbers), (_BOOTSTRAP_SAMPLES, len(numbers)))
    low, high = np.quantile(numbers[samples].mean(1), [0.025, 0.975])
    return Quality(float(numbers.mean()), float(low), float(high))


def difference(one: System, other: System, measure: str = "nDCG@10") -> Quality:
    """The difference of the measure between `one` and `other` on the same queries, with its interval."""
    return mean_with_interval(np.asarray(one.by_query[measure]) - np.asarray(other.by_query[measure]))
