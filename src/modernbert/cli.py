"""The command `modernbert`: parses, calls one public function, prints. Heavy imports live inside the commands."""

import json
import logging
import sys
from typing import Annotated, Any

import typer

from modernbert.errors import ModernBertError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train and evaluate tokenizers.")
app.add_typer(tokenizer_app, name="tokenizer")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout instead of text.")]


@app.callback()
def modernbert(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """ModernBERT from raw text to a model that loads everywhere."""
    if version:
        from modernbert import __version__

        typer.echo(__version__)
        raise typer.Exit


def print_json(value: Any) -> None:
    """One JSON document on stdout, non-ASCII text as it is."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def main() -> None:
    """Run a command. A user's mistake becomes one sentence on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except ModernBertError as error:
        typer.echo(f"modernbert: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
