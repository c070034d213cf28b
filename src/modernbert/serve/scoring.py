"""Scores of queries and documents, and vectors of texts, as routes answer them."""

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
    """How well each document fits the query, or its own one where there are as many queries.

    Of a reranker between 0 and 1, or logits with `raw`; of a multi-vector model MaxSim, the sum over the tokens of the
    query of the largest product with a token of the document (arXiv 2004.12832); of an embedder the cosine.
    """
    engine: Any = usage.model.engine
    of_documents = list(queries) * len(documents) if len(queries) == 1 else list(queries)
    match usage.model.kind:
        case Kind.RERANKER:
            pairs = list(zip(of_documents, documents, strict=True))
            rows = await server.run(usage, lambda: engine.encode(pairs, truncate, side))
            scores = np.array([row[0] for row in rows], dtype=np.float32)
            return scores if raw else sigmoid(scores)
        case Kind.MULTI_VECTOR:
            rows = await server.run(usage, lambda: _both(engine, queries, documents, truncate, side))
            asked, told = rows[: len(queries)], rows[len(queries) :]
            asked = asked * len(documents) if len(queries) == 1 else asked
            return await server.in_thread(lambda: np.array(list(map(maxsim, asked, told)), dtype=np.float32))
        case _:
            rows = await server.run(usage, lambda: _both(engine, queries, documents, truncate, side))
            found = vectors(rows, normalize=True)
            products = found[: len(queries)] * found[len(queries) :]
            return np.asarray(products.sum(1), dtype=np.float32)


def _both(engine: Any, queries: Sequence[str], documents: Sequence[str], truncate: bool, side: Side) -> list[Item]:
    if isinstance(engine, MultiVectorEngine):
        asked = engine.encode(queries, truncate, side, "query")
        return asked + engine.encode(documents, truncate, side, "document")
    asked = engine.encode(queries, truncate, side, engine.role_prompt("query"))
    told: list[Item] = engine.encode(documents, truncate, side, engine.role_prompt("document"))
    return list(asked) + told


def maxsim(query: Numbers, document: Numbers) -> float:
    """The sum over the query tokens of the largest product with a document token; 0 if one of both is empty."""
    if not len(query) or not len(document):
        return 0.0
    return float((query @ document.T).max(1).sum())


def vectors(rows: Sequence[Numbers], normalize: bool, dimensions: int | None = None) -> Numbers:
    """Vectors as rows of a matrix, truncated to `dimensions`, and then normalized if `normalize` is set.

    Raises:
        ComputationError: the norm of a vector overflows fp32.
    """
    found = np.stack(rows)[:, :dimensions]
    if normalize:
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise ComputationError(NOT_FINITE)
        found = found / np.maximum(lengths, 1e-12)
    return np.ascontiguousarray(found, dtype=np.float32)
