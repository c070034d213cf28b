"""Records with named values, the places where they stand, and the source that they are read from."""

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from modernbert.config import Config
from modernbert.errors import DataError

Format = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "conll", "squad", "hub"]

NO_OBJECT = "this is no JSON object"


class Source(Config):
    """Where labelled data lies, and how it is written.

    `path` is a file (.gz and .zst too), a glob, or a folder of such files; with format `hub` the name of a data set.
    Format `auto` goes by the name of a file; `json` is one array, SQuAD's form, or in truth one object a line.
    """

    bare_key: ClassVar[str | None] = "path"

    path: str  # a file, glob or folder; with format `hub` the name of a data set
    format: Format = "auto"  # auto, csv, tsv, jsonl, json, parquet, conll, squad or hub
    columns: tuple[str, ...] | None = None  # names of the columns of a CoNLL file, or of a CSV or TSV without a header
    comments: str | None = None  # of CoNLL: what they begin with; unset, # before a sentence where no tag ends the line
    literal_quotes: bool = False  # in CSV and TSV, quotation marks are text like any other, as in GLUE's files
    further_columns: bool = False  # lines of a CSV or TSV file may have more columns than the header; they are left out
    encoding: str = "utf-8"  # of CSV, TSV and CoNLL files: cp932 or latin-1, say; JSON and Parquet are UTF-8
    delimiter: str | None = None  # between columns; a comma in CSV and a tab in TSV unless given
    split: str = "train"  # of a hub data set
    subset: str | None = None  # which configuration of a hub data set, where it has several
    limit: PositiveInt | None = None  # only this number of records

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            if codecs.lookup(value).name == "utf-8-sig":  # a byte order mark is left out of every file
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
    """Where an example stands, for messages about it: a file and a line, or a row."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Record:
    """Named values and where they stand."""

    values: Mapping[str, Any]
    origin: Origin
    from_table: bool = False  # the names are those of a header, or of `columns` in its place


@dataclass(frozen=True)
class RejectedRecord:
    """What cannot be used: `reason` in two or three words, to count by, and a sentence that says what to do."""

    reason: str
    sentence: str
    origin: Origin

    def error(self) -> DataError:
        return DataError(f"{self.origin}: {self.sentence}")


def missing_column(record: Record, column: str) -> RejectedRecord:
    """What to say of a record that lacks a column."""
    has = [str(name) for name in record.values]
    near = next((name for name in has if name.strip().casefold() == column.casefold()), None)
    if record.from_table and (uncut := uncut_header(has)):
        remedy = uncut
    else:
        remedy = f"did you mean {near!r}? Name" if near is not None else "name"
        remedy += " the columns that hold what is read: data.text, data.label, ... of a recipe"
        if record.from_table and near is None:
            remedy += ", or all of them in data.train.columns where the file has no header"
    shown = ", ".join(has) or "none"
    return RejectedRecord(
        "missing column", f"there is no column {column!r}; there are {shown}; {remedy}.", record.origin
    )


def uncut_header(header: Sequence[str]) -> str | None:
    """The remedy where a header is one name that holds what seems to stand between columns."""
    between = next((mark for mark in "\t;|," if len(header) == 1 and mark in header[0]), None)
    if between is None:
        return None
    return (
        f"{between!r} seems to stand between columns: set delimiter, such as data.train.delimiter={json.dumps(between)}"
    )
