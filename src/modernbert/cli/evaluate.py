"""`modernbert evaluate`: how good a model is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from modernbert.cli.console import Corpus, Json, print_json, print_table
from modernbert.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Measure trained models.")


@app.command(
    "positions",
    epilog="""Examples:

    modernbert evaluate positions output/mini/run --output positions.svg

    modernbert evaluate positions output/mini/run --model output/mini/run/final --length 4096 --json""",
)
def evaluate_positions(
    run: Annotated[Path, typer.Argument(help="A run directory; its held-out documents are read.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A model folder; may be repeated. The ends of the phases unless given.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a row, all of one document.")] = 8192,
    rows: Annotated[int, typer.Option(help="Rows at most.")] = 24,
    output: Annotated[Path | None, typer.Option(help="A picture: .png, .svg or .pdf.")] = None,
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
    "mlm",
    epilog="""Examples:

    modernbert evaluate mlm output/mini/run/final books.jsonl.gz news.jsonl.gz

    modernbert evaluate mlm answerdotai/ModernBERT-base documents/ --max-length 1024 --json""",
)
def evaluate_mlm(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    sources: Corpus,
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    max_length: Annotated[int | None, typer.Option(help="Tokens of a row. [default: what the model reads]")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of each source.")] = 200_000,
    mask_ratio: Annotated[float, typer.Option(help="Part of the tokens that is predicted.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 0,
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
        list[int] | None, typer.Option(help="Tokens of a row; may be repeated. [default: 128, 256, ... 8192]")
    ] = None,
    stretches: Annotated[int, typer.Option(help="Stretches of documents, each as long as the longest row.")] = 16,
    mask_ratio: Annotated[float, typer.Option(help="Part of the tokens that is predicted.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Quality and speed from 128 to 8,192 tokens: the same masked tokens, read with more and more context."""
    from modernbert.evaluate.length import quality_by_length

    found = quality_by_length(
        model, sources, text_key=text_key, lengths=length or (), stretches=stretches, mask_ratio=mask_ratio, seed=seed,
        precision=_precision(precision), device=device,
    )  # fmt: skip
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(
        f"{found.stretches} stretches, {found.tokens:,} tokens, {found.precision}, {found.threads} threads; masked "
        "once, so that every length predicts the same tokens\n"
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


def _precision(name: str) -> Literal["bf16", "fp32"]:
    if name not in ("bf16", "fp32"):
        raise ConfigError(f"There is no precision {name!r}; choose bf16 or fp32.")
    return "bf16" if name == "bf16" else "fp32"
