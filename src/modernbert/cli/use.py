"""Commands that use a trained model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.console import Json, print_json, texts_of

app = typer.Typer()

Int8 = Annotated[bool, typer.Option("--int8", help="Linear layers in int8: up to 1.8 times the speed, on a CPU.")]


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
    int8: Int8 = False,
    as_json: Json = False,
) -> None:
    """Fill in masked words."""
    wanted = texts_of(texts or [], file)
    from modernbert.inference import FillMask

    results = FillMask.from_pretrained(model, device=device, int8=int8)(wanted, top_k)
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


@app.command(
    epilog="""Examples:

    modernbert predict "A film to remember." --model output/reviews

    modernbert predict --file texts.txt --model output/entities --json

    modernbert predict "Where was she born?" --context letters.txt --model output/answers"""
)
def predict(
    model: Annotated[str, typer.Option(help="A folder that `modernbert finetune` wrote, or a hub id.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, or questions; - reads lines from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with one text a line; a tab stands before a pair.")] = None,
    context: Annotated[Path | None, typer.Option(help="The file in which questions find their answers.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens read at once. [default: what the model reads]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    int8: Int8 = False,
    as_json: Json = False,
) -> None:
    """Predict labels of texts, spans in them, or answers to questions, as the model was trained to."""
    wanted = texts_of(texts or [], file)
    from modernbert.cli.predictions import predictions

    found = predictions(model, wanted, context, max_length, device, int8)
    if as_json:
        print_json([one.record for one in found])
        return
    for one in found:
        typer.echo(one.text)
        for line in one.lines:
            typer.echo(f"  {line}")
