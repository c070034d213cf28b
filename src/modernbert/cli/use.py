"""Commands that use a trained model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.console import Json, print_json, texts_of

app = typer.Typer()


@app.command(
    "fill-mask",
    epilog="""Examples:

    modernbert fill-mask "The capital of Japan is [MASK]." --top-k 3

    modernbert fill-mask --file questions.txt --model output/tiny/run/final --json

    echo "import [MASK]" | modernbert fill-mask - --model output/demo/run/final""",
)
def fill_mask(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts with [MASK]; - reads lines from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with one text a line.")] = None,
    model: Annotated[str, typer.Option(help="A model folder or hub id.")] = "answerdotai/ModernBERT-base",
    top_k: Annotated[int, typer.Option(help="Candidates for each [MASK].")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Fill in masked words."""
    wanted = texts_of(texts or [], file)
    from modernbert.inference import FillMask

    results = FillMask.from_pretrained(model, device=device)(wanted, top_k)
    if as_json:
        print_json(
            [
                {"text": text, "masks": [[asdict(candidate) for candidate in mask] for mask in masks]}
                for text, masks in zip(wanted, results, strict=True)
            ]
        )
        return
    for text, masks in zip(wanted, results, strict=True):
        typer.echo(text)
        for number, mask in enumerate(masks, 1):
            if len(masks) > 1:
                typer.echo(f"  [MASK] {number}")
            for candidate in mask:
                typer.echo(f"  {candidate.probability:6.1%}  {candidate.token.strip() or repr(candidate.token)}")
