"""Options that several `bench` commands share, and functions to write and print reports."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modernbert.cli.console import print_json

if TYPE_CHECKING:
    from modernbert.bench.report import Report

Model = Annotated[str, typer.Option(help="mini (6 layers, 256 wide), base or large with random weights, or a folder.")]
Dtype = Annotated[str, typer.Option(help="bf16 or fp32.")]
Threads = Annotated[int | None, typer.Option(help="Number of threads of every engine. [default: all]")]
Workloads = Annotated[
    list[str] | None, typer.Option("--workload", "--work", help="Only this workload; may be repeated.")
]
Output = Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: CUDA if there is a device.")]
ProfileOption = Annotated[
    bool,
    typer.Option("--profile", help="On CUDA: the longest kernels, and the shares of matrix products and attention."),
]
Figure = Annotated[Path | None, typer.Option(help="Plot a figure, as PNG and SVG.", metavar="FILE.png")]


def refuse_profile(profile: bool) -> None:
    """Check that --profile is not given for the CPU.

    Raises:
        ConfigError: it is given.
    """
    from modernbert.errors import ConfigError

    if profile:
        raise ConfigError("--profile shows the kernels of a CUDA device; add --device cuda, or remove --profile.")


def write_if_given(report: Any, output: Path | None) -> None:
    """Write a report as JSON if --output is given."""
    from modernbert.bench.report import write_report

    if output is not None:
        write_report(report, output)


def write_partial(output: Path | None) -> Callable[["Report"], None]:
    """A function that writes the report after each workload, so that a stopped benchmark keeps its results."""
    return lambda report: write_if_given(report, output)


def print_rendered(report: Any, as_json: bool) -> None:
    """Print a report of a CUDA device as JSON or as Markdown."""
    from modernbert.bench.gpu_report import render

    values = asdict(report)
    if as_json:
        print_json(values)
    else:
        typer.echo(render({str(values["benchmark"]): values}), nl=False)


def print_machine(model: str, dtype: str, machine: Mapping[str, str]) -> None:
    """Print the line above a table: the model, its dtype and the machine."""
    typer.echo(f"{model}, {dtype}. {', '.join(f'{name} {value}' for name, value in machine.items())}\n")
