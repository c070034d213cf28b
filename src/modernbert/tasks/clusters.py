"""Clusters of vectors by Ward's method."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modernbert.errors import DataError
from modernbert.installation import install_command


def ward_clusters(vectors: Float[Tensor, "rows dim"], count: int) -> Int[Tensor, "rows"]:
    """For each vector the index of its cluster, at most `count` clusters, by Ward's method on cosine distances.

    Raises:
        DataError: scipy is missing.
    """
    try:
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform
    except ImportError:
        raise DataError(f"Pooling tokens needs scipy: {install_command('finetune')}.") from None
    distances = (1 - vectors @ vectors.t()).clamp(0, 2).numpy()
    labels = fcluster(linkage(squareform(distances, checks=False), method="ward"), t=count, criterion="maxclust")
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].astype(np.int64))
