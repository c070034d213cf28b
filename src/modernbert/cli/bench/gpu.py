"""`modernbert bench loop`, `attention`, `ceilings` and `gpu-report`: measurements on a GPU machine."""

from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.bench.options import Device, Model, Output, print_rendered, write_if_given
from modernbert.cli.console import Json

app = typer.Typer()


@app.command(
    "loop",
    epilog="""Examples:

    modernbert bench loop --model 28m --device cuda

    modernbert bench loop --model tiny --seconds 5 --json""",
)
def bench_loop(
    model: Annotated[str, typer.Option(help="The preset to train: base, large, 28m, mini or tiny.")] = "28m",
    device: Device = "cpu",
    seconds: Annotated[float, typer.Option(help="Approximate duration of the run, without startup.")] = 10.0,
    steps: Annotated[int | None, typer.Option(help="Number of updates, instead of --seconds.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """The overhead of the training loop: a `pretrain` run on random tokens, compared with its training step alone."""
    from modernbert.bench.cuda import select_target
    from modernbert.bench.loop import bench_loop as measure

    target = select_target(device)
    on_cuda = target is not None and not target.dry
    found = measure(model, "cuda" if on_cuda else "cpu", target, seconds, steps)
    write_if_given(found, output)
    print_rendered(found, as_json)


@app.command(
    "attention",
    epilog="""Examples:

    modernbert bench attention

    modernbert bench attention --length 1024 --length 8192 --json""",
)
def bench_attention(
    device: Annotated[str, typer.Option(help="cuda, or auto.")] = "cuda",
    length: Annotated[list[int] | None, typer.Option(help="Only this length; may be repeated.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens in a batch. [default: 65536]")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """The speed of each attention backend on a CUDA device, forward and backward, by length and window."""
    from modernbert.bench.attention import bench_attention as measure
    from modernbert.bench.cuda import required_target

    found = measure(required_target(device), length or (), tokens)
    write_if_given(found, output)
    print_rendered(found, as_json)


@app.command(
    "ceilings",
    epilog="""Examples:

    modernbert bench ceilings

    modernbert bench ceilings --model large --tokens 57344 --json""",
)
def bench_ceilings(
    model: Model = "base",
    tokens: Annotated[int, typer.Option(help="Tokens of a batch.")] = 98_304,
    device: Annotated[str, typer.Option(help="cuda, or auto.")] = "cuda",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """The peak speeds of a CUDA device: bf16 matrix products, square and in a model's shapes, and copies."""
    from modernbert.bench.cuda import bench_ceilings as measure
    from modernbert.bench.cuda import required_target

    found = measure(model, tokens, required_target(device))
    write_if_given(found, output)
    print_rendered(found, as_json)


@app.command(
    "gpu-report",
    epilog="""Examples:

    modernbert bench gpu-report output/gpu/gpu.json

    modernbert bench gpu-report output/gpu/gpu.json --page docs/benchmarks/gpu.md""",
)
def bench_gpu_report(
    results: Annotated[Path, typer.Argument(help="The output of runs/gpu.sh, a report, or a folder of reports.")],
    page: Annotated[Path | None, typer.Option(help="Write the tables into this page.", metavar="PAGE.md")] = None,
    merged: Annotated[Path | None, typer.Option(help="Write all reports as one file.", metavar="FILE.json")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out kernels and scaling.")] = False,
) -> None:
    """Print the reports of a run on a GPU machine as Markdown tables."""
    from modernbert.bench.gpu_report import read_results, render, update_page, write_results

    found = read_results(results)
    if merged is not None:
        write_results(found, merged)
    if page is not None:
        update_page(page, render(found))
    typer.echo(render(found, brief=brief), nl=False)
