"""Find files by paths, and read their bytes and lines, compressed or not."""

import glob
import gzip
import io
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from modernbert.errors import DataError
from modernbert.installation import install_command

_PYTHON = "python:"


class UnreadableError(DataError):
    """The content of a file cannot be read; `reason` is two or three words for counting, `origin` the file and line."""

    def __init__(self, reason: str, sentence: str, origin: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.origin = origin

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:  # the error may come from another process
        return type(self), (self.reason, str(self), self.origin)


def find_files(paths: Iterable[str], pattern: str = "**/*") -> list[Path]:
    """The files at some paths, sorted for each path: files, globs, folders (searched by `pattern`), and
    `python:NAME`, a package or module of the running Python's standard library. A path that is a file
    is that file, even if it could be a glob (`data[1].csv`).

    Raises:
        DataError: there is no file at a path.
    """
    files: list[Path] = []
    for path in paths:
        if path.startswith(_PYTHON):
            matches = _standard_library(path.removeprefix(_PYTHON))
        elif Path(path).is_dir():
            matches = sorted(p for p in Path(path).glob(pattern) if p.is_file() and not p.name.startswith("."))
        elif Path(path).is_file():
            matches = [Path(path)]
        else:  # Path.glob takes no absolute pattern
            matches = sorted(Path(p) for p in glob.glob(path, recursive=True) if Path(p).is_file())  # noqa: PTH207
        if not matches:
            raise DataError(f"There is no file at {path!r}; give files, folders, globs, or python:MODULE.")
        files += matches
    return files


def _standard_library(name: str) -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    if (root / f"{name}.py").is_file():
        return [root / f"{name}.py"]
    return sorted(path for path in (root / name).glob("**/*.py") if path.is_file()) if name else []


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, and decompress it if its name ends with .gz or .zst.

    Raises:
        DataError: zstandard is missing.
    """
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise DataError(f"{path} needs zstandard: {install_command('corpus')}.") from None
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True))
    return path.open("rb")


def read_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers and line endings, without a byte order mark.

    Raises:
        UnreadableError: the file is damaged.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, number, error) from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # zstandard is optional, so its class cannot be imported
            raise
        raise _damaged(path, number, error) from None


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers and line endings, without a byte order mark.

    Raises:
        UnreadableError: the file is damaged, or is not in this encoding.
    """
    for number, line in read_raw_lines(path):
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            name = "UTF-8" if encoding == "utf-8" else encoding
            sentence = (
                f"{path}:{number} is not {name}; convert the file to UTF-8, or name its encoding where it is read."
            )
            raise UnreadableError(f"not {name}", sentence, f"{path}:{number}") from None
        yield number, text


def _damaged(path: Path, number: int, error: Exception) -> UnreadableError:
    sentence = f"{path} is damaged after line {number} ({error}); copy it or create it again."
    return UnreadableError("damaged file", sentence, f"{path}:{number}")
