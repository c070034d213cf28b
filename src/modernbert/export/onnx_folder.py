"""A folder with the ONNX files of a model, named as transformers.js, TEI and sentence-transformers expect."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modernbert.export.graph import require_packages, write_graph
from modernbert.export.measure import Measurement, Runner, make_batches, measure, measure_packed
from modernbert.export.quantize import VARIANTS, quantize
from modernbert.export.report import check_overwrite, report_name, write_report
from modernbert.export.source import Source, load_source
from modernbert.files import atomic_directory

TARGET = "onnx"
COMPANION_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip


def export_onnx(
    folder: str | Path,
    output: str | Path,
    *,
    variants: Sequence[str] = (),
    kind: str | None = None,
    texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `onnx/model.onnx` and the `variants` (see `quantize.VARIANTS`) under `output`, and measure them.

    Configuration, tokenizer and the modules of sentence-transformers are copied too, so the folder is complete.
    The returned report is also written as `export-onnx.json`. All files appear at once.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: a package is missing, or the kind is unknown.
        DataError: a file that is not from an export would be overwritten, or the model has no tokenizer.
    """
    require_packages(("onnx", "onnxscript", "onnxruntime"), "An ONNX export")
    output = Path(output)
    variants = sorted(variants, key=list(VARIANTS).index)
    names = {"fp32": "model.onnx"} | {variant: VARIANTS[variant][0] for variant in variants}
    check_overwrite(output, TARGET, [f"onnx/{name}" for name in names.values()])
    source = load_source(folder, kind)
    companion_files = companions(source.folder, output)
    check_overwrite(output, TARGET, companion_files)
    batches = make_batches(source, texts)
    with atomic_directory(output) as partial:
        graphs = partial / "onnx"
        graphs.mkdir()
        write_graph(source.padded(), source.outputs, graphs / names["fp32"])
        for variant in variants:
            if variant == "q8" and "int8" in variants:
                shutil.copyfile(graphs / names["int8"], graphs / names[variant])
            else:
                quantize(graphs / names["fp32"], variant, graphs / names[variant])
        packed_speed = measure_packed(source, batches)
        measurements: list[Measurement] = []
        for name in names.values():
            size = sum(path.stat().st_size for path in graphs.glob(f"{name}*")) / 1e6
            measurements.append(measure(source, batches, session(graphs / name), f"onnx/{name}", size, packed_speed))
        copy_companions(source, partial, companion_files)
        files = [*companion_files, *(str(path.relative_to(partial)) for path in sorted(graphs.iterdir()))]
        return write_report(
            partial, TARGET, source.folder, source.kind.name, [*files, report_name(TARGET)], measurements,
            ("onnx", "onnxscript", "onnxruntime"), outputs=list(source.outputs), ours_tokens_per_second=packed_speed,
        )  # fmt: skip


def session(path: Path) -> Runner:
    """A function that runs an ONNX file on the CPU with the number of threads of torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    inference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in inference.get_outputs()]

    def run(ids: Any, mask: Any) -> dict[str, np.ndarray[Any, Any]]:
        return dict(zip(names, inference.run(None, {"input_ids": ids, "attention_mask": mask}), strict=True))

    return run


def companions(folder: Path, output: Path) -> list[str]:
    """The files to copy with an export; none if the output is the folder of the model."""
    if output.resolve() == folder.resolve():
        return []
    names = [name for name in COMPANION_FILES if (folder / name).is_file()]
    return names + [
        str(path.relative_to(folder))
        for place in sorted(folder.glob("[0-9]*_*"))
        for path in sorted(place.rglob("*"))
        if path.is_file()
    ]


def copy_companions(source: Source, partial: Path, names: Sequence[str]) -> None:
    """Copy these files from the folder of the model."""
    for name in names:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / name, partial / name)
