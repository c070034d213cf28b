"""The roofline: the shortest possible time of a workload, from its operations and the speed of matrix products."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch

from modernbert.model import EncoderConfig
from modernbert.plan.costs import Flops, count_flops
from modernbert.stream.lengths import PackingStatistics, visible_keys

MATRICES = "matrix products"  # their name among the timed engines
_ROWS, _INNER, _COLUMNS = 2048, 768, 2304  # the shape of Wqkv of base on 2,048 tokens
_REPEATS = 2
MATRIX_FLOPS = _REPEATS * 2 * _ROWS * _INNER * _COLUMNS


def matrix_products(dtype: torch.dtype) -> Callable[[], None]:
    """A function that computes large matrix products with `MATRIX_FLOPS` operations per call."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(_ROWS, _INNER, generator=generator).to(dtype)
    b = torch.randn(_COLUMNS, _INNER, generator=generator).to(dtype)
    out = torch.empty(_ROWS, _COLUMNS, dtype=dtype)

    def run() -> None:
        for _ in range(_REPEATS):
            torch.mm(a, b.T, out=out)

    return run


def encoder_flops(config: EncoderConfig, lengths: Sequence[int]) -> float:
    """Operations of a forward pass: linear layers, and attention over the keys visible to each token; no padding."""
    flops = _flops(config, lengths, 0.0)
    return (
        sum(lengths) * (flops.layers + flops.attention) / 3
    )  # count_flops counts forward and backward, 3 times the forward


def training_flops(config: EncoderConfig, lengths: Sequence[int], predicted: int) -> float:
    """Operations of a forward and a backward pass that decodes `predicted` tokens."""
    return sum(lengths) * _flops(config, lengths, predicted / sum(lengths)).total


def _flops(config: EncoderConfig, lengths: Sequence[int], mask_ratio: float) -> Flops:
    sizes, tokens = np.array(lengths, dtype=np.int64), sum(lengths)
    windows = {config.window(layer) for layer in range(config.num_hidden_layers)}
    keys = {window: float(visible_keys(sizes, window).sum() / tokens) for window in windows}
    packing = PackingStatistics(max(lengths), Fraction(tokens), chunks_per_token=0.0, keys=keys)  # no special tokens
    return count_flops(config, packing, mask_ratio)
