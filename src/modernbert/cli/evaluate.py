"""`modernbert evaluate`: how good a model is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.console import Json, print_json

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
