"""`modernbert bench serve`: servers under load."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from modernbert.cli.console import Json, print_json, print_table

if TYPE_CHECKING:
    from modernbert.bench.serving import Load, ServingReport, SoakReport

app = typer.Typer()


@app.command(
    "serve",
    epilog="""Examples:

    modernbert bench serve output/embedder --texts encyclopedia.jsonl.gz

    modernbert bench serve output/embedder --texts news.jsonl --beside baseline --threads 2 --output serving.json

    modernbert bench serve output/embedder --texts news.jsonl --beside "infinity_emb v2 --port {port} --model-id FOLDER"

    modernbert bench serve output/embedder --texts news.jsonl --soak 600""",
)
def bench_serve(
    model: Annotated[str, typer.Argument(help="The folder of an embedder.")],
    texts: Annotated[list[str], typer.Option(help="Files with texts; each paragraph is a request; may be repeated.")],
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="Another server: `baseline` (sentence-transformers behind FastAPI), or a command with {port} whose "
            "server has /embeddings and /health; may be repeated."
        ),
    ] = None,
    share: Annotated[
        list[float] | None, typer.Option(help="Measure only this share of the saturation rate; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Duration of each request rate.")] = 10.0,
    threads: Annotated[int, typer.Option(help="Threads of each server.")] = 1,
    count: Annotated[int, typer.Option(help="Number of different texts.")] = 2000,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Our server in float32, bfloat16 or int8; may be repeated. [default: as in the file]"),
    ] = None,
    soak: Annotated[float | None, typer.Option(help="Only load our server at saturation, for these seconds.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    as_json: Json = False,
) -> None:
    """Load servers with real texts at increasing rates: throughput, p50, p95 and p99 latency, errors, memory."""
    from modernbert.bench import serving
    from modernbert.bench.report import write_report
    from modernbert.errors import ConfigError

    precisions = list(dict.fromkeys(precision or [""]))
    if unknown := sorted(set(precisions) - set(get_args(serving.ServedPrecision))):
        raise ConfigError(f"There is no precision {unknown[0]!r}; choose float32, bfloat16 or int8.")
    ours = {
        serving.OURS + (f", {one}" if one else ""): serving.our_command(model, one)
        for one in get_args(serving.ServedPrecision)
        if one in precisions
    }
    if soak is not None:
        if len(ours) > 1:
            raise ConfigError("--soak measures one server; give one --precision.")
        [(name, command)] = ours.items()
        found = serving.soak(model, texts, name, command, seconds=soak, threads=threads)
        if output is not None:
            write_report(found, output)
        _print_soak(found, as_json)
        return
    commands = dict(ours)
    for one in beside or ():
        if one == "baseline":
            commands[serving.BASELINE] = serving.baseline_command(model)
        else:
            commands[Path(one.split()[0]).name] = one
    report = serving.bench_serving(
        model, texts, commands, seconds=seconds, threads=threads, count=count, shares=share or serving.SHARES
    )
    if output is not None:
        write_report(report, output)
    _print(report, as_json)


def _print(report: "ServingReport", as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    shortest, median, longest = report.tokens_of_texts
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    typer.echo(f"{report.model}; threads: {report.threads}; {machine}")
    typer.echo(f"{report.texts:,} texts of {shortest} to {longest} tokens, median {median}\n")
    header = (
        "server",
        "load",
        "requests/s",
        "tokens/s",
        "tokens/CPU s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "errors",
        "peak MiB",
    )
    rows = []
    for result in report.servers:
        rows.append(_row(result.server, "saturation", result.saturation))
        rows += [_row("", f"{load.share:.0%}", load) for load in result.loads]
        if result.same_rate is not None:
            rows.append(_row("", "half of the slowest", result.same_rate))
    print_table(header, rows)
    for name, reason in report.missing.items():
        typer.echo(f"{name}: {reason}", err=True)


def _row(server: str, name: str, load: "Load") -> tuple[str, ...]:
    times = (f"{value:,.0f}" for value in (load.p50_ms, load.p95_ms, load.p99_ms))
    return (
        server, name, f"{load.requests_per_second:,.1f}", f"{load.tokens_per_second:,.0f}",
        f"{load.tokens_per_cpu_second:,.0f}", *times, str(load.errors),
        f"{load.peak_mebibytes:,.0f}",
    )  # fmt: skip


def _print_soak(report: "SoakReport", as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(
        f"{report.server}, {report.seconds:,.0f} s at saturation: {report.sent:,} requests, {report.answered:,} "
        f"answered, {report.errors} errors, {report.lost} lost; {report.tokens_per_second:,.0f} tokens/s; memory "
        f"{report.first_mebibytes:,.0f} to {report.last_mebibytes:,.0f} MiB, "
        f"{report.mebibytes_per_minute:+.2f} MiB per minute"
    )
