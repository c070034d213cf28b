"""Records with named values, from files of every usual format, each with the place where it stands."""

import csv
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from modernbert.config import Config
from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.text.conll import LOOKED_AT, RANGE, counts_words, read_sentences
from modernbert.text.examples import Origin, is_tag
from modernbert.text.opening import UnreadableError, find_files, read_lines, read_raw_lines

logger = logging.getLogger(__name__)

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

_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
NO_OBJECT = "this is no JSON object"


class Source(Config):
    """Where labelled data lies, and how it is written.

    `path` is a file (.gz and .zst too), a glob, or a folder of such files; with format `hub` the name of a data set.
    Format `auto` goes by the name of a file; `json` is one array, SQuAD's form, or in truth one object a line.
    """

    bare_key: ClassVar[str | None] = "path"

    path: str
    format: Format = "auto"
    columns: tuple[str, ...] | None = None  # names of the columns of a CoNLL file, or of a CSV or TSV without a header
    comments: str | None = None  # of CoNLL: what they begin with; unset, # before a sentence where no tag ends the line
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

    CoNLL columns give `words`, `tags` and `lines`, the numbers of their lines, and each column by its number. SQuAD
    gives a record for each question: `id`, `question`, `context`, `answers`, a list of {"text", "answer_start"}.

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
        yield from _file(path, _format(path) if source.format == "auto" else source.format, source)


def read_file(path: Path, kind: Format, column: str | None = None) -> Iterator[Record | Bad]:
    """The records of one file, as those of a source; only their value in `column` has to be there.

    Raises:
        UnreadableError: its content cannot be read.
        DataError: a package that reads it is missing, or a Parquet file has no such column.
    """
    return _file(path, kind, Source(path=str(path)), column)


def _file(path: Path, kind: Format, source: Source, column: str | None = None) -> Iterator[Record | Bad]:
    if kind in ("csv", "tsv"):
        return _table(path, source, source.delimiter or ("," if kind == "csv" else "\t"))
    if kind == "parquet":
        return _parquet(path, column)
    return _conll(path, source) if kind == "conll" else _json(path, lines=kind == "jsonl")


def told_format(path: Path) -> Format | None:
    """The format that the name of a file tells, compressed (.gz, .zst) or not; None where it tells none.

    Raises:
        DataError: it is a spreadsheet.
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if Path(name).suffix in _SPREADSHEETS:
        raise DataError(f"{path} is a spreadsheet, which is not read; save it as CSV (UTF-8) and give that file.")
    return _ENDINGS.get(Path(name).suffix)


def _format(path: Path) -> Format:
    found = told_format(path)
    if found is None:
        raise DataError(
            f"The name of {path} does not tell its format; name one of csv, tsv, jsonl, json, parquet, conll, squad."
        )
    return found


def _table(path: Path, source: Source, delimiter: str) -> Iterator[Record | Bad]:
    lines = read_lines(path)
    first = next(lines, None)
    if first is not None and (told := re.fullmatch(r'"?sep=(.)"?\s*', first[1])):
        logger.info("%s: its first line, sep=%s, tells what stands between columns.", path, told[1])
        delimiter = source.delimiter or told[1]
        first = next(lines, None)
    if first is None:
        return
    if re.search(r"\r[^\r\n]", first[1]) and '"' not in first[1]:
        raise UnreadableError(
            "carriage returns",
            f"{path}: its lines end with a carriage return alone (CR), as old spreadsheet programs write them; save it "
            "with line feeds (LF or CR LF).",
            f"{path}:1",
        )
    lines = chain([first], lines)
    rows = _literal_rows(lines, delimiter) if source.literal_quotes else _quoted_rows(path, lines, delimiter, first[0])
    header = source.columns
    for number, row in rows:
        if header is None:
            header = tuple(name.strip() for name in row)
            if len(set(header)) != len(header):
                raise UnreadableError(
                    "two columns of one name",
                    f"{path}:{number}: two columns have the same name; rename one of them in the header.",
                    f"{path}:{number}",
                )
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


def _literal_rows(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        if line := line.rstrip("\r\n"):
            yield number, line.split(delimiter)


def _quoted_rows(
    path: Path, lines: Iterable[tuple[int, str]], delimiter: str, begin: int
) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the 128 KiB that the module allows at first
    last = 0  # line that was read

    def texts() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            yield line

    rows = csv.reader(texts(), delimiter=delimiter, strict=True)
    number = begin
    try:
        for row in rows:
            if delimiter == "\t" and any("\t" in value and "\n" in value for value in row):
                raise _quotes(path, number, f"one opens here and is closed in line {last} only, behind tabs")
            if row:
                yield number, row
            number = last + 1
    except csv.Error as error:
        if "new-line character" in str(error):
            sentence = (
                f"{path}:{last}: a carriage return (CR) stands inside the line; remove it, or put the text in quotes."
            )
            raise UnreadableError("carriage returns", sentence, f"{path}:{last}") from None
        raise _quotes(path, number, str(error)) from None


def _quotes(path: Path, number: int, what: str) -> UnreadableError:
    sentence = (
        f"{path}:{number}: the quotation marks do not fit ({what}); mend them, or set literal_quotes if they are plain "
        "text."
    )
    return UnreadableError("quotation marks", sentence, f"{path}:{number}")


def _json_lines(path: Path) -> Iterator[Record | Bad]:
    for number, raw in read_raw_lines(path):
        origin = Origin(str(path), number)
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            yield Bad("not UTF-8", "this is not UTF-8; convert the file to UTF-8.", origin)
            continue
        if line.strip():
            yield _record(line, origin)


def _record(line: str, origin: Origin) -> Record | Bad:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        if "\r" in line.strip():
            return Bad(
                "carriage returns", "lines end with a carriage return alone (CR); save the file with LF.", origin
            )
        return Bad("broken line", "this is not JSON; every line must be one whole object.", origin)
    if not isinstance(values, dict):
        return Bad("broken line", f"{NO_OBJECT}; every line must be one, with named values.", origin)
    return Record(values, origin)


def _json(path: Path, lines: bool) -> Iterator[Record | Bad]:
    """Objects a line, one array of them, or SQuAD's form, whichever it is: names of files tell it badly.

    `lines` are what it is if it is none of these.
    """
    first = next((raw for _, raw in read_raw_lines(path) if raw.strip()), b"").decode("utf-8", "replace").lstrip()
    begin = _loaded(first)
    if isinstance(begin, dict) and not isinstance(begin.get("data"), list):
        yield from _json_lines(path)
        return
    if lines and (first[:1] not in ("[", "{") or path.stat().st_size > _WHOLE):
        yield from _json_lines(path)
        return
    text = "".join(raw.decode("utf-8", "replace") for _, raw in read_raw_lines(path)) if lines else _whole(path)
    if lines and not isinstance(_loaded(text), dict | list):
        yield from _json_lines(path)
    elif text.lstrip().startswith("["):
        yield from _json_array(path, _whole(path))
    else:
        yield from _json_object(path, _whole(path))


_WHOLE = 1 << 30  # bytes of a file that is named after lines and is looked at as a whole


def _whole(path: Path) -> str:
    return "".join(line for _, line in read_lines(path))


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _broken(path: Path, number: int | None, error: Exception) -> UnreadableError:
    origin = str(path) if number is None else f"{path}:{number}"
    return UnreadableError("broken file", f"{origin} cannot be read as JSON: {error}.", origin)


def _json_object(path: Path, text: str) -> Iterator[Record | Bad]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, None, error) from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        yield from _squad(path, text, value["data"])
    elif isinstance(value, dict) and any(isinstance(one, str) for one in value.values()):
        yield Record(value, Origin(str(path), 1))
    else:
        sentence = f'{path} is neither an array of objects, nor SQuAD\'s form {{"data": [...]}}, nor JSON lines.'
        raise UnreadableError("broken file", sentence, str(path))


def _json_array(path: Path, text: str) -> Iterator[Record | Bad]:
    decoder = json.JSONDecoder()
    place, counted, number = text.index("[") + 1, 0, 1
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        number, counted = number + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip():
                raise _broken(path, number, ValueError("there is something behind the array"))
            return
        try:
            values, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _broken(path, number, error) from None
        origin = Origin(str(path), number)
        if isinstance(values, dict):
            yield Record(values, origin)
        else:
            yield Bad("no object", f"{NO_OBJECT}; every element must be one, with named values.", origin)


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
        raise UnreadableError(
            "broken file",
            f"{path}:{number}: after this line SQuAD's form (data, paragraphs, context, qas, id, question) is not kept "
            f"({error}); mend it.",
            f"{path}:{number}",
        ) from None


def _conll(path: Path, source: Source) -> Iterator[Record | Bad]:
    """Sentences between empty lines; the word is the first column, the tag the last. -DOCSTART- lines are left out.

    Every column is there by its number too, from "1", and by its name where `columns` or a line `# global.columns`
    names it. Where the first column counts the words, the word is the second, and the tag the only column of tags.
    """
    names: list[str] = list(source.columns or ())
    sentences = read_sentences(path, source.comments, names)
    beginning = list(islice(sentences, LOOKED_AT))
    counted = counts_words(beginning)
    if counted:
        logger.info("%s: the first column counts the words, so the second one is the word.", path)
    for rows in chain(beginning, sentences):
        if counted:
            rows = [(number, columns) for number, columns in rows if not RANGE.fullmatch(columns[0])]
        untagged = next(((number, columns[0]) for number, columns in rows if len(columns) == 1), None)
        if untagged is not None:
            number, word = untagged
            message = f"the word {word!r} has no tag; give the word, a tab or a space, and its tag."
            yield Bad("no tag", message, Origin(str(path), number))
        elif rows:
            lines = [number for number, _ in rows]
            width = min(len(columns) for _, columns in rows)
            cells = [[columns[place] for _, columns in rows] for place in range(width)]
            values: dict[str, Any] = {"words": cells[1 if counted else 0], "lines": lines}
            last = [columns[-1] for _, columns in rows]
            tagged = [column for column in cells[2:] if all(map(is_tag, column))]
            if not counted or len(tagged) < 2:
                values["tags"] = tagged[0] if counted and tagged else last
            values |= {str(place): column for place, column in enumerate(cells, 1)}
            values |= dict(zip(names, cells, strict=False))
            yield Record(values, Origin(str(path), lines[0]))


def _parquet(path: Path, column: str | None) -> Iterator[Record | Bad]:
    """Rows, numbered from 1; classes that are stored as numbers get the names that the schema has for them."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: {install_command('corpus')}.") from None
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            has = file.schema_arrow.names
            if column is not None and column not in has:
                raise DataError(f"{path} has no column {column!r}; it has {', '.join(has)}.")
            names = _class_names(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=256, columns=None if column is None else [column]):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(_with_names(values, names), Origin(str(path), row))
    except (pyarrow.ArrowException, OSError) as error:
        sentence = f"{path} is damaged after row {row} ({error}); copy or make it again."
        raise UnreadableError("damaged file", sentence, f"{path}:{row}") from None


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes of each column, which the package datasets writes into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {column: _names_of(feature) for column, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {column: names for column, names in found.items() if names}


def _names_of(feature: Any) -> list[str] | None:
    if isinstance(feature, list) and len(feature) == 1:  # a sequence, as older versions write it
        return _names_of(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=int)]
        return [str(name) for name in names] if isinstance(names, list) else None
    return _names_of(feature.get("feature"))


def _with_names(values: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    return values | {column: _named(values[column], names[column]) for column in names if column in values}


def _hub(source: Source) -> Iterator[Record | Bad]:
    """Rows of a data set, numbered from 1; classes that are stored as numbers get their names."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"A hub data set needs the package datasets: {install_command('datasets')}.") from None
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
        yield Record(_with_names(values, names), Origin(source.path, number))


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1 is no label
