"""From a padded module to an ONNX file."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modernbert.errors import ConfigError
from modernbert.installation import install_command

INPUTS = ("input_ids", "attention_mask")
LARGEST_BYTES = 2_000_000_000  # of one protobuf file, with a margin; larger weights are in a second file


def require_packages(modules: Sequence[str], purpose: str) -> None:
    """Check that optional packages are installed.

    Raises:
        ConfigError: packages are missing; the message names them and the command that installs them.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        raise ConfigError(f"{purpose} needs {' and '.join(missing)}: {install_command('export')}.")


def write_graph(module: nn.Module, outputs: Sequence[str], path: Path) -> None:
    """Trace a padded module and write it as ONNX, opset 18, in fp32. The module's parameters become fp32.

    Inputs are `input_ids` and `attention_mask`, int64 (batch, length), with dynamic sizes. Weights of two gigabytes or
    more are written into `<path>_data`, where transformers.js and ONNX Runtime look for them.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
    """
    require_packages(("onnx", "onnxscript"), "An ONNX export")
    ids = torch.ones(2, 3, dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.float().eval(),
            (ids, torch.ones_like(ids)),
            dynamo=True,
            opset_version=18,
            input_names=list(INPUTS),
            output_names=list(outputs),
            dynamic_shapes=(sizes, sizes),
            custom_translation_table={torch.ops.modernbert_export.attention.default: _translation()},
            verbose=False,
        )
    assert program is not None, "dynamo=True gives a program"
    _remove_trace_metadata(program.model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    program.save(path, external_data=size >= LARGEST_BYTES)
    if (external := path.with_name(f"{path.name}.data")).exists():
        _rename_external(path, external)


def _translation() -> Any:
    from modernbert.export.graph_attention import GlobalAttention, WindowAttention

    def translate(q: Any, k: Any, v: Any, bias: Any, window: int) -> Any:
        if window < 0:
            return GlobalAttention(q, k, v, bias)
        return WindowAttention(q, k, v, bias, window=window)

    return translate


def _remove_trace_metadata(model: Any) -> None:
    """Remove the source locations of traced nodes, which are long and contain paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _rename_external(path: Path, external: Path) -> None:
    """Rename `model.onnx.data` of the exporter to `model.onnx_data`, the name that transformers.js expects."""
    import onnx

    name = f"{path.name}_data"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    onnx.save(model, path)
    external.rename(path.with_name(name))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter, which logs operators of unrelated packages and uses deprecated functions of torch."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
