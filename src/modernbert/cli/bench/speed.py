"""`modernbert bench inference`, `training`, `scaling` and `compare`: speed of the model itself."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modernbert.cli.bench.options import (
    Device,
    Dtype,
    Figure,
    Model,
    Output,
    ProfileOption,
    Threads,
    Workloads,
    print_machine,
    refuse_profile,
    write_if_given,
    write_partial,
)
from modernbert.cli.console import Json, print_json

if TYPE_CHECKING:
    from modernbert.bench.cuda import Target
    from modernbert.bench.report import Report

app = typer.Typer()


@app.command(
    "inference",
    epilog="""Examples:

    modernbert bench inference

    modernbert bench inference --dtype fp32 --threads 1 --workload "8 x 512" --json

    modernbert bench inference --model output/demo/run/final --peer all --output new.json --figure new.png

    modernbert bench inference --published --documents 64 --workload "512 fixed" --workload "512 variable"

    modernbert bench inference --device cuda --peer all --profile --output gpu.json""",
)
def bench_inference(
    model: Model = "base",
    dtype: Dtype = "bf16",
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds of each workload.")] = 5,
    workload: Workloads = None,
    published: Annotated[bool, typer.Option("--published", help="Also measure the four sets of the paper.")] = False,
    documents: Annotated[int, typer.Option(help="Documents of each set of --published; the paper has 8,192.")] = 16,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure transformers-compiled, sentence-transformers, onnxruntime, openvino, or all of them; on "
            "CUDA transformers-compiled and packed-encoders; may be repeated."
        ),
    ] = None,
    device: Device = "cpu",
    profile: ProfileOption = False,
    output: Output = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Compare encoding with transformers and other engines: first the outputs, then the speed, in alternating order."""
    from modernbert.bench.cuda_inference import bench_cuda_inference
    from modernbert.bench.inference import bench_inference as bench_cpu_inference

    chosen = workload or (), peer or (), documents if published else None
    report = measure(
        lambda write: bench_cpu_inference(model, dtype, threads, rounds, *chosen, on_result=write),
        lambda target, write: bench_cuda_inference(
            model, dtype, rounds, target, *chosen, profiled=profile, on_result=write
        ),
        device, profile, output, figure,
    )  # fmt: skip
    print_report(report, as_json)


@app.command(
    "training",
    epilog="""Examples:

    modernbert bench training

    modernbert bench training --model base --threads 1 --workload "4 x 1024" --rounds 3

    modernbert bench training --dtype fp32 --json --figure training.png

    modernbert bench training --model base --device cuda --profile""",
)
def bench_training(
    model: Model = "mini",
    dtype: Annotated[str, typer.Option(help="bf16 (autocast) or fp32.")] = "bf16",
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds of each workload.")] = 7,
    workload: Workloads = None,
    device: Device = "cpu",
    profile: ProfileOption = False,
    output: Output = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Compare masked-LM training steps with transformers: first the gradients, then the speed, in alternating order."""
    from modernbert.bench.cuda_training import bench_cuda_training
    from modernbert.bench.training import bench_training as bench_cpu_training

    chosen = workload or ()
    report = measure(
        lambda write: bench_cpu_training(model, dtype, threads, rounds, chosen, on_result=write),
        lambda target, write: bench_cuda_training(
            model, dtype, rounds, target, chosen, profiled=profile, on_result=write
        ),
        device, profile, output, figure,
    )  # fmt: skip
    print_report(report, as_json)


@app.command(
    "scaling",
    epilog="""Examples:

    modernbert bench scaling

    modernbert bench scaling --threads 1 --threads 4 --length 128 --length 8192 --output scaling.json

    modernbert bench scaling --dtype fp32 --rounds 5 --figure scaling.png""",
)
def bench_scaling(
    model: Model = "base",
    dtype: Dtype = "bf16",
    threads: Annotated[
        list[int] | None, typer.Option(help="Number of threads; may be repeated. [default: 1, 2, 4 ... and all]")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens of a sequence; may be repeated. [default: 16, 32 ... 8192]")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds of each length.")] = 3,
    device: Device = "cpu",
    output: Output = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """The cost of a token by sequence length and number of threads, compared with transformers."""
    from modernbert.bench.cuda import select_target
    from modernbert.bench.cuda_inference import bench_cuda_scaling
    from modernbert.bench.figure import draw_scaling, figure_paths
    from modernbert.bench.scaling import bench_scaling as bench_cpu_scaling
    from modernbert.errors import ConfigError

    if figure is not None:
        figure_paths(figure)
    target = select_target(device)
    if target is not None and threads:
        raise ConfigError("--threads is for the CPU; leave it out on a CUDA device.")
    if target is None:
        report = bench_cpu_scaling(model, dtype, rounds, threads or (), length or ())
    else:
        report = bench_cuda_scaling(model, dtype, rounds, target, length or ())
    write_if_given(report, output)
    if figure is not None:
        draw_scaling(report, figure)
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, report.dtype, report.machine)
    typer.echo("| tokens | threads | engine | microseconds per token: median (range) | error |\n|---|---|---|---|---|")
    for point in report.points:
        cost = point.cost
        shown = f"{cost.median:,.1f} ({cost.lowest:,.1f} to {cost.highest:,.1f})" if cost else "not ranked"
        error = "not finite" if point.error is None else f"{point.error:.1e}"
        typer.echo(f"| {point.tokens:,} | {point.threads} | {point.engine} | {shown} | {error} |")


@app.command(
    "compare",
    epilog="""Examples:

    modernbert bench compare old.json new.json

    modernbert bench compare old.json new.json --tolerance 0.05 --json""",
)
def bench_compare(
    old: Annotated[Path, typer.Argument(help="A report that --output wrote.", metavar="OLD.json")],
    new: Annotated[Path, typer.Argument(help="A later report.", metavar="NEW.json")],
    tolerance: Annotated[float, typer.Option(help="Maximum decrease of a ratio, as a fraction.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Compare the ratios to transformers in two reports; exit status 1 if a ratio decreased."""
    from modernbert.bench.report import compare_reports, read_report

    found = compare_reports(read_report(old), read_report(new), tolerance)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo("| workload | engine | before | after | |\n|---|---|---|---|---|")
        for change in found.changes:
            after = "not ranked" if change.after is None else f"{change.after:.2f} x"
            verdict = "slower" if change.slower else ""
            typer.echo(f"| {change.workload} | {change.engine} | {change.before:.2f} x | {after} | {verdict} |")
    if found.not_compared:
        typer.echo(f"In one report only, not compared: {'; '.join(found.not_compared)}.", err=True)
    if found.slower:
        typer.echo(f"Slower than before by more than {tolerance:.0%}: {'; '.join(found.slower)}.", err=True)
        raise typer.Exit(1)


def measure(
    on_cpu: "Callable[[Callable[[Report], None]], Report]",
    on_cuda: "Callable[[Target, Callable[[Report], None]], Report]",
    device: str,
    profile: bool,
    output: Path | None,
    figure: Path | None,
) -> "Report":
    """Run a benchmark on the device of this name, and write its report and figure.

    Both functions receive what writes the report after each workload.
    """
    from modernbert.bench.cuda import select_target
    from modernbert.bench.figure import draw_report, figure_paths

    if figure is not None:
        figure_paths(figure)
    target = select_target(device)
    if target is None:
        refuse_profile(profile)
        report = on_cpu(write_partial(output))
    else:
        report = on_cuda(target, write_partial(output))
    write_if_given(report, output)
    if figure is not None:
        draw_report(report, figure)
    return report


def print_report(report: "Report", as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, f"{report.dtype}, threads: {report.threads}", report.machine)
    columns = (
        "workload", "real tokens", "engine", "real tokens/s: median (range)", "ratio", "of the roofline", "error",
        "peak memory",
    )  # fmt: skip
    typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in report.results:
        scaled = f" ({result.documents:,} of {result.of_documents:,} documents)" if result.of_documents else ""
        for entry in result.entries:
            speed = entry.tokens_per_second
            cells = [
                result.workload + scaled,
                f"{result.tokens:,}",
                entry.engine + (f", {entry.computes}" if entry.computes != report.dtype else ""),
                f"{speed.median:,.0f} ({speed.slowest:,.0f} to {speed.fastest:,.0f})" if speed else "not ranked",
                "" if entry.ratio is None else f"{entry.ratio:.2f} x",
                "" if entry.roofline_fraction is None else f"{entry.roofline_fraction:.0%}",
                entry.failure or "" if entry.error is None else f"{entry.error:.1e}",
                "" if entry.peak_bytes is None else f"{entry.peak_bytes / 2**20:,.0f} MiB",
            ]
            typer.echo(f"| {' | '.join(cells)} |")
    typer.echo("")
    for result in report.results:
        rate = result.matrix_flops_per_second
        typer.echo(
            f"{result.workload}: {result.flops / 1e9:,.2f} GFLOP; matrix products alone ran at "
            f"{rate.median / 1e9:,.0f} GFLOP/s ({rate.slowest / 1e9:,.0f} to {rate.fastest / 1e9:,.0f})"
        )
    for name, reason in report.missing.items():
        typer.echo(f"Not measured: {name}, {reason}")
    for workload, profile in getattr(report, "profiles", {}).items():
        from modernbert.bench.gpu_report import profile_table

        typer.echo("\n" + profile_table(workload, asdict(profile)))
