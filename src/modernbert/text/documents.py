"""Documents from files: JSON lines, JSON, CSV, TSV, Parquet, text and source code, plain or compressed (.gz, .zst).

The readers are those of labelled data (`records`). Here unusable documents are reported, and reading continues.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modernbert.errors import DataError
from modernbert.text.opening import UnreadableError, find_files, read_lines
from modernbert.text.records import NOT_AN_OBJECT, RejectedRecord, format_of, read_file

__all__ = ["Document", "Kind", "Skipped", "find_files", "guess_kind", "read_documents", "read_texts", "take_bytes"]

Kind = Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "text"]


@dataclass(frozen=True)
class Document:
    """A text and the place that it was read from."""

    text: str
    origin: str


@dataclass(frozen=True)
class Skipped:
    """A document that could not be used, and why."""

    reason: str
    origin: str


def read_documents(path: Path, kind: Kind = "auto", text_key: str = "text") -> Iterator[Document | Skipped]:
    """All documents of one file, in order. Unreadable ones are reported, and reading continues.

    Raises:
        DataError: a reader for the format is not installed, or a table has no column `text_key`.
    """
    kind = guess_kind(path) if kind == "auto" else kind
    try:
        if kind == "text" or kind == "auto":
            yield _document("".join(line for _, line in read_lines(path)), str(path))
            return
        for record in read_file(path, kind, column=text_key):
            if isinstance(record, RejectedRecord):
                reason = "not a text" if record.sentence.startswith(NOT_AN_OBJECT) else record.reason
                yield Skipped(reason, str(record.origin))
            elif record.from_table and text_key not in record.values:
                raise DataError(
                    f"{path} has no column {text_key!r}; it has {', '.join(record.values)}. Name it in text_key, or "
                    'read the file as one text: kind = "text".'
                )
            else:
                yield _document(record.values.get(text_key), str(record.origin))
    except UnreadableError as error:
        yield Skipped(error.reason, error.origin)


def read_texts(paths: Iterable[str], text_key: str = "text") -> Iterator[str]:
    """Every readable text of some paths.

    Raises:
        DataError: there is no file at a path, or the files hold no text.
    """
    empty = True
    for path in find_files(paths):
        for document in read_documents(path, text_key=text_key):
            if isinstance(document, Document):
                empty = False
                yield document.text
    if empty:
        raise DataError(f"No text was found; for JSON, CSV and Parquet, is {text_key!r} the name of the text column?")


def guess_kind(path: Path) -> Kind:
    """The kind of a file by its name."""
    format = format_of(path)
    return format if format in ("jsonl", "json", "csv", "tsv", "parquet") else "text"


def _document(text: object, origin: str) -> Document | Skipped:
    if not isinstance(text, str):
        return Skipped("not a text", origin)
    if not text.strip():
        return Skipped("empty text", origin)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON may hold "\\ud83d" alone, which no tokenizer accepts
        return Skipped("unpaired surrogate", origin)
    return Document(text, origin)


def take_bytes(texts: Iterator[str], limit: int | None) -> Iterator[str]:
    """The first texts, until `limit` bytes of UTF-8 are reached; all of them if it is None."""
    count = 0
    for text in texts:
        if limit is not None and count >= limit:
            return
        count += len(text.encode("utf-8", "ignore"))
        yield text
