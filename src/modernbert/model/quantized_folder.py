"""Weights in int8 on disk, a quarter of the size of fp32. They are converted to fp32 when they are loaded.

Every matrix (of linear layers, the embedding, an untied decoder) is symmetric int8 with one fp32 scale for each row,
that is, for each output or token. `name` holds the integers, `name.scale` holds the scales, and a weight is their
product. Vectors (norms, biases) do not change. The file has another name than model.safetensors, and config.json has a
`quantization_config`, so that programs that do not know the format refuse the folder.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modernbert.errors import CheckpointError

INT8_WEIGHTS = "model.int8.safetensors"
METHOD = {"quant_method": "modernbert-int8-rows"}  # the value of `quantization_config` in config.json
_SCALE = ".scale"
_MAX_INT8 = 127


def quantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in int8 with scales (rows,), and other tensors unchanged. A weight changes by at most half a scale.

    Raises:
        CheckpointError: a weight is not finite.
    """
    result: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        if not weight.isfinite().all():
            raise CheckpointError(f"{name} holds a value that is not finite; it cannot be stored in int8.")
        if weight.dim() != 2:
            result[name] = weight
            continue
        matrix = weight.detach().float()
        largest = matrix.abs().amax(1)
        scale = torch.where(largest > 0, largest / _MAX_INT8, 1.0)
        result[name] = (matrix / scale[:, None]).round().clamp(-_MAX_INT8, _MAX_INT8).to(torch.int8)
        result[name + _SCALE] = scale
    return result


def dequantized(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights of a file of int8 matrices and scales, in fp32.

    Raises:
        CheckpointError: integers or scales are missing, or have a wrong shape, dtype or value.
    """
    result: dict[str, Tensor] = {}
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
            result[name] = values.float() * scale.float()[:, None]
        elif name + _SCALE in tensors or not values.is_floating_point():
            raise CheckpointError(f"{where}: {name} has scales but is {values.dtype}, not int8.")
        else:
            result[name] = values.float()
    return result


def is_method(value: Any) -> bool:
    """Whether a `quantization_config` names this format."""
    return isinstance(value, Mapping) and dict(value) == METHOD
