"""Similarity of vectors: the functions of sentence-transformers, with the same names."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from modernbert.model.retrieval_settings import Similarity


def similarity(one: Any, other: Any, name: Similarity = "cosine") -> Float[Tensor, "rows columns"]:
    """The similarity of each vector of `one` with each of `other`. Distances are negated, so that higher is closer."""
    return _FUNCTIONS[name](_matrix(one), _matrix(other))


def _matrix(vectors: Any) -> Tensor:
    if isinstance(vectors, list | tuple):
        vectors = torch.stack([torch.as_tensor(one) for one in vectors])
    matrix = torch.as_tensor(vectors)
    matrix = matrix.unsqueeze(0) if matrix.dim() == 1 else matrix
    return matrix if matrix.dtype == torch.float64 else matrix.float()


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.sparse.mm(one, other.to_dense().t()) if one.is_sparse else one @ other.to_dense().t()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return F.normalize(one.to_dense(), dim=1) @ F.normalize(other.to_dense(), dim=1).t()


def _distance(p: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda one, other: -torch.cdist(one.to_dense(), other.to_dense(), p=p)


_FUNCTIONS: Mapping[Similarity, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _distance(2.0),
    "manhattan": _distance(1.0),
}
