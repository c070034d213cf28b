"""Encode padded tensors: pack, encode, unpack."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from modernbert.packed import pack, unpack


def encode_padded(
    model: nn.Module,
    input_ids: Shaped[Tensor, "batch length"],
    attention_mask: Shaped[Tensor, "batch length"] | None = None,
) -> Float[Tensor, "batch length ..."]:
    """The output of a model for each token of padded ids, zeros on padding.

    Args:
        model: an `Encoder`, or any model of this package with one row of outputs for each token (`MaskedLM`,
            `TokenClassifier`).
        input_ids: token ids with [CLS] and [SEP], padded on any side.
        attention_mask: 1 for tokens, 0 for padding; None without padding.

    Raises:
        DataError: ids and mask differ in shape, or the model does not give a row for each token.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    tokens, sequences = pack(input_ids, mask)
    return unpack(model(tokens, sequences), sequences)
