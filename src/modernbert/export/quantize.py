"""Smaller ONNX files from one in fp32, under the names that transformers.js looks for."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError
from modernbert.export.graph import LARGEST_BYTES, require

_BLOCK = 32  # weights that share a scale in four bits, as in the files of transformers.js


def _fp16(source: Path, target: Path) -> None:
    _save(_half(_load(source)), target)


def _int8(source: Path, target: Path) -> None:
    _dynamic(source, target, signed=True)


def _uint8(source: Path, target: Path) -> None:
    _dynamic(source, target, signed=False)


def _q4(source: Path, target: Path) -> None:
    _save(_four_bits(_load(source)), target)


def _q4f16(source: Path, target: Path) -> None:
    _save(_half(_four_bits(_load(source))), target)


def _bnb4(source: Path, target: Path) -> None:
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

    quantizer = MatMulBnb4Quantizer(_load(source), MatMulBnb4Quantizer.NF4, 64)
    quantizer.process()
    _save(quantizer.model.model, target)


VARIANTS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "fp16": ("model_fp16.onnx", _fp16),
    "int8": ("model_int8.onnx", _int8),
    "uint8": ("model_uint8.onnx", _uint8),
    "q8": ("model_quantized.onnx", _int8),
    "q4": ("model_q4.onnx", _q4),
    "q4f16": ("model_q4f16.onnx", _q4f16),
    "bnb4": ("model_bnb4.onnx", _bnb4),
}


def choose_variants(names: str) -> tuple[str, ...]:
    """The variants of a list with commas; fp32 is always written, and `all` is all.

    Raises:
        ConfigError: there is no such variant.
    """
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if "all" in chosen:
        return tuple(VARIANTS)
    for name in chosen:
        if name not in VARIANTS and name != "fp32":
            raise ConfigError(f"There is no variant {name!r}; choose all, or any of: fp32, {', '.join(VARIANTS)}.")
    return tuple(name for name in chosen if name != "fp32")


def quantize(source: Path, variant: str, target: Path) -> None:
    """Write one variant of an fp32 file.

    fp16 halves every number but the angles of the positions, which need fp32; inputs and outputs stay as they are.
    int8, uint8: matrices and the embedding in 8 bits, inputs of matrices quantised as they come. q8 is int8 under the
    name that transformers.js asks for by default. q4: matrices in 4 bits in blocks of 32, q4f16 with the rest in fp16.
    bnb4: NF4 in blocks of 64.

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    require(("onnx", "onnxruntime"), "A quantised ONNX file")
    with _quiet():
        VARIANTS[variant][1](source, target)


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def _save(model: Any, path: Path) -> None:
    import onnx

    if model.ByteSize() >= LARGEST_BYTES:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}_data", convert_attribute=False)
    else:
        onnx.save(model, path)


def _dynamic(source: Path, target: Path, signed: bool) -> None:
    """Weights per column; without the reduced range that older processors need, since they do not overflow at 7 bits
    of the values that a norm gives."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    large = source.stat().st_size >= LARGEST_BYTES or source.with_name(f"{source.name}_data").exists()
    quantize_dynamic(
        source,
        target,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        use_external_data_format=large,
        extra_options={"EnableSubgraph": False, "MatMulConstBOnly": True},
    )


def _four_bits(model: Any) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=_BLOCK, is_symmetric=True, accuracy_level=None)
    quantizer.process()
    return quantizer.model.model


def _half(model: Any) -> Any:
    """fp16 inside; fp32 outside and on the way from positions to angles, where fp16 has not enough digits."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    keep = [*DEFAULT_OP_BLOCK_LIST, "Cos", "Sin"]
    return convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=keep,
        node_block_list=_before_the_angles(model),
    )


def _before_the_angles(model: Any) -> list[str]:
    """The names of the nodes that Cos and Sin are computed from."""
    makers = {name: node for node in model.graph.node for name in node.output}
    pending = [name for node in model.graph.node if node.op_type in ("Cos", "Sin") for name in node.input]
    found: dict[str, None] = {}
    while pending:
        node = makers.get(pending.pop())
        if node is not None and node.name not in found:
            found[node.name] = None
            pending += node.input
    return list(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """These tools speak to the root logger, and warn of values that fp16 rounds."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
