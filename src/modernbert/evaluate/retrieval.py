"""`modernbert evaluate retrieval`: a table with quality and cost of several systems on one collection."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError
from modernbert.files import atomic_write
from modernbert.model.folder import find_folder, read_architecture
from modernbert.model.retrieval_modules import predictor_name
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.ranking.measures import MEASURES, System, difference, evaluate_fusion, evaluate_ranker
from modernbert.tasks.ranking.rankers import Bm25, EmbedderRanker, Scored, TwoStageRanker
from modernbert.tasks.rerank import Reranker
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.text.collection import read_collection

Predictor = Embedder | MultiVectorEmbedder | SparseEmbedder | Reranker

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
    bm25_weights: Sequence[float] = (1.0,),
    max_length: int | None = None,
    int8: bool = False,
    device: str = "auto",
    skip_bad: bool = False,
) -> Table:
    """Evaluate BM25 and models on a collection: each alone, BM25 fused with each model, and the best `depth` reranked.

    A model is a folder or hub id; its files determine which of the four kinds it is. A plain encoder becomes an
    embedder with mean pooling. Rerankers reorder the results of BM25, or of the first model if `bm25` is false. In a
    fusion, BM25 has each of `bm25_weights` times the weight of the model; select a weight on other queries than those
    that you report.

    Raises:
        ConfigError: there is nothing to evaluate, an embedder is given as a reranker, or a reranker as a model.
        DataError: the collection is wrong.
        CheckpointError: there is no such model.
    """
    if any(not 0 < weight < math.inf for weight in bm25_weights):
        raise ConfigError("A weight of BM25 is not a positive number.")
    collection = read_collection(source, split, skip_bad=skip_bad)
    systems: list[System] = []
    runs: list[list[Scored]] = []
    if bm25:
        run, system = evaluate_ranker(collection, Bm25(language))
        runs.append(run)
        systems.append(system)
    for path in models:
        predictor = open_predictor(path, max_length, device, int8)
        if isinstance(predictor, Reranker):
            raise ConfigError(f"{path} is a reranker; give it as --rerank.")
        run, system = evaluate_ranker(collection, EmbedderRanker(predictor, path))
        runs.append(run)
        systems.append(system)
    if not runs:
        raise ConfigError("There is nothing to evaluate: name a model, or do not switch BM25 off.")
    if hybrid and bm25:
        for path, run in zip(models, runs[1:], strict=True):
            for weight in bm25_weights:
                name = f"{'' if weight == 1 else f'{weight:g} '}BM25 + {path}"
                systems.append(evaluate_fusion(collection, [runs[0], run], name, (weight, 1.0))[1])
    for path in rerankers:
        predictor = open_predictor(path, max_length, device, int8)
        if not isinstance(predictor, Reranker):
            raise ConfigError(f"{path} is not a reranker; give it as a model.")
        first = systems[0].name
        ranker = TwoStageRanker(runs[0], predictor, depth, f"{path} over {depth} of {first}")
        systems.append(evaluate_ranker(collection, ranker)[1])
    return Table(source, len(collection.documents), len(collection.queries), systems)


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
