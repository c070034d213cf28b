"""Records with named values, their origins, and the sources that they are read from."""

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from modernbert.config import Config
from modernbert.errors import DataError

Format = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "conll", "squad", "hub"]

NOT_AN_OBJECT = "this is not a JSON object"


class Source(Config):
    """Where labelled data is stored, and in which format.

    `path` is a file (.gz and .zst too), a glob, or a folder of such files; with format `hub` the name of a data set.
    Format `auto` is that of the file name; `json` is one array, SQuAD's format, or one object a line.
    """

    bare_key: ClassVar[str | None] = "path"

    path: str  # a file, glob or folder; with format `hub` the name of a data set
    format: Format = "auto"  # auto, csv, tsv, jsonl, json, parquet, conll, squad or hub
    columns: tuple[str, ...] | None = None  # names of the columns of a CoNLL file, or of a CSV or TSV without a header
    comments: str | None = None  # of CoNLL: their prefix; unset: # before a sentence, if no tag ends the line
    literal_quotes: bool = False  # in CSV and TSV, quotation marks are plain text, as in GLUE's files
    further_columns: bool = False  # ignore columns of a CSV or TSV file beyond those of its header
    encoding: str = "utf-8"  # of CSV, TSV and CoNLL files, such as cp932 or latin-1; JSON and Parquet are UTF-8
    delimiter: str | None = None  # between columns; a comma in CSV and a tab in TSV unless given
    split: str = "train"  # of a hub data set
    subset: str | None = None  # the configuration of a hub data set, if it has several
    limit: PositiveInt | None = None  # only this number of records

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            if codecs.lookup(value).name == "utf-8-sig":  # readers remove a byte order mark from every file
                return "utf-8"
            line_feed = "\n".encode(value)
        except (LookupError, ValueError):
            raise ValueError(f"{value!r} is not an encoding; give utf-8, cp932, latin-1 or another one") from None
        if line_feed != b"\n":
            raise ValueError(f"{value!r} does not write a line feed as one byte; convert the file to UTF-8")
        return value

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is None or (value and others.data.get("literal_quotes")):
            return value
        if len(value) != 1 or value in '"\r\n':
            raise ValueError('give one character, such as ; or | or "\\t" in quotation marks')
        return value


@dataclass(frozen=True)
class Origin:
    """The file and the line or row of an example, for messages."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Record:
    """Named values and their origin."""

    values: Mapping[str, Any]
    origin: Origin
    from_table: bool = False  # the names are those of a header or of `columns`


@dataclass(frozen=True)
class RejectedRecord:
    """A record that cannot be used: `reason` in two or three words, for counting, and a sentence with the remedy."""

    reason: str
    sentence: str
    origin: Origin

    def error(self) -> DataError:
        return DataError(f"{self.origin}: {self.sentence}")


def missing_column(record: Record, column: str) -> RejectedRecord:
    """The rejection of a record without a required column."""
    has = [str(name) for name in record.values]
    near = next((name for name in has if name.strip().casefold() == column.casefold()), None)
    if record.from_table and (delimiter_remedy := wrong_delimiter(has)):
        remedy = delimiter_remedy
    else:
        remedy = f"did you mean {near!r}? Name" if near is not None else "name"
        remedy += " the columns that hold what is read: data.text, data.label, ... of a recipe"
        if record.from_table and near is None:
            remedy += ", or all of them in data.train.columns where the file has no header"
    shown = ", ".join(has) or "none"
    return RejectedRecord(
        "missing column", f"there is no column {column!r}; there are {shown}; {remedy}.", record.origin
    )


def wrong_delimiter(header: Sequence[str]) -> str | None:
    """The remedy if a header is a single name that contains a character which seems to be the delimiter."""
    delimiter = next((mark for mark in "\t;|," if len(header) == 1 and mark in header[0]), None)
    if delimiter is None:
        return None
    return (
        f"{delimiter!r} seems to be the delimiter: set delimiter, such as data.train.delimiter={json.dumps(delimiter)}"
    )
