"""`modernbert bench levels`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.console import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command to the group `bench`."""
    app.command(
        "levels",
        epilog="""Examples:

    modernbert bench levels

    modernbert bench levels --model base --threads 1 --work "1 x 128" --output levels.json""",
    )(bench_levels)


def bench_levels(
    model: Annotated[str, typer.Option(help="mini, 28m, base or large with random weights, or a folder.")] = "28m",
    threads: Annotated[int | None, typer.Option(help="Threads; all that torch takes unless given.")] = None,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each workload.")] = 7,
    work: Annotated[list[str] | None, typer.Option("--work", help="Only this workload; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="fp32, bf16 or int8 alone; may be repeated.")] = None,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Count the processor's time, where others use the machine too.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    as_json: Json = False,
) -> None:
    """The automatic level of the native kernels beside each one that can be forced, in fp32, bf16 and int8."""
    from modernbert.bench.levels import bench_levels as measure
    from modernbert.bench.report import write_report

    report = measure(
        model, threads=threads, rounds=rounds, works=work or (), kinds=kind or (), processor_time=processor_time
    )
    if output is not None:
        write_report(report, output)
    if as_json:
        print_json(asdict(report))
        return
    clock = ", processor time" if report.processor_time else ""
    typer.echo(f"{report.model}; {report.threads} threads, {report.rounds} rounds{clock}; tokens/s\n")
    levels = list(report.results[0].forced)
    rows = [
        (
            result.kind, result.work, f"{result.chosen}: {result.automatic.median:,.0f}",
            *(f"{result.forced[level].median:,.0f}" for level in levels), f"{result.share:.1%}",
        )
        for result in report.results
    ]  # fmt: skip
    print_table(("products", "workload", "automatic", *levels, "automatic of the best"), rows)
