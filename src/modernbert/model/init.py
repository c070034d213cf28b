"""Random weights: the "full megatron" initialization of ModernBERT (arXiv 2412.13663, appendix A)."""

import math

import torch
from torch import nn

from modernbert.model.config import EncoderConfig


@torch.no_grad()
def initialize(module: nn.Module, config: EncoderConfig, sigma: float | None = None) -> None:
    """Initialize every weight of `module` from torch's default generator.

    Matrices and the embedding: normal with `sigma` (default: `initializer_range`), truncated at
    `initializer_cutoff_factor` times that. The projections back into the residual stream (`Wo`) divide it by
    sqrt(2 * layers). Norm weights 1, every bias 0.
    """
    sigma_or_default = config.initializer_range if sigma is None else sigma
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 1:
            nn.init.ones_(parameter)
        else:
            std = sigma_or_default / (math.sqrt(2 * config.num_hidden_layers) if name.endswith("Wo.weight") else 1.0)
            cut = config.initializer_cutoff_factor * std
            nn.init.trunc_normal_(parameter, std=std, a=-cut, b=cut)
