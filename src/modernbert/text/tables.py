"""Records of CSV and TSV files: quoted or literal, with a header or with named columns."""

import csv
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from modernbert.text.opening import UnreadableError, read_lines
from modernbert.text.record import Origin, Record, RejectedRecord, Source, wrong_delimiter

logger = logging.getLogger(__name__)


def read_table(path: Path, source: Source, delimiter: str) -> Iterator[Record | RejectedRecord]:
    lines = read_lines(path, source.encoding)
    first = next(lines, None)
    if first is not None and (declared := re.fullmatch(r'"?sep=(.)"?\s*', first[1])):
        logger.info("%s: its first line, sep=%s, sets the delimiter.", path, declared[1])
        delimiter = source.delimiter or declared[1]
        first = next(lines, None)
    if first is None:
        return
    if re.search(r"\r[^\r\n]", first[1]) and '"' not in first[1]:
        raise UnreadableError(
            "carriage returns",
            f"{path}: its lines end with a carriage return (CR) without a line feed; save it with LF or CR LF.",
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
                    "duplicate column",
                    f"{path}:{number}: two columns have the same name; rename one of them in the header.",
                    f"{path}:{number}",
                )
        elif len(row) < len(header) or (len(row) > len(header) and not source.further_columns):
            yield RejectedRecord(
                "wrong number of columns",
                f"there are {len(row)} columns where {len(header)} are expected ({', '.join(header)}); "
                + _remedy(header, source.literal_quotes),
                Origin(str(path), number),
            )
        else:
            yield Record(dict(zip(header, row, strict=False)), Origin(str(path), number), from_table=True)


def _remedy(header: Sequence[str], literal_quotes: bool) -> str:
    if remedy := wrong_delimiter(header):
        return f"{remedy}."
    return "correct the line" + (
        "." if literal_quotes else ", or set literal_quotes if quotation marks are plain text."
    )


def _literal_rows(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        if line := line.rstrip("\r\n"):
            yield number, line.split(delimiter)


def _quoted_rows(
    path: Path, lines: Iterable[tuple[int, str]], delimiter: str, begin: int
) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the module's default limit of 128 KiB
    last = 0  # number of the last line that was read

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
                raise _quotes_error(path, number, f"one opens here and is closed only in line {last}, after tabs")
            if row:
                yield number, row
            number = last + 1
    except csv.Error as error:
        if "new-line character" in str(error):
            sentence = (
                f"{path}:{last}: there is a carriage return (CR) inside the line; remove it, or put the text in quotes."
            )
            raise UnreadableError("carriage returns", sentence, f"{path}:{last}") from None
        raise _quotes_error(path, number, str(error)) from None


def _quotes_error(path: Path, number: int, reason: str) -> UnreadableError:
    sentence = (
        f"{path}:{number}: the quotation marks do not match ({reason}); correct them, or set literal_quotes if "
        "they are plain text."
    )
    return UnreadableError("quotation marks", sentence, f"{path}:{number}")
