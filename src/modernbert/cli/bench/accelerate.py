"""`modernbert bench accelerate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from modernbert.cli.console import Json, print_json, print_table

app = typer.Typer()


@app.command(
    "accelerate",
    epilog="""Examples:

    modernbert bench accelerate my-embedder --texts passages.txt

    modernbert bench accelerate my-reranker --texts corpus.jsonl.gz --limit 1000 --threads 2 --json""",
)
def bench_accelerate(
    folder: Annotated[str, typer.Argument(help="A folder or hub id: embedder, reranker, sparse, or a plain encoder.")],
    texts: Annotated[Path, typer.Option(help="A .txt file with one text per line, or any file of documents.")],
    limit: Annotated[int, typer.Option(help="Maximum number of texts.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Batch size of sentence-transformers; its own default is 32.")] = 32,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="auto, float32, bfloat16 or int8; may be repeated. [default: auto and int8]"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Number of threads. [default: all]")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative difference of the outputs. [default: depends on the precision]"),
    ] = None,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Measure CPU time instead of wall-clock time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare sentence-transformers on your texts before and after `accelerate`, and the classes of this package."""
    from modernbert.bench.accelerate import bench_accelerate as measure
    from modernbert.errors import ConfigError
    from modernbert.integrations.backbone import Precision

    precisions = precision or ["auto", "int8"]
    if unknown := sorted(set(precisions) - set(get_args(Precision))):
        raise ConfigError(f"There is no precision {unknown[0]!r}; choose one of {', '.join(get_args(Precision))}.")
    found = measure(
        folder, texts, limit=limit, batch_size=batch_size,
        precisions=[one for one in get_args(Precision) if one in precisions],
        rounds=rounds, threads=threads, tolerance=tolerance, processor_time=processor_time,
    )  # fmt: skip
    if as_json:
        print_json(asdict(found))
        return
    clock = ", processor time" if found.processor_time else ""
    what = "pairs" if found.kind == "rerank" else "texts"
    typer.echo(
        f"{found.model}: {found.texts:,} {what}, {found.tokens:,} tokens, longest {found.longest}; batch size "
        f"{found.batch_size}, {found.threads} threads, {found.rounds} rounds{clock}; fp32 matrix products "
        f"{found.gflops:.0f} GFLOP/s\n"
    )
    rows = [
        (
            run.name, run.engine, f"{run.texts_per_second:,.1f}", f"{run.tokens_per_second:,.0f}",
            f"{run.ratio:.2f} x ({run.slowest_ratio:.2f} to {run.fastest_ratio:.2f})", f"{run.of_roofline:.0%}",
            f"{run.agreement:.5f}",
        )
        for run in found.runs
    ]  # fmt: skip
    lowest = "agreement" if found.kind == "rerank" else "lowest cosine"
    print_table(("run", "computed by", f"{what}/s", "tokens/s", "ratio", "of the roofline", lowest), rows)
