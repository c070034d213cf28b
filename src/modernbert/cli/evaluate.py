"""`modernbert evaluate`: quality of a model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from modernbert.cli import evaluate_tasks
from modernbert.cli.console import Corpus, Json, Overrides, print_json, print_table
from modernbert.errors import ConfigError


class _FolderUnlessNamed(TyperGroup):
    """`evaluate FOLDER DATA` is `evaluate folder FOLDER DATA`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # a Context of click, or of the one inside typer
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["folder", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FolderUnlessNamed,
    no_args_is_help=True,
    help="Measure trained models.",
    epilog="""Examples:

    modernbert evaluate output/reviews new-reviews.csv

    modernbert evaluate mlm output/tiny/run/final books.jsonl.gz

    modernbert evaluate glue output/base/run/final --data glue""",
)


@app.command(
    "positions",
    epilog="""Examples:

    modernbert evaluate positions output/mini/run --output positions.svg

    modernbert evaluate positions output/mini/run --model output/mini/run/final --length 4096 --json""",
)
def evaluate_positions(
    run: Annotated[Path, typer.Argument(help="A run directory; its held-out documents are used.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A model folder; may be repeated. [default: the model of each phase]")
    ] = None,
    length: Annotated[int, typer.Option(help="Length of a sequence, from a single document.")] = 8192,
    rows: Annotated[int, typer.Option(help="Maximum number of sequences.")] = 24,
    output: Annotated[Path | None, typer.Option(help="Plot a figure: .png, .svg or .pdf.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Loss by position in long held-out documents, before and after a context extension."""
    from modernbert.evaluate.positions import loss_by_position, plot_positions

    found = loss_by_position(run, model or (), length=length, rows=rows, device=device)
    if output is not None:
        plot_positions(found, output)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(f"{found.rows} rows of {found.length:,} tokens; loss in nats per masked token\n")
    typer.echo(f"| {'positions':<17} |" + "".join(f" {curve.model} |" for curve in found.curves))
    typer.echo("|---|" + "---|" * len(found.curves))
    starts = found.curves[0].starts
    for number, (start, stop) in enumerate(zip(starts, (*starts[1:], found.length), strict=True)):
        losses = "".join(f" {curve.loss[number]:.3f} ± {curve.error[number]:.3f} |" for curve in found.curves)
        typer.echo(f"| {f'{start:,} to {stop - 1:,}':<17} |{losses}")
    if output is not None:
        typer.echo(f"\n{output}")


@app.command(
    "retrieval",
    epilog="""Examples:

    modernbert evaluate retrieval my-collection --model output/retrieval/dense

    modernbert evaluate retrieval zeta-alpha-ai/NanoSciFact --model output/retrieval/dense --model output/retrieval/late

    modernbert evaluate retrieval my-collection --model output/retrieval/dense --fusion scores --weights-from validation

    modernbert evaluate retrieval my-collection --rerank output/retrieval/rerank --depth 100 --json""",
)
def evaluate_retrieval_(
    collection: Annotated[
        str, typer.Argument(help="A folder (BEIR, TREC, SMART, MLDR), or NAME on the hub; for MLDR NAME:LANGUAGE.")
    ],
    model: Annotated[list[str] | None, typer.Option(help="A model folder or hub id; may be repeated.")] = None,
    rerank: Annotated[list[str] | None, typer.Option(help="A reranker for each first stage; may be repeated.")] = None,
    depth: Annotated[int, typer.Option(help="Number of documents to rerank.")] = 100,
    split: Annotated[str, typer.Option(help="Split whose judgements are used.")] = "test",
    bm25: Annotated[bool, typer.Option(help="Also measure BM25.")] = True,
    hybrid: Annotated[bool, typer.Option(help="Also measure each model fused with BM25.")] = True,
    fusion: Annotated[
        list[str] | None,
        typer.Option(help="Fusion with BM25: rrf (by ranks) or scores (scaled); may be repeated. [default: rrf]"),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Number of documents of each system in a fusion.")] = 100,
    bm25_weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of BM25 in a fusion, where the model or reranker has 1; may be repeated."),
    ] = None,
    weights_from: Annotated[
        str | None,
        typer.Option(
            help="A split whose queries select one of these weights, also for the first stage beside a reranker."
        ),
    ] = None,
    language: Annotated[
        str,
        typer.Option(help="Words of BM25: en (stems), any (pairs of characters in Japanese), or auto."),
    ] = "auto",
    max_length: Annotated[int | None, typer.Option(help="Maximum tokens of a text. [default: the model's]")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in int8.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Also write a JSON file with the values of each query.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid records, and count them.")] = False,
    as_json: Json = False,
) -> None:
    """nDCG@10, MRR, recall and MAP, computed by trec_eval, of BM25, embedders of all kinds, hybrids and rerankers."""
    from modernbert.evaluate.retrieval import document, evaluate_retrieval, rows_of, write_table
    from modernbert.tasks.ranking.fusion import fusion_named

    found = evaluate_retrieval(
        collection, model or (), split=split, bm25=bm25, language=language, rerankers=rerank or (), depth=depth,
        hybrid=hybrid, fusions=[fusion_named(one) for one in fusion or ("rrf",)], candidates=candidates,
        bm25_weights=bm25_weight or (), weights_from=weights_from, max_length=max_length, int8=int8, device=device,
        skip_bad=skip_bad,
    )  # fmt: skip
    if output is not None:
        write_table(found, output)
    if as_json:
        print_json(document(found))
        return
    typer.echo(f"{found.collection}: {found.documents:,} documents, {found.queries:,} queries\n")
    print_table(*rows_of(found))


@app.command(
    "mlm",
    epilog="""Examples:

    modernbert evaluate mlm output/mini/run/final books.jsonl.gz news.jsonl.gz

    modernbert evaluate mlm answerdotai/ModernBERT-base documents/ --max-length 1024 --json""",
)
def evaluate_mlm(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    sources: Corpus,
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    max_length: Annotated[int | None, typer.Option(help="Length of a sequence. [default: the model's maximum]")] = None,
    tokens: Annotated[int, typer.Option(help="Number of tokens from each source.")] = 200_000,
    mask_ratio: Annotated[float, typer.Option(help="Fraction of the tokens to mask.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Bits per byte and accuracy of masked tokens, by source and by length. Each path is a source."""
    from modernbert.evaluate.mlm import masked_quality

    found = masked_quality(
        model, sources, text_key=text_key, max_length=max_length, tokens=tokens, mask_ratio=mask_ratio, seed=seed,
        precision=_precision(precision), device=device,
    )  # fmt: skip
    if as_json:
        print_json(asdict(found))
        return
    for title, rows in (("source", (*found.by_source, found.everything)), ("tokens of a row", found.by_length)):
        print_table(
            (title, "rows", "tokens", "predicted", "bits per byte", "accuracy", "loss (nats)"),
            [
                (
                    one.name, f"{one.rows:,}", f"{one.tokens:,}", f"{one.predictions:,}", f"{one.bits_per_byte:.3f}",
                    f"{one.accuracy:.1%}", f"{one.loss:.3f}",
                )
                for one in rows
            ],
        )  # fmt: skip
        typer.echo()


@app.command(
    "length",
    epilog="""Examples:

    modernbert evaluate length output/mini/run/final books.jsonl.gz

    modernbert evaluate length output/mini/run/final books.jsonl.gz --length 512 --length 2048 --json""",
)
def evaluate_length(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    sources: Corpus,
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    length: Annotated[
        list[int] | None, typer.Option(help="Length of a sequence; may be repeated. [default: 128, 256, ... 8192]")
    ] = None,
    stretches: Annotated[
        int, typer.Option(help="Number of document chunks, each as long as the longest sequence.")
    ] = 16,
    mask_ratio: Annotated[float, typer.Option(help="Fraction of the tokens to mask.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Quality and speed from 128 to 8,192 tokens: the same masked tokens with increasing context."""
    from modernbert.evaluate.length import quality_by_length

    found = quality_by_length(
        model, sources, text_key=text_key, lengths=length or (), stretches=stretches, mask_ratio=mask_ratio, seed=seed,
        precision=_precision(precision), device=device,
    )  # fmt: skip
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(
        f"{found.stretches} stretches, {found.tokens:,} tokens, {found.precision}, {found.threads} threads; every "
        "length predicts the same masked tokens\n"
    )
    print_table(
        ("tokens of a row", "rows", "bits per byte", "accuracy", "tokens/s: median (range)"),
        [
            (
                f"{one.length:,}", f"{one.rows:,}", f"{one.bits_per_byte:.3f}", f"{one.accuracy:.1%}",
                f"{one.tokens_per_second:,.0f} ({one.slowest:,.0f} to {one.fastest:,.0f})",
            )
            for one in found.results
        ],
    )  # fmt: skip


@app.command(
    "folder",
    epilog="""Examples:

    modernbert evaluate folder output/reviews new-reviews.csv

    modernbert evaluate folder output/entities more.conll --predictions found.jsonl

    modernbert evaluate folder some/model texts.tsv data.text=sentence data.label=class --json""",
)
def evaluate_folder(
    model: Annotated[str, typer.Argument(help="A folder that `modernbert finetune` wrote, or a hub id.")],
    data: Annotated[Path, typer.Argument(help="Labelled data, in any format that fine-tuning reads.")],
    overrides: Overrides = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write each example with its prediction as JSON lines.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a fine-tuned folder on labelled data, with the column names of its recipe unless overridden."""
    from modernbert.evaluate.folder import measure_folder
    from modernbert.files import atomic_write, check_file

    if predictions is not None:
        check_file(predictions, data)
    found = measure_folder(model, data, overrides or (), device=device)
    if predictions is not None:
        with atomic_write(predictions) as partial:
            lines = (json.dumps(one.record, ensure_ascii=False) + "\n" for one in found.results)
            partial.write_text("".join(lines), encoding="utf-8")
    if as_json:
        metrics = {name: asdict(interval) for name, interval in found.metrics.items()}
        print_json({"model": model, "data": str(data), "examples": len(found.results), "metrics": metrics})
        return
    typer.echo(f"{len(found.results):,} examples of {data}\n")
    rows = [
        (name.replace("_", " "), f"{one.value:.4f}", f"{one.low:.4f}", f"{one.high:.4f}")
        for name, one in found.metrics.items()
    ]
    print_table(("", "value", "95 % from", "to"), rows)


def _precision(name: str) -> Literal["bf16", "fp32"]:
    if name not in ("bf16", "fp32"):
        raise ConfigError(f"There is no precision {name!r}; choose bf16 or fp32.")
    return "bf16" if name == "bf16" else "fp32"


app.add_typer(evaluate_tasks.app)
