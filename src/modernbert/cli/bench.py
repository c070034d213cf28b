"""`modernbert bench`: how fast everything is, beside others, on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modernbert.cli.console import Json, print_json
from modernbert.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Measure speed beside transformers on this machine.")


@app.command(
    "inference",
    epilog="""Examples:

    modernbert bench inference

    modernbert bench inference --dtype fp32 --threads 1 --work "8 x 512" --json""",
)
def bench_inference(
    preset: Annotated[str, typer.Option(help="base or large.")] = "base",
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    threads: Annotated[int, typer.Option(help="Threads of both.")] = 2,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each work.")] = 5,
    work: Annotated[list[str] | None, typer.Option(help="Only this work; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Encode batches with random weights, alternating with transformers."""
    from modernbert.bench.inference import bench_inference as measure

    print_bench(asdict(measure(preset, dtype, threads, rounds, tuple(work or ()))), as_json)


@app.command(
    "training",
    epilog="""Examples:

    modernbert bench training

    modernbert bench training --model base --threads 1 --work "4 x 1024" --rounds 3

    modernbert bench training --dtype fp32 --json""",
)
def bench_training(
    model: Annotated[str, typer.Option(help="mini (6 layers, 256 wide) or base.")] = "mini",
    dtype: Annotated[str, typer.Option(help="bf16 (autocast) or fp32.")] = "bf16",
    threads: Annotated[int, typer.Option(help="Threads of both.")] = 2,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each work.")] = 7,
    work: Annotated[list[str] | None, typer.Option(help="Only this work; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Masked-LM training steps, alternating with transformers."""
    from modernbert.bench.training import bench_training as measure

    if dtype not in ("bf16", "fp32"):
        raise ConfigError(f"There is no dtype {dtype!r}; choose bf16 or fp32.")
    precision: Literal["bf16", "fp32"] = "bf16" if dtype == "bf16" else "fp32"
    print_bench(asdict(measure(model, precision, threads, rounds, tuple(work or ()))), as_json)


@app.command(
    "logits",
    epilog="""Examples:

    modernbert bench logits

    modernbert bench logits --rows 2048 --json""",
)
def bench_logits(
    rows: Annotated[int, typer.Option(help="Masked rows.")] = 8192,
    as_json: Json = False,
) -> None:
    """Peak memory of decoder and cross-entropy at base's sizes, in chunks and the plain way (Linux)."""
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
    gigabytes: Annotated[float, typer.Option(help="Size of the larger corpus; the other has a hundredth.")] = 10.0,
    folder: Annotated[Path, typer.Option(help="Where a temporary folder with the corpora is made.")] = Path(),
    tokens: Annotated[int, typer.Option(help="Tokens of a round.")] = 10_000_000,
    rounds: Annotated[int, typer.Option(help="Rounds from the disk, and as many from the page cache.")] = 5,
    as_json: Json = False,
) -> None:
    """Pack and mask synthetic shards on one core: tokens a second and memory, beside a corpus of a hundredth."""
    from modernbert.bench.loader import bench_loader as measure

    report = asdict(measure(gigabytes, folder, tokens, rounds))
    if as_json:
        print_json(report)
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in report["machine"].items()) + "\n")
    columns = (
        "corpus, GB", "documents", "row", "tokens/s from disk: median (range)", "from page cache: median (range)",
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


def print_bench(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    typer.echo(f"{report['model']}, {report['dtype']}. {machine}\n")
    typer.echo("| work | contestant | real tokens/s: median | slowest | fastest | ratio |\n|---|---|---|---|---|---|")
    for result in report["results"]:
        for timing in result["timings"]:
            ratio = f"{result['ratio']:.2f} x" if timing is result["timings"][0] else ""
            speeds = (timing[key] for key in ("tokens_per_second", "slowest", "fastest"))
            shown = " | ".join(f"{speed:,.0f}" for speed in speeds)
            typer.echo(f"| {result['work']} | {timing['contestant']} | {shown} | {ratio} |")
    typer.echo("")
    for result in report["results"]:
        for name, error in (result.get("errors") or {}).items():
            typer.echo(f"{result['work']}: error of {name} against fp32: {error:.2e}")
        for name, peak in (result.get("peak_bytes") or {}).items():
            typer.echo(f"{result['work']}: peak memory of {name} above the weights: {peak / 2**20:,.0f} MiB")
