"""Options that commands share, and functions to print results."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from modernbert.errors import DataError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout instead of text.")]
Recipe = Annotated[Path, typer.Argument(help="A TOML recipe.", metavar="RECIPE.toml")]
Labelled = Annotated[Path, typer.Argument(help="A TOML recipe, or labelled texts.", metavar="RECIPE.toml|TEXTS.csv")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides of the recipe.", metavar="[SECTION.KEY=VALUE]...")
]
Corpus = Annotated[
    list[str],
    typer.Argument(help="JSON lines (.gz, .zst), JSON, CSV, Parquet, text files, folders, globs, or python:MODULE."),
]


def texts_of(texts: list[str], file: Path | None) -> list[str]:
    """The texts of the command line (- stands for the lines of stdin), then the lines of a file.

    An empty line is an empty text, so that text n is line n of the file.

    Raises:
        DataError: there is no text, a text is not UTF-8, or the file cannot be read.
    """
    found: list[str] = []
    for text in texts:
        found += _lines(_decoded(sys.stdin.buffer.read(), "stdin")) if text == "-" else [check_utf8(text)]
    if file is not None:
        found += _lines(read_text(file))
    if not any(text.strip() for text in found):
        raise DataError("There is no text; give one, or --file, or - for stdin.")
    return found


def check_utf8(text: str) -> str:
    """Check that a text of the command line was UTF-8 (Python represents other bytes as lone surrogates).

    Raises:
        DataError: it was not.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"The text {text!a} is not UTF-8; convert it to UTF-8.") from None
    return text


def read_text(file: Path) -> str:
    """The text of a file with its line ends, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return _decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read as text: {error}.") from None


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} cannot be read as text: {error}; convert it to UTF-8.") from None


def _lines(text: str) -> list[str]:
    """Split at line feeds only: `splitlines` also splits at characters that occur inside texts, such as U+2028."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], err: bool = False) -> None:
    """Print a Markdown table with columns aligned for a terminal: the first to the left, the others to the right."""
    table = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        first, *rest = zip(row, widths, strict=True)
        typer.echo(f"| {first[0]:<{first[1]}} |" + "".join(f" {cell:>{width}} |" for cell, width in rest), err=err)
        if number == 0:
            typer.echo(f"|{'-' * (first[1] + 2)}|" + "".join(f"{'-' * (width + 1)}:|" for _, width in rest), err=err)


def print_folder(folder: Path) -> None:
    """Print the folder of a run, in one process only."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(str(folder))


def print_record(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(values)
        return
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
        typer.echo(f"{name.replace('_', ' '):<24} {shown}")
