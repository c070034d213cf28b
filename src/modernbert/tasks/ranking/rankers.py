"""Rankers of a collection: BM25 and the four kinds of models, alone, in two stages, or fused."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.ranking.fusion import Fusion, Scored, fuse, interpolate_reranking
from modernbert.tasks.rerank import Reranker
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.text.bm25 import bm25_words, language_of, load_bm25s

_QUERIES_AT_ONCE = 64


@dataclass(frozen=True)
class Cost:
    """The cost of a ranking: seconds for all documents and for all queries, and the size of the index."""

    index_seconds: float
    query_seconds: float
    index_bytes: int
    document_tokens: int = 0


class Ranker(ABC):
    """Ranks documents for queries."""

    name: str
    cost: Cost

    @abstractmethod
    def rank(self, queries: Sequence[str], documents: Sequence[str], top: int) -> list[Scored]:
        """For each query the best `top` documents. `cost` is known afterwards."""


class Bm25(Ranker):
    """BM25 (Robertson et al. 1994) on the words of `bm25_words`. With "auto", the documents decide the language."""

    def __init__(self, language: str = "auto", name: str = "BM25") -> None:
        self.language, self.name = language, name

    def rank(self, queries: Sequence[str], documents: Sequence[str], top: int) -> list[Scored]:
        bm25s = load_bm25s()
        began = time.perf_counter()
        index = bm25s.BM25()
        language = language_of(documents) if self.language == "auto" else self.language
        index.index(bm25_words(documents, language), show_progress=False)
        indexed = time.perf_counter()
        indices, scores = index.retrieve(
            bm25_words(queries, language), k=min(top, len(documents)), show_progress=False, n_threads=1
        )
        stored = sum(part.nbytes for part in index.scores.values() if isinstance(part, np.ndarray))
        self.cost = Cost(indexed - began, time.perf_counter() - indexed, stored)
        return [
            [(int(number), float(score)) for number, score in zip(*row, strict=True) if score > 0]
            for row in zip(indices, scores, strict=True)
        ]


class EmbedderRanker(Ranker):
    """Exact search with one of the three kinds of embedders."""

    def __init__(
        self, embedder: Embedder | MultiVectorEmbedder | SparseEmbedder, name: str, tokens_at_once: int = 8192
    ):
        self.embedder, self.name, self.tokens_at_once = embedder, name, tokens_at_once

    def rank(self, queries: Sequence[str], documents: Sequence[str], top: int) -> list[Scored]:
        embedder, options = self.embedder, {"tokens_at_once": self.tokens_at_once}
        began = time.perf_counter()
        document_vectors: Any = embedder.encode_document(list(documents), **options)
        indexed = time.perf_counter()
        query_vectors: Any = embedder.encode_query(list(queries), **options)
        rankings: list[Scored] = []
        for begin in range(0, len(queries), _QUERIES_AT_ONCE):
            rankings += _best(self._scores(query_vectors, begin, document_vectors), top)
        ended = time.perf_counter()
        tokens = int(sum(len(ids) for ids in embedder.texts.encode(list(documents)).ids))
        self.cost = Cost(indexed - began, ended - indexed, _bytes(document_vectors), tokens)
        return rankings

    def _scores(self, query_vectors: Any, begin: int, document_vectors: Any) -> npt.NDArray[np.float32]:
        end = begin + _QUERIES_AT_ONCE
        if isinstance(self.embedder, SparseEmbedder):
            rows = query_vectors.to_dense()[begin:end]
            return torch.sparse.mm(document_vectors, rows.t()).t().numpy()
        return self.embedder.similarity(query_vectors[begin:end], document_vectors).numpy()


class TwoStageRanker(Ranker):
    """The top documents of a first stage, reordered by a cross-encoder; the others follow in their old order."""

    def __init__(self, first: Sequence[Scored], reranker: Reranker, depth: int, name: str) -> None:
        self.first, self.reranker, self.depth, self.name = first, reranker, depth, name

    def rank(self, queries: Sequence[str], documents: Sequence[str], top: int) -> list[Scored]:
        began = time.perf_counter()
        pairs = [
            (query, documents[index])
            for query, ranked in zip(queries, self.first, strict=True)
            for index, _ in ranked[: self.depth]
        ]
        scores = iter(self.reranker.predict(pairs, raw_scores=True).tolist() if pairs else [])
        reranked = [
            sorted(((index, next(scores)) for index, _ in ranked[: self.depth]), key=lambda one: -one[1])
            for ranked in self.first
        ]
        self.cost = Cost(0.0, time.perf_counter() - began, 0)
        return [
            _followed_by(best, ranked[self.depth :])[:top] for best, ranked in zip(reranked, self.first, strict=True)
        ]


def interpolate_runs(
    first: Sequence[Scored], reranked: Sequence[Scored], depth: int, first_weight: float
) -> list[Scored]:
    """A reranked run, whose best `depth` documents also keep a part of their scores in the first stage."""
    return [
        _followed_by(interpolate_reranking(one[:depth], other[:depth], first_weight), other[depth:])
        for one, other in zip(first, reranked, strict=True)
    ]


def fuse_runs(
    runs: Sequence[Sequence[Scored]], top: int, weights: Sequence[float] | None = None, fusion: Fusion = "rrf"
) -> list[Scored]:
    """The fusion of runs, query by query. Weights are 1 unless given."""
    weights = weights or [1.0] * len(runs)
    return [fuse(ranked, weights, fusion)[:top] for ranked in zip(*runs, strict=True)]


def _followed_by(best: Scored, others: Scored) -> Scored:
    """Ranked documents, and after them others in their order."""
    lowest = best[-1][1] if best else 0.0
    return [*best, *((index, lowest - 1 - number) for number, (index, _) in enumerate(others))]


def _best(scores: npt.NDArray[np.float32], top: int) -> list[Scored]:
    count = min(top, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [[(int(index), float(row[index])) for index in indices] for row, indices in zip(scores, order, strict=True)]


def _bytes(vectors: Any) -> int:
    if isinstance(vectors, list):
        return sum(one.nbytes for one in vectors)
    if isinstance(vectors, torch.Tensor):  # a sparse tensor: a value and an index for each weight
        return int(vectors._nnz()) * 8 if vectors.is_sparse else vectors.nbytes
    return int(vectors.nbytes)
