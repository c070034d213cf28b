"""What keeps sparse vectors sparse."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.text.framing import Ids


def flops(vectors: Float[Tensor, "rows vocabulary"], threshold: int | None = None) -> Float[Tensor, ""]:
    """The sum over the vocabulary of the squared mean weight (Paria et al. 2020, arXiv 2004.05665).

    About the multiplications that scoring two random vectors takes. Vectors with at most `threshold` weights above 0
    are sparse enough and count as zeros.
    """
    if threshold is not None:
        vectors = vectors * ((vectors != 0).sum(1, keepdim=True) > threshold)
    return vectors.float().mean(0).square().sum()


def inverse_document_frequencies(documents: Iterable[Ids], size: int) -> Float[Tensor, "vocabulary"]:
    """For each of `size` ids ln(1 + (n - df + 0.5) / (df + 0.5)), where df of n documents have it: what BM25 takes.

    Above 0 for an id that all have, and largest for one that none has.
    """
    counts, total = np.zeros(size, dtype=np.int64), 0
    for ids in documents:
        counts[np.unique(ids)] += 1
        total += 1
    return torch.from_numpy(np.log1p((total - counts + 0.5) / (counts + 0.5)).astype(np.float32))


def warmed_up(weight: float, progress: float, warmup: float) -> float:
    """The weight of the regulariser at a part of the run (0 to 1): it grows with the square until `warmup`.

    A full weight from the beginning empties every vector before it has learned anything (Formal et al. 2021,
    arXiv 2109.10086, section 3).
    """
    return weight if progress >= warmup else weight * (progress / warmup) ** 2
