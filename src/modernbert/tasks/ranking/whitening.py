"""Whitening: a linear layer after which the vectors of documents are centred and have similar variances."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from modernbert.errors import ConfigError
from modernbert.model.retrieval import Dense, DenseEncoder
from modernbert.packed import Sequences
from modernbert.stream.batching import batches_within, shuffled
from modernbert.text.framing import Ids

_SAMPLE = 2048  # number of documents from which the layer is computed, or more for wide vectors
_TOKENS_AT_ONCE = 8192
_MIN_ROWS = 2  # for each dimension: with fewer, directions without variance in the sample would be scaled up


def whitening(
    vectors: Float[Tensor, "rows width"], power: float
) -> tuple[Float[Tensor, "width width"], Float[Tensor, "width"]]:
    """Weight and bias of a linear layer that whitens vectors, in fp32 (Su et al. 2021, arXiv 2103.15316).

    Results have the mean 0 and uncorrelated dimensions, in order of their variance before. This variance, v, becomes
    v ** (1 - power): with the power 1 all variances are 1, with 0 they are unchanged. Directions in which the
    vectors hardly vary (less than 1e-6 of the largest variance) are treated as if they had this variance.

    Raises:
        ConfigError: there are fewer than twice as many vectors as dimensions.
    """
    needed = _MIN_ROWS * vectors.shape[1]
    if len(vectors) < needed:
        raise ConfigError(
            f"settings.whitening needs at least {needed} different training documents for vectors of "
            f"{vectors.shape[1]} dimensions, but there are {len(vectors)}; leave it out."
        )
    rows = vectors.double()
    mean = rows.mean(0)
    variances, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    variances, directions = variances.flip(0), directions.flip(1)
    scale = variances.clamp(min=max(float(variances[0]), 1e-12) * 1e-6) ** (-power / 2)
    weight = scale.unsqueeze(1) * directions.T
    return weight.float(), -(weight @ mean).float()


@torch.no_grad()
def initialize_whitening(model: DenseEncoder, documents: Sequence[Ids], power: float) -> None:
    """Set the model's only linear layer so that it whitens the pooled vectors of training documents, given as ids.

    Raises:
        ConfigError: there are too few documents.
    """
    count = max(_SAMPLE, _MIN_ROWS * model.config.hidden_size)
    sample = [documents[index] for index in shuffled(len(documents), 0, 0)[:count].tolist()]
    pooled = _pooled(model, sample)
    weight, bias = whitening(pooled, power)
    layer = model.projections[0]
    assert isinstance(layer, Dense)
    for parameter, value in ((layer.linear.weight, weight), (layer.linear.bias, bias)):
        parameter.copy_(value)
        if distributed.is_initialized():  # signs of directions may differ between processors
            distributed.broadcast(parameter, 0)


def _pooled(model: DenseEncoder, documents: Sequence[Ids]) -> Float[Tensor, "documents width"]:
    """The vectors of documents before the linear layer, without dropout."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in documents]
    found = []
    for batch in batches_within(range(len(documents)), lengths, _TOKENS_AT_ONCE):
        tokens = torch.cat([torch.from_numpy(documents[index]) for index in batch]).to(device)
        sequences = Sequences.from_lengths(lengths[index] for index in batch).to(device)
        found.append(model.pooling(model.model(tokens, sequences), sequences, 0).float())
    model.train(training)
    return torch.cat(found)
