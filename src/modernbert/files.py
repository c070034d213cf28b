"""Nothing is ever half-written: a folder or a file is made aside and takes its place at once."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modernbert.errors import DataError


@contextmanager
def written_aside(folder: Path, proof: str) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well. Nothing is ever half-written.

    An existing folder is replaced only if it is empty or holds the file `proof`.

    Raises:
        DataError: `folder` is a file, or holds something else.
    """
    if folder.exists() and not (folder / proof).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and has no {proof}; choose another folder or remove it.")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        replaced = folder.with_name(f".{folder.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        partial.rename(folder)
        shutil.rmtree(replaced)
    else:
        partial.rename(folder)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
