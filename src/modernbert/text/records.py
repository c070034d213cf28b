"""Records with named values, from files of every usual format, each with its origin."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from modernbert.errors import DataError
from modernbert.text.conll import read_conll
from modernbert.text.datasets import read_hub, read_parquet
from modernbert.text.json_files import read_json_file
from modernbert.text.opening import find_files
from modernbert.text.record import (
    NOT_AN_OBJECT,
    Format,
    Origin,
    Record,
    RejectedRecord,
    Source,
    missing_column,
)  # fmt: skip
from modernbert.text.tables import read_table

__all__ = [
    "NOT_AN_OBJECT", "Format", "Origin", "Record", "RejectedRecord", "Source", "format_of", "missing_column",
    "read_file", "read_records",
]  # fmt: skip


_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
}
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")


def read_records(source: Source) -> Iterator[Record | RejectedRecord]:
    """All records of a source, in order. CSV, TSV, JSON lines, CoNLL and Parquet are read lazily.

    A record of CoNLL has `words`, `tags` and `lines`, the numbers of their lines, and each column by its number. SQuAD
    has a record for each question: `id`, `question`, `context`, `answers`, a list of {"text", "answer_start"}.

    Raises:
        DataError: there is no such file, its format is unknown or violated, it is damaged or not UTF-8, or a package
            that reads it is missing.
    """
    return islice(_records(source), source.limit)


def _records(source: Source) -> Iterator[Record | RejectedRecord]:
    if source.format == "hub":
        yield from read_hub(source)
        return
    for path in find_files([source.path]):
        yield from _file(path, _format(path) if source.format == "auto" else source.format, source)


def read_file(path: Path, kind: Format, column: str | None = None) -> Iterator[Record | RejectedRecord]:
    """The records of one file. If `column` is set, only that column has to be read.

    Raises:
        UnreadableError: the content of the file cannot be read.
        DataError: a package that reads the format is missing, or a Parquet file has no such column.
    """
    return _file(path, kind, Source(path=str(path)), column)


def _file(path: Path, kind: Format, source: Source, column: str | None = None) -> Iterator[Record | RejectedRecord]:
    if kind in ("csv", "tsv"):
        return read_table(path, source, source.delimiter or ("," if kind == "csv" else "\t"))
    if kind == "parquet":
        return read_parquet(path, column)
    return read_conll(path, source) if kind == "conll" else read_json_file(path, lines=kind == "jsonl")


def format_of(path: Path) -> Format | None:
    """The format that a file name indicates, compressed (.gz, .zst) or not, or None.

    Raises:
        DataError: the file is a spreadsheet.
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if Path(name).suffix in _SPREADSHEETS:
        raise DataError(f"{path} is a spreadsheet, which cannot be read; save it as CSV (UTF-8) and give that file.")
    return _SUFFIXES.get(Path(name).suffix)


def _format(path: Path) -> Format:
    format = format_of(path)
    if format is None:
        raise DataError(
            f"The name of {path} does not indicate its format; set csv, tsv, jsonl, json, parquet, conll or squad."
        )
    return format
