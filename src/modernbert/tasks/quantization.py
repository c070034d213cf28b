"""Quantized vectors, with the same numbers as sentence-transformers' `quantize_embeddings`."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from modernbert.errors import ConfigError, DataError

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
Vectors = npt.NDArray[Any]


def quantize(vectors: Vectors, precision: Precision, calibration: Vectors | None = None) -> Vectors:
    """Quantize vectors (rows, dim).

    `int8` and `uint8` split the range of each dimension into 256 steps: the range in `calibration`, or in `vectors`.
    `binary` and `ubinary` keep the sign of each dimension, eight in a byte (signed or unsigned).

    Raises:
        ConfigError: there is no such precision.
        DataError: the range depends on fewer than two vectors, or the calibration has another dimension.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"There is no precision {precision!r}; there are {', '.join(get_args(Precision))}.")
    if precision == "float32":
        return vectors.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits - 128).astype(np.int8)
    begin, step = ranges(vectors if calibration is None else calibration, vectors.shape[-1])
    steps = np.clip(np.floor((vectors - begin) / step), 0, 255)
    return steps.astype(np.uint8) if precision == "uint8" else (steps - 128).astype(np.int8)


def ranges(calibration: Vectors, dimensions: int) -> tuple[Vectors, Vectors]:
    """The lowest value of each dimension and the width of its 255 steps, in fp32."""
    if calibration.ndim != 2 or len(calibration) < 2 or calibration.shape[1] != dimensions:
        raise DataError(
            f"int8 and uint8 need the ranges of at least two vectors of {dimensions} dimensions; the calibration is "
            f"{tuple(calibration.shape)}: give more texts, or calibration vectors."
        )
    begin, end = (edge.astype(np.float32) for edge in (calibration.min(0), calibration.max(0)))
    step = (end - begin) / 255
    return begin, np.where(step == 0, 1, step)
