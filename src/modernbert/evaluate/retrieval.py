"""`modernbert evaluate retrieval`: a table with quality and cost of several systems on one collection."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from modernbert.errors import ConfigError
from modernbert.files import atomic_write
from modernbert.model.folder import find_folder, read_architecture
from modernbert.model.retrieval_modules import predictor_name
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.ranking.fusion import Fusion, Scored, fusion_named
from modernbert.tasks.ranking.measures import MEASURES, TOP, System, difference, evaluate_run, measure_run, named_run
from modernbert.tasks.ranking.rankers import (
    Bm25,
    EmbedderRanker,
    Ranker,
    TwoStageRanker,
    fuse_runs,
    interpolate_runs,
)
from modernbert.tasks.rerank import Reranker
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.text.collection import Collection, read_collection

Predictor = Embedder | MultiVectorEmbedder | SparseEmbedder | Reranker

_SELECTION, _ALMOST_NO_WEIGHT = "nDCG@10", 1e-9
_WEIGHTS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # of BM25, from which tuning queries select one
_KINDS: dict[str | None, type[Any]] = {
    kind.__name__: kind for kind in (Embedder, SparseEmbedder, MultiVectorEmbedder, Reranker)
}


@dataclass(frozen=True)
class Table:
    """Results of all systems on one collection."""

    collection: str
    documents: int
    queries: int
    systems: list[System]


def evaluate_retrieval(
    source: str,
    models: Sequence[str],
    *,
    split: str = "test",
    bm25: bool = True,
    language: str = "auto",
    rerankers: Sequence[str] = (),
    depth: int = 100,
    hybrid: bool = True,
    fusions: Sequence[Fusion] = ("rrf",),
    candidates: int = 100,
    bm25_weights: Sequence[float] = (),
    weights_from: str | None = None,
    max_length: int | None = None,
    int8: bool = False,
    device: str = "auto",
    skip_bad: bool = False,
) -> Table:
    """Evaluate BM25 and models on a collection: each alone, BM25 fused with each model, and the best `depth` reranked.

    A model is a folder or hub id; its files determine which of the four kinds it is. A plain encoder becomes an
    embedder with mean pooling. Rerankers reorder the results of BM25, or of the first model if `bm25` is false.

    Each of `fusions` has the best `candidates` of both systems, and BM25 has each of `bm25_weights` (1 unless given)
    times the weight of the model. With `weights_from`, the weight (of `bm25_weights`, or of powers of two from 1/8 to
    8) with the highest nDCG@10 on the queries of that split is used; each reranker is also measured with the scores of
    the first stage, whose weight (0 or one of these) is selected in the same way.

    Raises:
        ConfigError: there is nothing to evaluate or to select, an embedder is given as a reranker, a reranker as a
            model, or queries that select a weight are also measured.
        DataError: the collection is wrong, or has no such split.
        CheckpointError: there is no such model.
    """
    if any(not 0 < weight < math.inf for weight in bm25_weights):
        raise ConfigError("A weight of BM25 is not a positive number.")
    fusions = [fusion_named(one) for one in fusions]
    fused = bool(hybrid and bm25 and models)
    if weights_from is not None and not fused and not rerankers:
        raise ConfigError("There is no weight to select: name a model for a fusion with BM25, or a reranker.")
    collection = read_collection(source, split, skip_bad=skip_bad)
    tuning = None if weights_from is None else _tuning(source, weights_from, collection, skip_bad)
    evaluation = _Evaluation(collection, tuning, tuple(bm25_weights) or (_WEIGHTS if tuning else (1.0,)))
    runs: list[_Runs] = []
    if bm25:
        runs.append(evaluation.rank(Bm25(language)))
    for path in models:
        predictor = open_predictor(path, max_length, device, int8)
        if isinstance(predictor, Reranker):
            raise ConfigError(f"{path} is a reranker; give it as --rerank.")
        runs.append(evaluation.rank(EmbedderRanker(predictor, path)))
    if not runs:
        raise ConfigError("There is nothing to evaluate: name a model, or do not switch BM25 off.")
    first = runs[0]
    for other in runs[1:] if fused else ():
        for fusion in fusions:
            evaluation.add_fusions(first, other, fusion, candidates)
    for path in rerankers:
        predictor = open_predictor(path, max_length, device, int8)
        if not isinstance(predictor, Reranker):
            raise ConfigError(f"{path} is not a reranker; give it as a model.")
        ranker = TwoStageRanker(
            [*first.measured, *first.tuning], predictor, depth, f"{path} over {depth} of {first.name}"
        )
        reranked = evaluation.rank(ranker)
        if tuning is not None:
            evaluation.add_interpolation(first, reranked, depth)
    return Table(collection.name, len(collection.documents), len(collection.queries), evaluation.systems)


def _tuning(source: str, split: str, measured: Collection, skip_bad: bool) -> Collection:
    """The collection with the queries that select weights, none of which is measured."""
    tuning = read_collection(source, split, skip_bad=skip_bad)
    texts = set(measured.queries.values())
    shared = sum(name in measured.queries or text in texts for name, text in tuning.queries.items())
    if shared:
        raise ConfigError(
            f"{shared} of the {len(tuning.queries)} queries of {split!r}, which are to select weights, are also "
            "measured; name a split with other queries."
        )
    return tuning


@dataclass(frozen=True)
class _Runs:
    """The runs of a system on the queries that are measured, and on those that select a weight."""

    name: str
    measured: list[Scored]
    tuning: list[Scored]


class _Evaluation:
    """The systems measured so far on a collection. `tuning` has its queries that select a weight."""

    def __init__(self, collection: Collection, tuning: Collection | None, weights: Sequence[float]) -> None:
        self.collection, self.tuning, self.weights = collection, tuning, weights
        self.systems: list[System] = []

    def rank(self, ranker: Ranker) -> _Runs:
        """The runs of a ranker; its quality and cost become a row of the table."""
        queries = [*self.collection.queries.values(), *(self.tuning.queries.values() if self.tuning else ())]
        texts = [document.content for document in self.collection.documents.values()]
        run = ranker.rank(queries, texts, TOP)
        measured = len(self.collection.queries)
        cost = replace(ranker.cost, query_seconds=ranker.cost.query_seconds * measured / len(queries))
        self.systems.append(evaluate_run(self.collection, run[:measured], ranker.name, cost))
        return _Runs(ranker.name, run[:measured], run[measured:])

    def add_fusions(self, first: _Runs, other: _Runs, fusion: Fusion, candidates: int) -> None:
        """Rows of the fusion with BM25: one for each weight, or one for the weight that the tuning queries select."""

        def fused(weight: float, *runs: list[Scored]) -> list[Scored]:
            return fuse_runs([[one[:candidates] for one in run] for run in runs], TOP, (weight, 1.0), fusion)

        weights = self.weights
        if self.tuning is not None:
            weights = (self._selected(weights, lambda weight: fused(weight, first.tuning, other.tuning)),)
        for weight in weights:
            name = f"{'' if weight == 1 else f'{weight:g} '}{first.name} + {other.name}"
            self._add(fused(weight, first.measured, other.measured), name + ("" if fusion == "rrf" else ", by scores"))

    def add_interpolation(self, first: _Runs, reranked: _Runs, depth: int) -> None:
        """A row of the reranker with a part of the first stage's scores, as much as the tuning queries select."""
        weight = self._selected(
            (0.0, *self.weights), lambda weight: interpolate_runs(first.tuning, reranked.tuning, depth, weight)
        )
        run = interpolate_runs(first.measured, reranked.measured, depth, weight)
        self._add(run, f"{reranked.name} + {weight:g} {first.name}, by scores")

    def _selected(self, weights: Sequence[float], run: Callable[[float], list[Scored]]) -> float:
        """The weight with the best run of the tuning queries; of equal ones the nearest to 1."""
        assert self.tuning is not None
        tuning = self.tuning

        def quality(weight: float) -> tuple[float, float]:
            found = measure_run(tuning.judgements, named_run(tuning, run(weight)), (_SELECTION,))[_SELECTION]
            return fmean(found), -abs(math.log(weight or _ALMOST_NO_WEIGHT))

        return max(weights, key=quality)

    def _add(self, run: list[Scored], name: str) -> None:
        self.systems.append(evaluate_run(self.collection, run, name))


def open_predictor(source: str, max_length: int | None, device: str, int8: bool) -> Predictor:
    """The predictor of a folder or hub id; its files determine the kind.

    Raises:
        CheckpointError: there is no such model.
    """
    folder = find_folder(source)
    kind = _KINDS.get(predictor_name(folder))
    if kind is None:
        kind = Reranker if read_architecture(folder) == "ModernBertForSequenceClassification" else Embedder
    predictor: Predictor = kind.from_pretrained(source, max_length=max_length, device=device, int8=int8)
    return predictor


def rows_of(table: Table) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table for the terminal: percent, with the 95 % interval of nDCG@10."""
    header = ["system", *MEASURES, "95 % of nDCG@10", "documents tok/s", "ms/query", "index MB"]
    rows = []
    for system in table.systems:
        quality, cost = system.quality, system.cost
        ndcg = quality["nDCG@10"]
        rows.append(
            [
                system.name,
                *(f"{100 * quality[name].value:.1f}" for name in MEASURES),
                f"{100 * ndcg.low:.1f} to {100 * ndcg.high:.1f}",
                f"{cost.document_tokens / cost.index_seconds:,.0f}" if cost and cost.document_tokens else "",
                f"{1000 * cost.query_seconds / table.queries:.1f}" if cost else "",
                f"{cost.index_bytes / 1e6:.1f}" if cost and cost.index_bytes else "",
            ]
        )
    return header, rows


def document(table: Table) -> dict[str, Any]:
    """The table as plain values, with the difference of every system to the first one."""
    return {
        "collection": table.collection,
        "documents": table.documents,
        "queries": table.queries,
        "systems": [
            {
                "name": system.name,
                "quality": {name: asdict(quality) for name, quality in system.quality.items()},
                "above_first": asdict(difference(system, table.systems[0])),
                "cost": None if system.cost is None else asdict(system.cost),
                "by_query": system.by_query,
            }
            for system in table.systems
        ],
    }


def write_table(table: Table, path: Path) -> None:
    """Write `document` into a file."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(document(table), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
