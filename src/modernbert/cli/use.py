"""Commands that use a trained model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from modernbert.cli.console import Json, print_json

app = typer.Typer()

Int8 = Annotated[bool, typer.Option("--int8", help="Linear layers in int8, on a CPU: up to 1.8 times as fast.")]


@app.command(
    "fill-mask",
    epilog="""Examples:

    modernbert fill-mask "The capital of Japan is [MASK]." --top-k 3

    modernbert fill-mask --file questions.txt --model output/tiny/run/final --json

    echo "import [MASK]" | modernbert fill-mask - --model output/demo/run/final""",
)
def fill_mask(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts with [MASK]; - reads lines from stdin.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A text file with one text per line, or a table (CSV, JSON lines, Parquet, ...)."),
    ] = None,
    column: Annotated[str, typer.Option(help="The column of the texts in a table.")] = "text",
    output: Annotated[
        Path | None, typer.Option(help="Write the rows of the file with the filled texts, as .csv, .jsonl or .parquet.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model folder or hub id. [default: the one that comes with the package]")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Number of candidates for each [MASK].")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    int8: Int8 = False,
    as_json: Json = False,
) -> None:
    """Fill in masked words."""
    from modernbert.cli.prediction_files import check_output, texts_and_rows, with_prediction, write_predictions

    if output is not None:
        check_output(output)
    inputs = texts_and_rows(texts or [], file, column)
    from modernbert.tasks.fill_mask import FillMask

    fill = FillMask.from_pretrained(model, device=device, int8=int8)
    filled = iter(fill([text for _, text in inputs if text.strip()], top_k))
    results = [next(filled) if text.strip() else [] for _, text in inputs]  # an empty line stays empty
    records: list[dict[str, Any]] = [
        {"text": text, "masks": [[asdict(candidate) for candidate in mask] for mask in masks]}
        for (_, text), masks in zip(inputs, results, strict=True)
    ]
    if output is not None:
        rows = [with_prediction(row, record) for (row, _), record in zip(inputs, records, strict=True)]
        write_predictions(rows, output)
        typer.echo(str(output))
        return
    if as_json:
        print_json(records)
        return
    for (_, text), masks in zip(inputs, results, strict=True):
        typer.echo(text)
        for number, mask in enumerate(masks, 1):
            if len(masks) > 1:
                typer.echo(f"  [MASK] {number}")
            for candidate in mask:
                typer.echo(f"  {candidate.probability:6.1%}  {candidate.token.strip() or repr(candidate.token)}")


class _SpreadsChoices(TyperCommand):
    """A command whose `--choices` accepts all words up to the next option; the parser itself supports one word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # a Context of click, or of the one inside typer
        spread: list[str] = []
        taking = False
        for word in args:
            if word.startswith("--") or word in ctx.help_option_names:
                taking = word.partition("=")[0] == "--choices"
                spread += [word] if word != "--choices" else []
            else:
                spread.append(f"--choices={word}" if taking else word)
        return super().parse_args(ctx, spread)


@app.command(
    cls=_SpreadsChoices,
    epilog="""Examples:

    modernbert predict "A film to remember." --model output/reviews

    modernbert predict --file new.csv --model output/reviews --output labelled.csv

    modernbert predict --file texts.txt --model output/entities --json

    modernbert predict "Where was she born?" --context letters.txt --model output/answers

    modernbert predict "What colour is the sky?" --choices red green blue --model output/choices

    modernbert predict --file questions.jsonl --model output/choices""",
)
def predict(
    model: Annotated[str, typer.Option(help="A folder that `modernbert finetune` wrote, or a hub id.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, or questions; - reads lines from stdin.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Any file that fine-tuning reads (CSV, TSV, JSON, JSON lines, Parquet, CoNLL, SQuAD), with the "
            "columns that the model was trained with; labels in it are ignored. Or a text file with one text per line "
            "(result n belongs to line n); for a model of pairs, a tab separates the two texts."
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="KEY=NAME: another column name, for example text=review; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the rows of the file with predictions, as .csv, .jsonl or .parquet.")
    ] = None,
    context: Annotated[Path | None, typer.Option(help="A file with the text that answers the questions.")] = None,
    choices: Annotated[list[str] | None, typer.Option(help="The possible answers, separated by spaces.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Maximum tokens of a text. [default: as trained]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    int8: Int8 = False,
    as_json: Json = False,
) -> None:
    """Predict labels of texts, spans in texts, or answers to questions, depending on the model."""
    from modernbert.cli.prediction_files import check_output, with_prediction, write_predictions
    from modernbert.cli.predictions import PredictOptions, predictions

    if output is not None:
        check_output(output)
    options = PredictOptions(model, texts or [], file, column or [], context, choices or [], max_length, device, int8)
    found = list(predictions(options))
    if output is not None:
        write_predictions([with_prediction(row, one.record) for row, one in found], output)
        typer.echo(str(output))
    elif as_json:
        print_json([one.record for _, one in found])
    else:
        for _, one in found:
            typer.echo(one.text)
            for line in one.lines:
                typer.echo(f"  {line}")
