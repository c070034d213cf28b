"""`modernbert export`: convert a model folder for another runtime."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modernbert.cli.console import Json, print_json, print_table, texts_of

app = typer.Typer(no_args_is_help=True, help="Write a model for sentence-transformers, PyLate, ONNX, OpenVINO, GGUF.")

Folder = Annotated[str, typer.Argument(help="A model folder, or a hub id.", metavar="FOLDER")]
Output = Annotated[Path | None, typer.Option(help="The output folder. [default: NAME-TARGET in the current folder]")]
Kind = Annotated[
    str | None,
    typer.Option(
        help="The kind of model: encoder, fill-mask, classifier, tokens, answers, choices, embedder, "
        "reranker, multi-vector or sparse. [default: detected from the folder]"
    ),
]
Texts = Annotated[
    Path | None,
    typer.Option(help="A file with one text per line to measure with. [default: sentences in several languages]"),
]


@app.command(
    "onnx",
    epilog="""Examples:

    modernbert export onnx output/embedder

    modernbert export onnx output/reviews --variants fp16,int8,q4 --output site/models/reviews

    modernbert export onnx output/demo/run/final --kind encoder --variants all --texts texts.txt --json""",
)
def export_onnx(
    folder: Folder,
    output: Output = None,
    variants: Annotated[
        str,
        typer.Option(
            help="Files in addition to model.onnx in fp32: fp16, int8, uint8, q8, q4, q4f16, bnb4, separated by "
            "commas; or all, or none."
        ),
    ] = "q8",
    kind: Kind = None,
    texts: Texts = None,
    as_json: Json = False,
) -> None:
    """ONNX files for transformers.js, ONNX Runtime, text-embeddings-inference and sentence-transformers.

    Prints the accuracy of each file and its speed compared with this package, and marks files with a cosine below 0.99.
    Needs modernbert[export].
    """
    from modernbert.export.onnx_folder import export_onnx as export
    from modernbert.export.quantize import choose_variants

    chosen = choose_variants("" if variants == "none" else variants)
    target = _target_folder(folder, output, "onnx")
    _print(export(folder, target, variants=chosen, kind=kind, texts=_read_texts(texts)), target, as_json)


@app.command(
    "openvino",
    epilog="""Examples:

    modernbert export openvino output/embedder

    modernbert export openvino output/reviews --fp16 --output reviews-openvino --json""",
)
def export_openvino(
    folder: Folder,
    output: Output = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store the weights in fp16.")] = False,
    kind: Kind = None,
    texts: Texts = None,
    as_json: Json = False,
) -> None:
    """OpenVINO files, for Intel processors. Needs modernbert[export]."""
    from modernbert.export.openvino_folder import export_openvino as export

    target = _target_folder(folder, output, "openvino")
    _print(export(folder, target, fp16=fp16, kind=kind, texts=_read_texts(texts)), target, as_json)


@app.command(
    "gguf",
    epilog="""Examples:

    modernbert export gguf output/embedder

    modernbert export gguf output/reranker --dtype q8_0 --output models""",
)
def export_gguf(
    folder: Folder,
    output: Output = None,
    dtype: Annotated[str, typer.Option(help="f32, f16, bf16 or q8_0; norms stay f32.")] = "f32",
    kind: Kind = None,
    as_json: Json = False,
) -> None:
    """A GGUF file for llama.cpp: encoder, embedder, classifier or reranker. Needs modernbert[export]."""
    from modernbert.export.gguf_file import export_gguf as export

    target = _target_folder(folder, output, "gguf")
    _print(export(folder, target, dtype=dtype, kind=kind), target, as_json)  # type: ignore[arg-type]  # checked there


@app.command(
    "sentence-transformers",
    epilog="""Examples:

    modernbert export sentence-transformers output/demo/run/final

    modernbert export sentence-transformers output/reviews --kind reranker --output reranker""",
)
def export_sentence_transformers(
    folder: Folder,
    output: Output = None,
    kind: Annotated[
        str | None,
        typer.Option(help="embedder, reranker, multi-vector or sparse. [default: detected, or embedder]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """A folder that SentenceTransformer, CrossEncoder, MultiVectorEncoder or SparseEncoder loads."""
    from modernbert.export.retrieval_folder import export_sentence_transformers as export

    target = _target_folder(folder, output, "sentence-transformers")
    _print(export(folder, target, kind=kind), target, as_json)


@app.command(
    "pylate",
    epilog="""Examples:

    modernbert export pylate output/late-interaction

    modernbert export pylate output/demo/run/final --output to-train""",
)
def export_pylate(folder: Folder, output: Output = None, as_json: Json = False) -> None:
    """A folder that PyLate loads as ColBERT. A model without a projection gets a random, untrained one."""
    from modernbert.export.retrieval_folder import export_pylate as export

    target = _target_folder(folder, output, "pylate")
    _print(export(folder, target), target, as_json)


def _target_folder(folder: str, output: Path | None, target: str) -> Path:
    return output or Path(f"{Path(folder).resolve().name or 'model'}-{target}")


def _read_texts(texts: Path | None) -> list[str]:
    return [text for text in texts_of([], texts) if text.strip()] if texts is not None else []


def _print(report: dict[str, Any], target: Path, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    measured = report.get("measured") or []
    if measured:
        rows = [
            (
                one["file"],
                f"{one['megabytes']:,.1f}",
                f"{one['max_difference']:.1e}",
                f"{one['lowest_cosine']:.6f}",
                f"{one['mean_cosine']:.6f}",
                f"{one['tokens_per_second']:,.0f}",
                f"{one['speed_against_ours']:.2f}",
                "below 0.99" if one["below_0.99"] else "",
            )
            for one in measured
        ]
        print_table(
            ("file", "MB", "max difference", "lowest cosine", "mean cosine", "tokens/s", "x ours", "warning"), rows
        )
        typer.echo(f"ours: {report['ours_tokens_per_second']:,.0f} tokens/s on the same batches, packed")
    for name in report.get("files", ()):
        if not measured and name.endswith(".gguf"):
            typer.echo(name)
    typer.echo(f"written to {target}")
