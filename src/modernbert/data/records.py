"""Records with named values, from files of every usual format, each with the place where it stands."""

import csv
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from modernbert.config import Config
from modernbert.data.examples import Origin
from modernbert.data.reading import find_files, open_bytes
from modernbert.errors import DataError

Format = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "conll", "squad", "hub"]

_ENDINGS: dict[str, Format] = {
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


class Source(Config):
    """Where labelled data lies, and how it is written.

    `path` is a file (.gz and .zst too), a glob, or a folder of such files; with format `hub` the name of a data set.
    Format `auto` goes by the name of a file; `json` is one array, SQuAD's form, or in truth one object a line.
    """

    bare_key: ClassVar[str | None] = "path"

    path: str
    format: Format = "auto"
    columns: tuple[str, ...] | None = None  # names of the columns of a CSV or TSV file without a header
    literal_quotes: bool = False  # in CSV and TSV, quotation marks are text like any other, as in GLUE's files
    further_columns: bool = False  # lines of a CSV or TSV file may have more columns than the header; they are left out
    delimiter: str | None = None  # between columns; a comma in CSV and a tab in TSV unless given
    split: str = "train"  # of a hub data set
    subset: str | None = None  # which configuration of a hub data set, where it has several
    limit: PositiveInt | None = None  # only the first so many records

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is None or (value and others.data.get("literal_quotes")):
            return value
        if len(value) != 1 or value in '"\r\n':
            raise ValueError('give one character, such as ; or | or "\\t" in quotation marks')
        return value


@dataclass(frozen=True)
class Record:
    """Named values and where they stand."""

    values: Mapping[str, Any]
    origin: Origin
    from_table: bool = False  # the names are those of a header, or of `columns` in its place


@dataclass(frozen=True)
class Bad:
    """What cannot be used: `reason` in two or three words, to count by, and a sentence that says what to do."""

    reason: str
    sentence: str
    origin: Origin

    def error(self) -> DataError:
        return DataError(f"{self.origin}: {self.sentence}")


def missing_column(record: Record, column: str) -> Bad:
    """What to say of a record that lacks a column."""
    has = [str(name) for name in record.values]
    near = next((name for name in has if name.strip().casefold() == column.casefold()), None)
    if record.from_table and (uncut := _uncut(has)):
        remedy = uncut
    else:
        remedy = f"did you mean {near!r}? Name" if near is not None else "name"
        remedy += " the columns that hold what is read: data.text, data.label, ... of a recipe"
        if record.from_table and near is None:
            remedy += ", or all of them in data.train.columns where the file has no header"
    shown = ", ".join(has) or "none"
    return Bad("missing column", f"there is no column {column!r}; there are {shown}; {remedy}.", record.origin)


def _uncut(header: Sequence[str]) -> str | None:
    """The remedy where a header is one name that holds what seems to stand between columns."""
    between = next((mark for mark in "\t;|," if len(header) == 1 and mark in header[0]), None)
    if between is None:
        return None
    return (
        f"{between!r} seems to stand between columns: set delimiter, such as data.train.delimiter={json.dumps(between)}"
    )


def read_records(source: Source) -> Iterator[Record | Bad]:
    """All records of a source, in order. CSV, TSV, JSON lines, CoNLL and Parquet are read as they are asked for.

    CoNLL columns give `words`, `tags` and `lines`, the numbers of their lines. SQuAD gives a record for each question:
    `id`, `question`, `context`, `answers`, a list of {"text", "answer_start"}.

    Raises:
        DataError: there is no such file, its format is not known or not kept, it is damaged or not UTF-8, or a package
            that reads it is missing.
    """
    return islice(_records(source), source.limit)


def _records(source: Source) -> Iterator[Record | Bad]:
    if source.format == "hub":
        yield from _hub(source)
        return
    for path in find_files([source.path]):
        kind = _format(path) if source.format == "auto" else source.format
        if kind in ("csv", "tsv"):
            yield from _table(path, source, source.delimiter or ("," if kind == "csv" else "\t"))
        elif kind == "jsonl":
            yield from _json_lines(path)
        elif kind == "parquet":
            yield from _parquet(path)
        elif kind == "conll":
            yield from _conll(path)
        else:
            yield from _json(path)


def told_format(path: Path) -> Format | None:
    """The format that the name of a file tells, compressed (.gz, .zst) or not; None where it tells none."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return _ENDINGS.get(Path(name).suffix)


def _format(path: Path) -> Format:
    found = told_format(path)
    if found is None:
        raise DataError(
            f"The name of {path} does not tell its format; name one of csv, tsv, jsonl, json, parquet, conll, squad."
        )
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers and their ends, without a byte order mark."""
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number} is not UTF-8; convert the file to UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged after line {number} ({error}); copy or make it again.") from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # zstandard is optional, so its class has no name here
            raise
        raise DataError(f"{path} is damaged after line {number} ({error}); copy or make it again.") from None


def _table(path: Path, source: Source, delimiter: str) -> Iterator[Record | Bad]:
    rows = (_literal_rows if source.literal_quotes else _quoted_rows)(path, delimiter)
    header = source.columns
    for number, row in rows:
        if header is None:
            header = tuple(name.strip() for name in row)
            if len(set(header)) != len(header):
                raise DataError(f"{path}:{number}: two columns have the same name; rename one of them in the header.")
        elif len(row) < len(header) or (len(row) > len(header) and not source.further_columns):
            yield Bad(
                "other number of columns",
                f"there are {len(row)} columns where {len(header)} are expected ({', '.join(header)}); "
                + _remedy(header, source.literal_quotes),
                Origin(str(path), number),
            )
        else:
            yield Record(dict(zip(header, row, strict=False)), Origin(str(path), number), from_table=True)


def _remedy(header: Sequence[str], literal_quotes: bool) -> str:
    if uncut := _uncut(header):
        return f"{uncut}."
    return "mend the line" + ("." if literal_quotes else ", or set literal_quotes if quotation marks are plain text.")


def _literal_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(path):
        if line := line.rstrip("\r\n"):
            yield number, line.split(delimiter)


def _quoted_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the 128 KiB that the module allows at first
    rows = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    number = 1
    try:
        for row in rows:
            if row:
                yield number, row
            number = rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{number}: the quotation marks do not fit ({error}); mend them, or set literal_quotes if they are "
            "plain text."
        ) from None


def _json_lines(path: Path) -> Iterator[Record | Bad]:
    for number, line in _lines(path):
        if line.strip():
            yield _record(line, Origin(str(path), number))


def _record(line: str, origin: Origin) -> Record | Bad:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return Bad("broken line", "this is not JSON; every line must be one whole object.", origin)
    if not isinstance(values, dict):
        return Bad("broken line", "this is no JSON object; every line must be one, with named values.", origin)
    return Record(values, origin)


def _json(path: Path) -> Iterator[Record | Bad]:
    """One array of objects, SQuAD's form, or in truth one object a line."""
    first = next((line for _, line in _lines(path) if line.strip()), "")
    try:
        begin = json.loads(first)
    except ValueError:
        begin = None
    if isinstance(begin, dict) and not isinstance(begin.get("data"), list):
        yield from _json_lines(path)
        return
    text = "".join(line for _, line in _lines(path))
    if text.lstrip().startswith("["):
        yield from _json_array(path, text)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise DataError(f'{path} is neither an array of objects, nor SQuAD\'s form {{"data": [...]}}, nor JSON lines.')
    yield from _squad(path, text, value["data"])


def _json_array(path: Path, text: str) -> Iterator[Record | Bad]:
    decoder = json.JSONDecoder()
    place, counted, number = text.index("[") + 1, 0, 1
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        number, counted = number + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            return
        try:
            values, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number} cannot be read as JSON: {error}.") from None
        origin = Origin(str(path), number)
        if isinstance(values, dict):
            yield Record(values, origin)
        else:
            yield Bad("no object", "this is no JSON object; every element must be one, with named values.", origin)


def _squad(path: Path, text: str, articles: list[Any]) -> Iterator[Record | Bad]:
    decode = json.JSONDecoder().raw_decode
    place, number = 0, 1
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    identifier = question["id"]
                    keys = re.compile(r'"id"\s*:\s*').finditer(text, place)
                    found = next((key.end() for key in keys if decode(text, key.end())[0] == identifier), place)
                    number, place = number + text.count("\n", place, found), found
                    values = {"id": str(identifier), "question": question["question"], "context": paragraph["context"]}
                    if question.get("is_impossible"):
                        values["answers"] = []
                    elif "answers" in question:
                        values["answers"] = question["answers"]
                    yield Record(values, Origin(str(path), number))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}:{number}: after this line SQuAD's form (data, paragraphs, context, qas, id, question) is not kept "
            f"({error}); mend it."
        ) from None


def _conll(path: Path) -> Iterator[Record | Bad]:
    """Sentences between empty lines; the word is the first column, the tag the last. -DOCSTART- lines are left out."""
    for empty, sentence in groupby(_lines(path), lambda numbered: not numbered[1].strip()):
        rows = [] if empty else [(number, re.split(r"[ \t]+", line.strip(" \t\r\n"))) for number, line in sentence]
        untagged = next(((number, columns[0]) for number, columns in rows if len(columns) == 1), None)
        if untagged is not None:
            number, word = untagged
            message = f"the word {word!r} has no tag; give the word, a tab or a space, and its tag."
            yield Bad("no tag", message, Origin(str(path), number))
        elif rows and rows[0][1][0] != "-DOCSTART-":
            words, tags = [columns[0] for _, columns in rows], [columns[-1] for _, columns in rows]
            lines = [number for number, _ in rows]
            yield Record({"words": words, "tags": tags, "lines": lines}, Origin(str(path), lines[0]))


def _parquet(path: Path) -> Iterator[Record | Bad]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: pip install 'modernbert[corpus]'.") from None
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(values, Origin(str(path), row))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged after row {row} ({error}); copy or make it again.") from None


def _hub(source: Source) -> Iterator[Record | Bad]:
    """Rows of a data set, numbered from 1; classes that are stored as numbers get their names."""
    try:
        import datasets
    except ImportError:
        raise DataError("A hub data set needs the package datasets: pip install 'modernbert[datasets]'.") from None
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        rows = datasets.load_dataset(source.path, source.subset, split=source.split)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"The data set {source.path!r} cannot be loaded ({reason}); check its name, subset, split and the network."
        ) from None
    names = {}
    for column, feature in rows.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            names[column] = inner.names
    for number, values in enumerate(rows, 1):
        named = {column: _named(values[column], names[column]) for column in names}
        yield Record(values | named, Origin(source.path, number))


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1 is no label
