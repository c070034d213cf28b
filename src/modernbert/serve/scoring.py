"""Scores of pairs of queries and documents, and vectors of texts, for the routes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modernbert.serve.computing import Server, Usage
from modernbert.serve.failures import ComputationError
from modernbert.serve.heads import NOT_FINITE, Numbers, sigmoid
from modernbert.serve.items import Item
from modernbert.serve.models import Kind
from modernbert.serve.retrieval import MultiVectorEngine
from modernbert.serve.texts import Side


async def scores_of(
    server: Server,
    usage: Usage,
    queries: Sequence[str],
    documents: Sequence[str],
    truncate: bool,
    side: Side = "right",
    raw: bool = False,
) -> Numbers:
    """The score of each document for the query; with several queries, document i is scored for query i.

    A reranker gives scores between 0 and 1, or logits if `raw` is set. A multi-vector model gives MaxSim, the sum over
    the query tokens of the largest product with a document token (arXiv 2004.12832). An embedder gives the cosine.
    """
    engine: Any = usage.model.engine
    paired_queries = list(queries) * len(documents) if len(queries) == 1 else list(queries)
    match usage.model.kind:
        case Kind.RERANKER:
            pairs = list(zip(paired_queries, documents, strict=True))
            rows = await server.run(usage, lambda: engine.encode(pairs, truncate, side))
            scores = np.array([row[0] for row in rows], dtype=np.float32)
            return scores if raw else sigmoid(scores)
        case Kind.MULTI_VECTOR:
            rows = await server.run(usage, lambda: _encode_both(engine, queries, documents, truncate, side))
            query_vectors, document_vectors = rows[: len(queries)], rows[len(queries) :]
            query_vectors = query_vectors * len(documents) if len(queries) == 1 else query_vectors
            values = map(maxsim, query_vectors, document_vectors)
            return await server.in_thread(lambda: np.array(list(values), dtype=np.float32))
        case _:
            rows = await server.run(usage, lambda: _encode_both(engine, queries, documents, truncate, side))
            embeddings = vectors(rows, normalize=True)
            products = embeddings[: len(queries)] * embeddings[len(queries) :]
            return np.asarray(products.sum(1), dtype=np.float32)


def _encode_both(
    engine: Any, queries: Sequence[str], documents: Sequence[str], truncate: bool, side: Side
) -> list[Item]:
    if isinstance(engine, MultiVectorEngine):
        encoded = engine.encode(queries, truncate, side, "query")
        return encoded + engine.encode(documents, truncate, side, "document")
    encoded_queries: list[Item] = engine.encode(queries, truncate, side, engine.role_prompt("query"))
    encoded_documents: list[Item] = engine.encode(documents, truncate, side, engine.role_prompt("document"))
    return [*encoded_queries, *encoded_documents]


def maxsim(query: Numbers, document: Numbers) -> float:
    """The sum over the query tokens of the largest product with a document token; 0 if either is empty."""
    if not len(query) or not len(document):
        return 0.0
    return float((query @ document.T).max(1).sum())


def vectors(rows: Sequence[Numbers], normalize: bool, dimensions: int | None = None) -> Numbers:
    """Vectors as rows of a matrix, truncated to `dimensions`, and then normalized if `normalize` is set.

    Raises:
        ComputationError: the norm of a vector overflows fp32.
    """
    stacked = np.stack(rows)[:, :dimensions]
    if normalize:
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise ComputationError(NOT_FINITE)
        stacked = stacked / np.maximum(lengths, 1e-12)
    return np.ascontiguousarray(stacked, dtype=np.float32)
