"""Similarity of pairs with graded labels, and losses of shortened vectors."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def cosent(scores: Float[Tensor, "pairs"], labels: Float[Tensor, "pairs"], *, scale: float = 20.0) -> Float[Tensor, ""]:
    """log(1 + sum over pairs i, j with label i < label j of exp(scale (score i - score j))).

    Every two pairs in the wrong order have a cost (Huang et al. 2024, CoSENT, doi 10.1109/TASLP.2024.3402087).
    """
    scores = scores.float() * scale
    differences = scores.unsqueeze(1) - scores.unsqueeze(0)
    lower = labels.unsqueeze(1) < labels.unsqueeze(0)
    return torch.logsumexp(torch.cat([scores.new_zeros(1), differences[lower]]), dim=0)


def angle_similarity(x: Float[Tensor, "pairs dim"], y: Float[Tensor, "pairs dim"]) -> Float[Tensor, "pairs"]:
    """Similarity of the angles of two vectors, read as complex ones: the first half real, the second imaginary.

    |Re + Im of the sum of x conj(y)| over unit vectors (Li & Li 2024, AnglE, arXiv 2309.12871, as in the
    authors' code). A vector of odd length is padded with a 0.
    """
    if x.shape[1] % 2:
        x, y = F.pad(x, (0, 1)), F.pad(y, (0, 1))
    (real_x, imaginary_x), (real_y, imaginary_y) = (F.normalize(v.float(), dim=1).chunk(2, 1) for v in (x, y))
    real = (real_x * real_y + imaginary_x * imaginary_y).sum(1)
    imaginary = (imaginary_x * real_y - real_x * imaginary_y).sum(1)
    return (real + imaginary).abs()


def angle(
    x: Float[Tensor, "pairs dim"], y: Float[Tensor, "pairs dim"], labels: Float[Tensor, "pairs"], *, scale: float = 20.0
) -> Float[Tensor, ""]:
    """`cosent` of the angle similarity."""
    return cosent(angle_similarity(x, y), labels, scale=scale)


def matryoshka(
    vectors: Float[Tensor, "rows dim"],
    loss: Callable[[Float[Tensor, "rows dim"]], Tensor],
    dimensions: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Float[Tensor, ""]:
    """The weighted sum of a loss over vectors truncated to each of `dimensions` and normalized.

    So vectors can be truncated after training (Kusupati et al. 2022, arXiv 2205.13147). Weights are 1 unless given.
    """
    total = vectors.new_zeros(())
    for size, weight in zip(dimensions, weights or [1.0] * len(dimensions), strict=True):
        total = total + weight * loss(F.normalize(vectors[:, :size], dim=-1))
    return total
