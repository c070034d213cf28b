"""`modernbert bench levels`."""

from dataclasses import asdict
from typing import Annotated

import typer

from modernbert.cli.bench.options import Output, Threads, Workloads, write_if_given
from modernbert.cli.console import Json, print_json, print_table

app = typer.Typer()


@app.command(
    "levels",
    epilog="""Examples:

    modernbert bench levels

    modernbert bench levels --model base --threads 1 --workload "1 x 128" --output levels.json""",
)
def bench_levels(
    model: Annotated[str, typer.Option(help="mini, 28m, base or large with random weights, or a folder.")] = "28m",
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds of each workload.")] = 7,
    workload: Workloads = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only fp32, bf16 or int8; may be repeated.")] = None,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Measure CPU time instead of wall-clock time.")
    ] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Compare the automatic level of the native kernels with each forced level, in fp32, bf16 and int8."""
    from modernbert.bench.levels import bench_levels as measure

    report = measure(
        model, threads=threads, rounds=rounds, workloads=workload or (), kinds=kind or (), processor_time=processor_time
    )
    write_if_given(report, output)
    if as_json:
        print_json(asdict(report))
        return
    clock = ", processor time" if report.processor_time else ""
    typer.echo(f"{report.model}; {report.threads} threads, {report.rounds} rounds{clock}; tokens/s\n")
    levels = list(report.results[0].forced)
    rows = [
        (
            result.kind, result.workload, f"{result.chosen}: {result.automatic.median:,.0f}",
            *(f"{result.forced[level].median:,.0f}" for level in levels), f"{result.share:.1%}",
        )
        for result in report.results
    ]  # fmt: skip
    print_table(("dtype", "workload", "automatic", *levels, "automatic / best"), rows)
