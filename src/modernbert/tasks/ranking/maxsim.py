"""Late-interaction scores (Khattab & Zaharia 2020, ColBERT, arXiv 2004.12832) of packed vectors, with gradients."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.kernels.max_products import max_products

EMPTY_SCORE = -1e4  # score of a document without vectors: below all other scores, and finite
_ELEMENTS_AT_ONCE = 1 << 23  # similarities in memory at once: 32 MiB in fp32
_QUERIES_AT_ONCE = 32
_TOKENS_AT_ONCE = 1 << 13  # of documents: 4 MiB of vectors of ColBERT in fp32


def maxsim(
    queries: Float[Tensor, "query_tokens dim"],
    query_lengths: Sequence[int],
    documents: Float[Tensor, "document_tokens dim"],
    document_lengths: Sequence[int],
    elements_at_once: int = _ELEMENTS_AT_ONCE,
) -> Float[Tensor, "queries documents"]:
    """For each query and document, the sum over query vectors of the largest product with a document vector.

    Vectors of all texts are concatenated; `lengths` are their numbers for each text. The caller leaves out masked
    tokens, such as the punctuation of documents. Only the similarities of some documents are in memory at a time. The
    index of the largest one is kept for each query vector and document (int32) for the backward pass. Scores are fp32.
    """
    scores: Tensor = _MaxSim.apply(queries, tuple(query_lengths), documents, tuple(document_lengths), elements_at_once)
    return scores


def maxsim_scores(
    queries: Sequence[Any], documents: Any, document_lengths: Sequence[int]
) -> Float[Tensor, "queries documents"]:
    """The scores of `maxsim` on the CPU in fp32, without gradients and about as fast as the products alone.

    Each query is an array or tensor (tokens, dim); `documents` is an array (tokens, dim) of the concatenated vectors of
    all documents, in fp32 or fp16, also a memory map, which is read in blocks.
    """
    ends = np.concatenate([[0], np.cumsum(document_lengths, dtype=np.int64)])
    scores = np.zeros((len(queries), len(document_lengths)), dtype=np.float32)
    asked = np.flatnonzero([len(query) for query in queries])
    for first in range(0, len(asked), _QUERIES_AT_ONCE):
        rows = asked[first : first + _QUERIES_AT_ONCE]
        query_vectors = np.concatenate([np.asarray(queries[row], dtype=np.float32) for row in rows])
        begins = np.cumsum([0, *(len(queries[row]) for row in rows[:-1])])
        for begin, end in document_blocks(ends, _TOKENS_AT_ONCE):
            largest = max_products(
                documents[ends[begin] : ends[end]], ends[begin : end + 1] - ends[begin], query_vectors
            )
            sums = np.add.reduceat(largest, begins, axis=1)
            sums[ends[begin:end] == ends[begin + 1 : end + 1]] = EMPTY_SCORE
            scores[rows, begin:end] = sums.T
    return torch.from_numpy(scores)


def document_blocks(ends: npt.NDArray[np.int64], tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive documents with at most `tokens` tokens, or of one longer document."""
    begin = 0
    while begin < len(ends) - 1:
        end = max(begin + 1, int(np.searchsorted(ends, ends[begin] + tokens, "right")) - 1)
        yield begin, end
        begin = end


def maxsim_per_query(
    queries: Float[Tensor, "query_tokens dim"],
    query_lengths: Sequence[int],
    documents: Float[Tensor, "document_tokens dim"],
    document_lengths: Sequence[int],
    counts: Sequence[int],
) -> list[Float[Tensor, "documents"]]:
    """The scores of each query with its own documents; query i has the next `counts[i]` documents."""
    scores: list[Tensor] = []
    query_begin = document_begin = first = 0
    for length, count in zip(query_lengths, counts, strict=True):
        own_lengths = document_lengths[first : first + count]
        end = document_begin + sum(own_lengths)
        query = queries[query_begin : query_begin + length]
        scores.append(maxsim(query, [length], documents[document_begin:end], own_lengths)[0])
        query_begin, document_begin, first = query_begin + length, end, first + count
    return scores


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        query_lengths: tuple[int, ...],
        documents: Tensor,
        document_lengths: tuple[int, ...],
        elements_at_once: int,
    ) -> Tensor:
        begins = torch.tensor((0, *document_lengths), device=documents.device).cumsum(0)[:-1]
        lengths = torch.tensor(document_lengths, device=documents.device)
        best = torch.zeros(len(queries), len(lengths), dtype=torch.int32, device=queries.device)
        largest = torch.full((len(queries), len(lengths)), EMPTY_SCORE, device=queries.device)
        for chosen in _groups(document_lengths, max(1, elements_at_once // max(1, len(queries)))):
            width = max(document_lengths[index] for index in chosen)
            if width == 0:
                continue
            columns = torch.tensor(chosen, device=documents.device)
            positions = torch.arange(width, device=documents.device)
            real = positions < lengths[columns].unsqueeze(1)
            rows = (begins[columns].unsqueeze(1) + positions).where(real, begins[columns].unsqueeze(1))
            rows = rows.clamp(max=len(documents) - 1)  # an empty document at the end
            products = queries @ documents[rows.flatten()].T
            products = products.view(len(queries), *rows.shape).masked_fill(~real, -torch.inf)
            values, index = products.max(-1)
            filled = lengths[columns] > 0
            largest[:, columns] = values.float().where(filled, EMPTY_SCORE)
            best[:, columns] = (begins[columns] + index).to(torch.int32)
        owner = torch.repeat_interleave(
            torch.arange(len(query_lengths), device=queries.device),
            torch.tensor(query_lengths, device=queries.device),
        )
        empty = lengths == 0
        scores = largest.new_zeros(len(query_lengths), len(lengths)).index_add_(0, owner, largest)
        ctx.save_for_backward(queries, documents, best, owner, empty)
        return scores.masked_fill_(empty, EMPTY_SCORE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        queries, documents, best, owner, empty = ctx.saved_tensors
        query_gradients = torch.zeros_like(queries, dtype=torch.float32)
        document_gradients = torch.zeros_like(documents, dtype=torch.float32)
        gradient = gradient.masked_fill(empty, 0)
        at_once = max(1, _ELEMENTS_AT_ONCE // max(1, best.shape[1] * queries.shape[1]))
        for begin in range(0, len(queries), at_once):
            part = slice(begin, begin + at_once)
            weights = gradient[owner[part]]  # (query vectors, documents)
            rows = best[part].long().masked_fill(empty, 0)
            chosen = documents[rows.flatten()].view(*rows.shape, -1).float()
            query_gradients[part] = torch.einsum("qd,qdh->qh", weights, chosen)
            vector_gradients = weights.unsqueeze(-1) * queries[part].float().unsqueeze(1)
            document_gradients.index_add_(0, rows.flatten(), vector_gradients.flatten(0, 1))
        return query_gradients.to(queries.dtype), None, document_gradients.to(documents.dtype), None, None


def _groups(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Groups of documents of similar length, with at most `most` tokens including padding."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if group and (len(group) + 1) * lengths[index] > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
