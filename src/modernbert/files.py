"""Atomic writes: files are written under a temporary name and then moved into place. Other files stay."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from modernbert.errors import ConfigError, DataError

LOCK = ".lock"  # in a directory that a process works in: the id of that process
_REMOVED = "removed.json"  # in a complete partial folder: the names of earlier files to remove from the target folder
FileRecord = tuple[int, int, str]  # size, modification time in ns, SHA-256
_open: set[Path] = set()  # partial folders whose locks this process holds: one may be written inside another
_ABANDONED_SECONDS = 60  # a partial folder without an owner is removed when it is older


@contextmanager
def atomic_directory(folder: Path, owned_names: Iterable[str] = ()) -> Iterator[Path]:
    """An empty folder to write into. When the block ends without an error, its files move into `folder`.

    Other files in `folder` stay. `owned_names` are files that an earlier call may have written: those that the block
    does not write again are removed. All files are on the disk before the first one is replaced.

    A new folder appears with all its files at once. In an existing folder, a process that is killed while it writes
    leaves the old files unchanged. A process that is killed while files move leaves the complete new files in a
    subfolder. `complete_pending_write` finishes the move, and every reader of this package calls it first.

    Raises:
        DataError: `folder` is a file, or contains a folder with the name of a file to write.
        OSError: it cannot be written; the old files are unchanged.
    """
    folder = folder.resolve()
    if os.path.lexists(folder) and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose another folder.")
    complete_pending_write(folder)
    exists = folder.is_dir()
    parent, stem = (folder, ".modernbert") if exists else (folder.parent, f".{folder.name[:100]}")
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent, stem)
    partial = _unique(parent, stem)
    partial.mkdir()
    original = partial
    _open.add(original)
    try:
        with locked(partial):  # without a lock, its writer was killed
            yield partial
            sync_tree(partial)
            if not exists and _renamed(partial, folder):
                return
            if partial.parent != folder:  # another process created the folder in the meantime
                inside = _unique(folder, ".modernbert")
                partial.rename(inside)
                partial = inside
            _move_files(partial, folder, owned_names)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        _open.discard(original)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` when the block ends without an error. A link stays a link.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _unique(path.parent, f".{path.name[:100]}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_file(path: Path, *inputs: str | Path | None) -> None:
    """Check, before anything is computed, that a file can be written to `path`, which is not one of the `inputs`.

    Raises:
        DataError: it is a folder, or inside a file, or an input, which would be lost.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file for the output.")
    if found := next((parent for parent in path.parents if os.path.lexists(parent) and not parent.is_dir()), None):
        raise DataError(f"{found} is not a folder, so {path} cannot be written; choose another output.")
    if any(given is not None and path.exists() and Path(given).exists() and path.samefile(given) for given in inputs):
        raise DataError(f"{path} is an input, which would be lost; choose another output.")


def complete_pending_write(folder: Path) -> None:
    """Finish moving complete new files into a folder, if a process was killed while it moved them.

    Raises:
        DataError: the folder cannot be written.
    """
    if not any(folder.glob(".modernbert.*.ready")):
        return
    try:
        with locked(folder):
            for ready in sorted(folder.glob(".modernbert.*.ready")):  # another process may have been faster
                _complete_move(ready, folder)
    except OSError as error:
        raise DataError(
            f"{folder} was being written when the program was killed, and it cannot be completed ({error}); make it "
            "writable and give the same command again."
        ) from None


_HASH_BLOCKS, _HASH_BLOCK_BYTES = 64, 1 << 20


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_hash(path: Path) -> str:
    """The SHA-256 of a file's size and bytes; of a file above 64 MiB, of 64 evenly spaced blocks of 1 MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as file:
        if size <= _HASH_BLOCKS * _HASH_BLOCK_BYTES:
            digest.update(file.read())
        else:
            for number in range(_HASH_BLOCKS):
                file.seek((size - _HASH_BLOCK_BYTES) * number // (_HASH_BLOCKS - 1))
                digest.update(file.read(_HASH_BLOCK_BYTES))
    return digest.hexdigest()


def file_record(path: Path) -> FileRecord:
    """What `is_unchanged` recognises a file by."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, file_hash(path)


def is_unchanged(path: Path, record: FileRecord) -> bool:
    """Whether a file has the bytes of a record, also as a copy. It is read only if its time of change differs."""
    size, changed, content = record
    state = path.stat()
    return state.st_size == size and (state.st_mtime_ns == changed or file_hash(path) == content)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the advisory lock of a file or folder and hold it; without effect on systems without locks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """Lock an existing working directory until the block ends, or until the process is killed.

    On file systems without locks this has no effect.

    Raises:
        ConfigError: another process holds it; the message has its number and its machine.
    """
    path = directory / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not flock(descriptor, wait=False):
            owner = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise ConfigError(f"{directory} is in use by {owner}; wait for it or stop it, or choose another directory.")
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            break
        os.close(descriptor)  # its owner has removed it meanwhile
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def flock(descriptor: int, wait: bool) -> bool:
    """Whether the advisory lock of an open file could be taken; also where the system or the file system has none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # for example, a network file system without locks
        return True
    return True


def move_into_place(partial: Path, folder: Path) -> None:
    """Rename a complete folder to `folder`, a new name in the same directory. All files are on the disk before.

    Raises:
        OSError: the name exists.
    """
    sync_tree(partial)
    partial.rename(folder)
    _sync(folder.parent)


def _unique(parent: Path, stem: str) -> Path:
    return parent / f"{stem}.{uuid.uuid4().hex[:12]}.partial"


def _sweep(parent: Path, stem: str) -> None:
    """Remove the temporary files of writers that were killed, but not those that are being written."""
    pattern = re.compile(rf"{re.escape(stem)}\.[0-9a-f]{{12}}\.partial")
    for path in parent.glob(".*.partial"):
        with contextlib.suppress(OSError):  # another process removed it first
            if not pattern.fullmatch(path.name) or time.time() - path.stat().st_mtime < _ABANDONED_SECONDS:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if path.is_dir() and flock(descriptor, wait=False):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _renamed(partial: Path, folder: Path) -> bool:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return False
    _sync(folder.parent)
    return True


def _move_files(partial: Path, folder: Path, owned_names: Iterable[str]) -> None:
    written = _files(partial)
    for path in written:
        if (target := folder / path.relative_to(partial)).is_dir():
            raise DataError(f"{target} is a folder, where a file is to be written; choose another folder or remove it.")
    stale = [name for name in owned_names if not (partial / name).exists() and os.path.lexists(folder / name)]
    (partial / _REMOVED).write_text(json.dumps(stale), encoding="utf-8")
    _sync(partial / _REMOVED)
    _sync(partial)
    ready = partial.with_suffix(".ready")
    with nullcontext() if folder in _open else locked(folder):
        partial.rename(ready)  # from here on, the folder counts as the new one
        _sync(folder)
        _complete_move(ready, folder)


def _complete_move(ready: Path, folder: Path) -> None:
    for path in _files(ready):
        if path.name == _REMOVED and path.parent == ready:
            continue
        target = folder / path.relative_to(ready)
        if target.parent != folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    record = ready / _REMOVED
    names = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    for name in names:
        if Path(name).name != name:  # never a path outside the folder
            continue
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    _sync(folder)
    shutil.rmtree(ready)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file, or the directory entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
