"""How alike vectors are: the functions of sentence-transformers, under the same names."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from modernbert.model.retrieval_settings import Similarity


def similarity(one: Any, other: Any, name: Similarity = "cosine") -> Float[Tensor, "rows columns"]:
    """How alike each vector of `one` is to each of `other`; higher is more alike, distances come negated."""
    return _FUNCTIONS[name](_matrix(one), _matrix(other))


def _matrix(vectors: Any) -> Tensor:
    if isinstance(vectors, list | tuple):
        vectors = torch.stack([torch.as_tensor(one) for one in vectors])
    found = torch.as_tensor(vectors)
    found = found.unsqueeze(0) if found.dim() == 1 else found
    return found if found.dtype == torch.float64 else found.float()


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
