"""`modernbert bench finetune`, `contrastive`, `precision`, `logits` and `loader`: training, its parts and its data."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.bench.options import Output, Threads, print_machine, write_if_given
from modernbert.cli.console import Corpus, Json, Labelled, Overrides, print_json, print_table

app = typer.Typer()


@app.command(
    "finetune",
    epilog="""Examples:

    modernbert bench finetune recipes/tasks/sst-2.toml model=output/mini/run/final seeds=[0,1,2]

    modernbert bench finetune texts.toml training.epochs=1 machine.precision=fp32 --threads 2 --json""",
)
def bench_finetune(
    recipe: Labelled,
    overrides: Overrides = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Compare fine-tuning with the Trainer of transformers: quality over seeds, and the time of an epoch."""
    from modernbert.bench.finetuning import bench_finetuning as measure
    from modernbert.train.finetune_recipe import read_recipe

    report = measure(read_recipe(recipe, overrides or ()), threads)
    if report is None:
        raise typer.Exit(130)
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, f"{report.dtype}, threads: {report.threads}", report.machine)
    names = list(report.summaries[0].metrics)
    print_table(
        ("engine", *(name.replace("_", " ") for name in names), "seconds an epoch", "speed"),
        (
            (
                summary.engine,
                *(_with_deviation(*summary.metrics[name]) for name in names),
                f"{summary.seconds_per_epoch:.1f}",
                f"{summary.speed:.2f} x",
            )
            for summary in report.summaries
        ),
    )
    seeds = len(report.runs) // len(report.summaries)
    typer.echo(f"\n{report.examples:,} examples of {report.tokens:,} tokens in an epoch; seeds: {seeds}")


@app.command(
    "contrastive",
    epilog="""Examples:

    modernbert mine output/retrieval/cranfield --first 5 --output triples.jsonl

    modernbert bench contrastive output/retrieval/dense triples.jsonl

    modernbert bench contrastive output/retrieval/dense triples.jsonl --pairs 64 --threads 1 --json""",
)
def bench_contrastive(
    model: Annotated[str, typer.Argument(help="The folder of an encoder or embedder.")],
    triples: Annotated[str, typer.Argument(help="A file with the columns query, positive and negative.")],
    pairs: Annotated[int, typer.Option(help="Pairs in a step.")] = 128,
    max_length: Annotated[int, typer.Option(help="Maximum number of tokens of a text.")] = 128,
    mini_batch: Annotated[int, typer.Option(help="Sequences that sentence-transformers embeds at once.")] = 16,
    tokens_at_once: Annotated[int, typer.Option(help="Tokens that this package embeds at once.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Timed steps of each.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Of torch. [default: all]")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Compare a cached contrastive step (GradCache) with that of sentence-transformers: gradients, then speed."""
    from modernbert.bench.contrastive import bench_contrastive

    report = bench_contrastive(
        model, triples, pairs=pairs, max_length=max_length, mini_batch=mini_batch, tokens_at_once=tokens_at_once,
        rounds=rounds, threads=threads,
    )  # fmt: skip
    write_if_given(report, output)
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, f"fp32, threads: {report.threads}", report.machine)
    typer.echo(f"{report.pairs} pairs with a negative, {report.tokens:,} tokens\n")
    print_table(
        ("engine", "pairs/s: median (range)", "ratio", "peak memory", "loss", "error of gradients"),
        [
            (
                one.engine,
                f"{one.pairs_per_second.median:.2f} ({one.pairs_per_second.slowest:.2f} to "
                f"{one.pairs_per_second.fastest:.2f})",
                f"{one.ratio:.2f} x",
                "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:,.0f} MiB",
                f"{one.loss:.5f}",
                "" if one.gradient_error is None else f"{one.gradient_error:.1e}",
            )
            for one in report.steps
        ],
    )


@app.command(
    "precision",
    epilog="""Examples:

    modernbert bench precision output/mini/run/final news.jsonl.gz

    modernbert bench precision answerdotai/ModernBERT-base texts/ --limit 1000 --json""",
)
def bench_precision(
    model: Annotated[str, typer.Argument(help="A masked-LM folder or hub id.")],
    corpus: Corpus,
    limit: Annotated[int, typer.Option(help="Maximum number of texts.")] = 256,
    length: Annotated[int, typer.Option(help="Maximum number of tokens of a text.")] = 512,
    as_json: Json = False,
) -> None:
    """The effect of bf16 and int8 on a trained model and real text: masked-LM loss, and similarity of embeddings."""
    from modernbert.bench.precision import bench_precision as measure
    from modernbert.text.documents import read_texts

    found = measure(model, read_texts(corpus, "text"), limit=limit, length=length)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(f"{found.model}: {found.texts:,} texts, {found.tokens:,} tokens, {found.masked:,} masked\n")
    typer.echo("| linear layers in | loss, nats | accuracy | cosine to fp32: mean | lowest |\n|---|---|---|---|---|")
    for form in found.forms:
        cosines = f"{form.mean_cosine:.5f} | {form.lowest_cosine:.5f}"
        typer.echo(f"| {form.name} | {form.loss:.4f} | {form.accuracy:.2%} | {cosines} |")


@app.command(
    "logits",
    epilog="""Examples:

    modernbert bench logits

    modernbert bench logits --rows 2048 --json""",
)
def bench_logits(
    rows: Annotated[int, typer.Option(help="Number of masked tokens.")] = 8192,
    as_json: Json = False,
) -> None:
    """Peak memory of decoder and cross-entropy in the sizes of base, in chunks and over all logits (Linux)."""
    from modernbert.bench.training import bench_logits as measure

    found = measure(rows)
    if as_json:
        print_json(found)
        return
    for name, peak in found.items():
        typer.echo(f"{name:<12} {peak / 2**20:,.0f} MiB")


@app.command(
    "loader",
    epilog="""Examples:

    modernbert bench loader

    modernbert bench loader --gigabytes 1 --folder /data --json""",
)
def bench_loader(
    gigabytes: Annotated[
        float, typer.Option(help="Size of the larger corpus; the smaller one has a hundredth.")
    ] = 10.0,
    folder: Annotated[Path, typer.Option(help="Folder for the temporary corpora.")] = Path(),
    tokens: Annotated[int, typer.Option(help="Tokens in a round.")] = 10_000_000,
    rounds: Annotated[int, typer.Option(help="Timed rounds from the disk, and again from the page cache.")] = 5,
    as_json: Json = False,
) -> None:
    """The data loader on one core: tokens per second and memory, for a large and a small synthetic corpus."""
    from modernbert.bench.loader import bench_loader as measure

    report = asdict(measure(gigabytes, folder, tokens, rounds))
    if as_json:
        print_json(report)
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in report["machine"].items()) + "\n")
    columns = (
        "corpus, GB", "documents", "length", "tokens/s from disk: median (range)", "from page cache: median (range)",
        "first batch, s", "anonymous MB before", "anonymous MB, peak", "resident MB, peak",
    )  # fmt: skip
    typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in report["results"]:
        speeds = (result[place] for place in ("from_disk", "from_page_cache"))
        memory = (result[f"{name}_bytes"] for name in ("anonymous_before", "anonymous_peak", "resident_peak"))
        cells = [
            f"{result['gigabytes']:g}", f"{result['documents']:,}", f"{result['max_length']:,}",
            *(f"{s['median']:,.0f} ({s['slowest']:,.0f} to {s['fastest']:,.0f})" for s in speeds),
            f"{result['first_batch_seconds']:.2f}", *(f"{value / 1e6:,.0f}" for value in memory),
        ]  # fmt: skip
        typer.echo(f"| {' | '.join(cells)} |")


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
