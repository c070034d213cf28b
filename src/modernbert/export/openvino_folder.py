"""A folder with a model in OpenVINO's format, with the names that sentence-transformers and optimum expect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modernbert.export.graph import INPUTS, quiet, require_packages
from modernbert.export.measure import Runner, make_batches, measure, measure_packed
from modernbert.export.onnx_folder import companions, copy_companions
from modernbert.export.padded import masked_attention
from modernbert.export.report import check_overwrite, report_name, write_report
from modernbert.export.source import Source, load_source
from modernbert.files import atomic_directory

TARGET = "openvino"
_NAMES = ("openvino/openvino_model.xml", "openvino/openvino_model.bin")


def export_openvino(
    folder: str | Path,
    output: str | Path,
    *,
    fp16: bool = False,
    kind: str | None = None,
    texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `openvino/openvino_model.xml` and `.bin` under `output`, and measure them on the CPU in fp32.

    With `fp16` the weights are stored in half the size. The returned report is also written as `export-openvino.json`.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: a package is missing, or the kind is unknown.
        DataError: a file that is not from an export would be overwritten, or the model has no tokenizer.
    """
    require_packages(("openvino",), "An OpenVINO export")
    import openvino

    output = Path(output)
    source = load_source(folder, kind)
    companion_files = companions(source.folder, output)
    check_overwrite(output, TARGET, [*_NAMES, *companion_files])
    batches = make_batches(source, texts)
    with atomic_directory(output) as partial:
        (partial / "openvino").mkdir()
        openvino.save_model(_converted(source), partial / _NAMES[0], compress_to_fp16=fp16)
        size = sum((partial / name).stat().st_size for name in _NAMES) / 1e6
        packed_speed = measure_packed(source, batches)
        measurement = measure(source, batches, compiled(partial / _NAMES[0]), _NAMES[0], size, packed_speed)
        copy_companions(source, partial, companion_files)
        files = [*companion_files, *_NAMES, report_name(TARGET)]
        return write_report(
            partial, TARGET, source.folder, source.kind.name, files, [measurement], ("openvino",),
            outputs=list(source.outputs), ours_tokens_per_second=packed_speed,
        )  # fmt: skip


def _converted(source: Source) -> Any:
    """The graph, traced with torch's attention operator, which OpenVINO computes without a matrix of scores."""
    import openvino

    module: Any = source.padded()
    module.encoder.attend = masked_attention
    ids = torch.ones(2, 3, dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with quiet(), torch.no_grad():
        program = torch.export.export(module.float().eval(), (ids, torch.ones_like(ids)), dynamic_shapes=(sizes, sizes))
        model = openvino.convert_model(program)
    for name, one in zip(INPUTS, model.inputs, strict=True):
        one.get_tensor().set_names({name})
    for name, one in zip(source.outputs, model.outputs, strict=True):
        one.get_tensor().set_names({name})
    return model


def compiled(path: Path) -> Runner:
    """A function that runs a model on the CPU in fp32 with the number of threads of torch."""
    import openvino

    core = openvino.Core()
    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.compile_model(core.read_model(path), "CPU", hints)
    names = [next(iter(one.names)) for one in model.outputs]
    request = model.create_infer_request()

    def run(ids: Any, mask: Any) -> dict[str, Any]:
        results = request.infer({"input_ids": ids, "attention_mask": mask})
        return {name: results[index] for index, name in enumerate(names)}

    return run
