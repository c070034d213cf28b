"""Weights in int8 on disk: a quarter of the size of fp32, to be carried and installed. They are computed as before.

Every matrix (of linear layers, of the embedding, of a decoder that is not tied) is symmetric int8 with one fp32 scale
for each row, that is for each output or token: `name` holds the integers, `name.scale` the scales, and a weight is
their product. Vectors (norms, biases) stay as they are. The file has a name of its own and config.json says
`quantization_config`, so that a program which does not know the format refuses the folder instead of reading integers
as weights.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modernbert.errors import CheckpointError

WEIGHTS = "model.int8.safetensors"
METHOD = {"quant_method": "modernbert-int8-rows"}  # the value of `quantization_config` in config.json
_SCALE = ".scale"
_LARGEST = 127


def quantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in int8 beside their scales (rows,), everything else as it is. A weight moves by half a scale at most.

    Raises:
        CheckpointError: a weight is not finite.
    """
    found: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        if not weight.isfinite().all():
            raise CheckpointError(f"{name} holds a value that is not finite; it cannot be stored in int8.")
        if weight.dim() != 2:
            found[name] = weight
            continue
        matrix = weight.detach().float()
        largest = matrix.abs().amax(1)
        scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
        found[name] = (matrix / scale[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        found[name + _SCALE] = scale
    return found


def dequantized(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights that a file of int8 matrices and scales stands for, in fp32.

    Raises:
        CheckpointError: integers have no scales, scales no integers, or either is of another shape, type or value.
    """
    found: dict[str, Tensor] = {}
    for name, values in tensors.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in tensors:
            continue
        if name.endswith(_SCALE):
            raise CheckpointError(f"{where} has {name} without {name.removesuffix(_SCALE)}; copy the file again.")
        if values.dtype == torch.int8:
            scale = tensors.get(name + _SCALE)
            if scale is None:
                raise CheckpointError(f"{where} has {name} in int8 without {name + _SCALE}; copy the file again.")
            if values.dim() != 2 or scale.shape != values.shape[:1] or not scale.is_floating_point():
                raise CheckpointError(
                    f"{where}: {name} is {tuple(values.shape)} and its scales are {tuple(scale.shape)} of "
                    f"{scale.dtype}; there must be one floating-point scale for each row of a matrix."
                )
            if not (scale.isfinite() & (scale > 0)).all():
                raise CheckpointError(f"{where}: {name + _SCALE} holds a scale that is not above 0; copy it again.")
            found[name] = values.float() * scale.float()[:, None]
        elif name + _SCALE in tensors or not values.is_floating_point():
            raise CheckpointError(f"{where}: {name} is {values.dtype}, and not int8 as its scales say.")
        else:
            found[name] = values.float()
    return found


def is_method(value: Any) -> bool:
    """Whether a `quantization_config` names this format."""
    return isinstance(value, Mapping) and dict(value) == METHOD
