"""Documents from files: JSON lines (plain, .gz, .zst), Parquet, text and source code."""

import glob
import gzip
import io
import json
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from modernbert.errors import DataError

Kind = Literal["auto", "jsonl", "parquet", "text"]

_JSONL = (".jsonl", ".ndjson", ".json")
_COMPRESSED = (".gz", ".zst")
_PYTHON = "python:"


@dataclass(frozen=True)
class Document:
    """A text and where it stood."""

    text: str
    origin: str


@dataclass(frozen=True)
class Skipped:
    """A document that could not be used, and why."""

    reason: str
    origin: str


def find_files(paths: Iterable[str], pattern: str = "**/*") -> list[Path]:
    """The files that some paths mean, sorted within each: files, globs, folders (searched by `pattern`), and
    `python:NAME`, which is a package or module of the running Python's standard library.

    Raises:
        DataError: a path leads to no file.
    """
    files: list[Path] = []
    for path in paths:
        if path.startswith(_PYTHON):
            found = _standard_library(path.removeprefix(_PYTHON))
        elif Path(path).is_dir():
            found = sorted(p for p in Path(path).glob(pattern) if p.is_file() and not p.name.startswith("."))
        else:
            found = sorted(Path(p) for p in glob.glob(path, recursive=True) if Path(p).is_file())  # noqa: PTH207
        if not found:
            raise DataError(f"There is no file at {path!r}; give files, folders, globs, or python:MODULE.")
        files += found
    return files


def read_documents(path: Path, kind: Kind = "auto", text_key: str = "text") -> Iterator[Document | Skipped]:
    """All documents of one file, in order; what cannot be read is reported and the rest goes on.

    Raises:
        DataError: a reader for the format is not installed.
    """
    if kind == "auto":
        kind = guess_kind(path)
    if kind == "parquet":
        return _parquet(path, text_key)
    return _json_lines(path, text_key) if kind == "jsonl" else _text(path)


def read_texts(paths: Iterable[str], text_key: str = "text") -> Iterator[str]:
    """Every readable text of some paths.

    Raises:
        DataError: a path leads to no file, or no text was found at all.
    """
    empty = True
    for path in find_files(paths):
        for document in read_documents(path, text_key=text_key):
            if isinstance(document, Document):
                empty = False
                yield document.text
    if empty:
        raise DataError(f"No text was found; for JSON lines and Parquet, is {text_key!r} the name of the text column?")


def guess_kind(path: Path) -> Kind:
    """The kind of a file by its name."""
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    if name.endswith(".parquet"):
        return "parquet"
    return "jsonl" if name.endswith(_JSONL) else "text"


def _standard_library(name: str) -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    if (root / f"{name}.py").is_file():
        return [root / f"{name}.py"]
    return sorted(path for path in (root / name).glob("**/*.py") if path.is_file()) if name else []


def open_bytes(path: Path) -> IO[bytes]:
    """A file to be read, unpacked where its name ends with .gz or .zst.

    Raises:
        DataError: zstandard is missing.
    """
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise DataError(f"{path} needs zstandard: pip install 'modernbert[corpus]'.") from None
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True))
    return path.open("rb")


def _json_lines(path: Path, text_key: str) -> Iterator[Document | Skipped]:
    number = 0
    try:
        with open_bytes(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _from_json(line, text_key, f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        if number == 0 and isinstance(error, FileNotFoundError):
            raise
        yield Skipped("damaged file", f"{path}:{number}")
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # zstandard is optional, so its class has no name here
            raise
        yield Skipped("damaged file", f"{path}:{number}")


def _from_json(line: bytes, text_key: str, origin: str) -> Document | Skipped:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Skipped("not UTF-8", origin)
    except ValueError:
        return Skipped("broken line", origin)
    return _document(record.get(text_key) if isinstance(record, dict) else None, origin)


def _parquet(path: Path, text_key: str) -> Iterator[Document | Skipped]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: pip install 'modernbert[corpus]'.") from None
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            if text_key not in file.schema_arrow.names:
                raise DataError(f"{path} has no column {text_key!r}; it has {', '.join(file.schema_arrow.names)}.")
            for batch in file.iter_batches(batch_size=256, columns=[text_key]):
                for value in batch.column(0).to_pylist():
                    yield _document(value, f"{path}:{row}")
                    row += 1
    except (pyarrow.ArrowException, OSError):
        yield Skipped("damaged file", f"{path}:{row}")


def _text(path: Path) -> Iterator[Document | Skipped]:
    try:
        with open_bytes(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error):
        yield Skipped("damaged file", str(path))
        return
    try:
        yield _document(content.decode("utf-8"), str(path))
    except UnicodeDecodeError:
        yield Skipped("not UTF-8", str(path))


def _document(text: object, origin: str) -> Document | Skipped:
    if not isinstance(text, str):
        return Skipped("no text", origin)
    if not text.strip():
        return Skipped("empty text", origin)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can say "\\ud83d" alone, and no tokenizer takes it
        return Skipped("half a surrogate pair", origin)
    return Document(text, origin)


def first_bytes(texts: Iterator[str], limit: int | None) -> Iterator[str]:
    """The first texts, until `limit` bytes of UTF-8 are reached; all of them if it is None."""
    count = 0
    for text in texts:
        if limit is not None and count >= limit:
            return
        count += len(text.encode("utf-8", "ignore"))
        yield text
