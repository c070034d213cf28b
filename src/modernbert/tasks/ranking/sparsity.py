"""What keeps sparse vectors sparse."""

from jaxtyping import Float
from torch import Tensor


def flops(vectors: Float[Tensor, "rows vocabulary"], threshold: int | None = None) -> Float[Tensor, ""]:
    """The sum over the vocabulary of the squared mean weight (Paria et al. 2020, arXiv 2004.05665).

    About the multiplications that scoring two random vectors takes. Vectors with at most `threshold` weights above 0
    are sparse enough and count as zeros.
    """
    if threshold is not None:
        vectors = vectors * ((vectors != 0).sum(1, keepdim=True) > threshold)
    return vectors.float().mean(0).square().sum()


def warmed_up(weight: float, progress: float, warmup: float) -> float:
    """The weight of the regulariser at a part of the run (0 to 1): it grows with the square until `warmup`.

    A full weight from the beginning empties every vector before it has learned anything (Formal et al. 2021,
    arXiv 2109.10086, section 3).
    """
    return weight if progress >= warmup else weight * (progress / warmup) ** 2
