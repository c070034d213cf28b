"""Smaller ONNX files from one in fp32, with the names that transformers.js expects."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError
from modernbert.export.graph import LARGEST_BYTES, require_packages

_BLOCK = 32  # weights that share a scale in four bits, as in the files of transformers.js


def _fp16(source: Path, target: Path) -> None:
    _save(_to_fp16(_load(source)), target)


def _int8(source: Path, target: Path) -> None:
    _dynamic(source, target, signed=True)


def _uint8(source: Path, target: Path) -> None:
    _dynamic(source, target, signed=False)


def _q4(source: Path, target: Path) -> None:
    _save(_to_4_bits(_load(source)), target)


def _q4f16(source: Path, target: Path) -> None:
    _save(_to_fp16(_to_4_bits(_load(source))), target)


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
    """The variants of a comma-separated list, without fp32, which is always written; `all` selects all.

    Raises:
        ConfigError: a variant is unknown.
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

    fp16: all numbers except the angles of positions, which need fp32; inputs and outputs do not change. int8, uint8:
    matrices and the embedding in 8 bits, with dynamic quantization of their inputs. q8: int8 under the default name of
    transformers.js. q4: matrices in 4 bits in blocks of 32; q4f16: q4 with all other numbers in fp16. bnb4: NF4 in
    blocks of 64.

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    require_packages(("onnx", "onnxruntime"), "A quantized ONNX file")
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
    """Quantize weights per column, in a range of 7 bits, so that processors without VNNI do not overflow."""
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


def _to_4_bits(model: Any) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=_BLOCK, is_symmetric=True, accuracy_level=None)
    quantizer.process()
    return quantizer.model.model


def _to_fp16(model: Any) -> Any:
    """Convert to fp16, except inputs, outputs and the nodes from positions to angles, for which fp16 is not precise."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    keep = [*DEFAULT_OP_BLOCK_LIST, "Cos", "Sin"]
    return convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=keep,
        node_block_list=_angle_inputs(model),
    )


def _angle_inputs(model: Any) -> list[str]:
    """The names of the nodes on which Cos and Sin depend."""
    producers = {name: node for node in model.graph.node for name in node.output}
    pending = [name for node in model.graph.node if node.op_type in ("Cos", "Sin") for name in node.input]
    names: dict[str, None] = {}
    while pending:
        node = producers.get(pending.pop())
        if node is not None and node.name not in names:
            names[node.name] = None
            pending += node.input
    return list(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence these tools, which use the root logger and warn about values that fp16 rounds."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
