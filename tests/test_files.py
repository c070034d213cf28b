"""Folders and files are written atomically, keep foreign files, and survive a crash at every system call."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from modernbert.errors import DataError
from modernbert.files import atomic_directory, atomic_write, check_file, complete_pending_write, sampled_hash

OLD = {"config.json": "old", "index.json": "old", "part-1": "old"}
NEW = {"config.json": "new", "weights": "new", "training/state.json": "new"}
FOREIGN = {".git/HEAD": "main", "README.md": "mine", ".folder.partial": "mine", "training/notes.txt": "mine"}
CALLS = ("rename", "replace", "mkdir", "rmdir", "unlink", "open", "close", "fsync")


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def held(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path) -> None:
    with atomic_directory(folder, owned_names=("index.json", "part-1")) as partial:
        put(partial, NEW)


def write_file(path: Path) -> None:
    with atomic_write(path) as partial:
        partial.write_text("new")


class Interrupted:
    """Patches functions of `os`, so that the n-th call kills the process or fails."""

    def __init__(self, monkeypatch, number: int, kind: str) -> None:
        self.left, self.kind, self.was_reached = number, kind, False
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))

    def wrapped(self, call):
        def called(*arguments, **named):
            self.left -= 1
            if self.left:
                return call(*arguments, **named)
            self.was_reached = True
            if self.kind == "fails":
                raise OSError(28, "No space left on device")
            try:
                if self.kind == "killed after":
                    call(*arguments, **named)
            finally:
                os._exit(9)

        return called


def killed(number: int, kind: str, work, monkeypatch) -> bool:
    """Whether a process that runs `work` reached its n-th call and was killed there."""
    child = os.fork()
    if child == 0:
        try:
            Interrupted(monkeypatch, number, kind)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def at_every_call(kind: str, work, monkeypatch, prepare, check) -> int:
    for number in range(1, 500):
        prepare()
        if kind == "fails":
            with monkeypatch.context() as patched:
                interrupted = Interrupted(patched, number, kind)
                with contextlib.suppress(OSError):
                    work()
            reached = interrupted.was_reached
        else:
            reached = killed(number, kind, work, monkeypatch)
        check()
        if not reached:
            return number - 1
    raise AssertionError("it did not end within 500 calls")


@pytest.fixture
def cleared(tmp_path):
    """An empty folder, and a function that clears it and writes the given files."""
    import shutil

    def clear(files: dict[str, str]) -> None:
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        (tmp_path / "place").mkdir()
        put(tmp_path / "place", files)

    return tmp_path / "place", clear


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed before", "killed after", "fails"])
def test_a_crash_at_any_call_leaves_the_old_or_the_new_folder(kind, cleared, monkeypatch):
    place, clear = cleared
    folder = place / "folder"
    seen = set()

    def check():
        complete_pending_write(folder)
        found = held(folder)
        found = {name: text for name, text in found.items() if ".partial/" not in name}
        foreign = {name: found.pop(name) for name in FOREIGN}
        assert foreign == FOREIGN
        assert found in (OLD, NEW)
        seen.add(found["config.json"])

    def prepare():
        clear({f"folder/{name}": text for name, text in (OLD | FOREIGN).items()})

    assert at_every_call(kind, lambda: write(folder), monkeypatch, prepare, check) > 20
    assert seen == {"old", "new"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed before", "killed after", "fails"])
def test_a_crash_at_any_call_leaves_no_incomplete_new_folder(kind, cleared, monkeypatch):
    place, clear = cleared
    folder = place / "folder"
    seen = set()

    def check():
        found = held(folder) if folder.exists() else None
        assert found in (None, NEW)
        seen.add(found is None)

    assert at_every_call(kind, lambda: write(folder), monkeypatch, lambda: clear({}), check) > 10
    assert seen == {True, False}


@pytest.mark.parametrize("kind", ["killed before", "killed after", "fails"])
def test_a_crash_at_any_call_leaves_the_old_or_the_new_file(kind, cleared, monkeypatch):
    place, clear = cleared
    seen = set()

    def check():
        seen.add((place / "file").read_text())
        if kind == "fails":  # a process that lives removes its temporary file
            assert len(list(place.iterdir())) <= 2

    prepare = lambda: clear({"file": "old"})  # noqa: E731
    assert at_every_call(kind, lambda: write_file(place / "file"), monkeypatch, prepare, check) > 3
    assert seen == {"old", "new"}


def test_everything_is_on_the_disk_before_it_is_moved(tmp_path, monkeypatch):
    put(tmp_path / "folder", OLD)
    synced, order = set(), []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda number: (synced.add(os.fstat(number).st_ino), fsync(number)))

    def renamed(source, target):
        if str(target).endswith(".ready"):
            order.extend(path.name for path in Path(source).rglob("*") if path.stat().st_ino not in synced)
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    write(tmp_path / "folder")
    assert order == []
    assert (tmp_path / "folder").stat().st_ino in synced


def test_other_files_in_a_folder_stay(tmp_path):
    put(tmp_path / "folder", OLD | FOREIGN)
    (tmp_path / "folder" / "link").symlink_to("README.md")
    write(tmp_path / "folder")
    assert (tmp_path / "folder" / "link").is_symlink()
    (tmp_path / "folder" / "link").unlink()
    assert held(tmp_path / "folder") == FOREIGN | NEW


def test_a_users_folder_named_like_a_partial_one_stays(tmp_path):
    put(tmp_path, {".out.partial/thesis.txt": "mine", ".out.0123.partial/thesis.txt": "mine"})
    write(tmp_path / "out")
    write_file(tmp_path / "out" / "file")
    assert held(tmp_path)[".out.partial/thesis.txt"] == "mine"
    assert held(tmp_path)[".out.0123.partial/thesis.txt"] == "mine"


def test_files_of_a_killed_writer_are_removed_unless_they_are_in_use(tmp_path):
    left, young = tmp_path / ".out.0123456789ab.partial", tmp_path / ".out.ba9876543210.partial"
    for folder in (left, young):
        put(folder, {"weights": "half"})
    os.utime(left, (time.time() - 3600,) * 2)
    write(tmp_path / "out")
    assert not left.exists()
    assert young.exists()
    put(tmp_path, {"out/mine": "mine"})
    with atomic_directory(tmp_path / "out") as partial:
        os.utime(partial, (time.time() - 3600,) * 2)
        write(tmp_path / "out")
        assert partial.exists()
        put(partial, {"late": "too"})
    assert held(tmp_path / "out") == NEW | {"mine": "mine", "late": "too"}


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_link_to_a_folder_stays_a_link(target_exists, tmp_path):
    if target_exists:
        put(tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert held(tmp_path / "real") == NEW


def test_a_link_to_a_file_stays_a_link(tmp_path):
    put(tmp_path, {"real": "old"})
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_the_working_directory_can_be_written_to(tmp_path, monkeypatch):
    put(tmp_path / "here", FOREIGN)
    monkeypatch.chdir(tmp_path / "here")
    write(Path())
    assert held(Path()) == FOREIGN | NEW


def test_two_writers_of_one_folder_do_not_mix(tmp_path):
    with atomic_directory(tmp_path / "out") as first, atomic_directory(tmp_path / "out") as second:
        put(first, {"a": "first", "b": "first"})
        put(second, {"a": "second", "b": "second"})
    assert held(tmp_path / "out") == {"a": "first", "b": "first"}


def test_a_file_and_a_folder_in_the_place_of_a_file_are_refused(tmp_path):
    put(tmp_path, {"file": "mine", "folder/config.json/mine": "mine"})
    with pytest.raises(DataError, match="is a file"):
        write(tmp_path / "file")
    with pytest.raises(DataError, match="is a folder, where a file is to be written"):
        write(tmp_path / "folder")
    assert held(tmp_path) == {"file": "mine", "folder/config.json/mine": "mine"}


def test_a_record_never_removes_files_outside_the_folder(tmp_path):
    ready = "folder/.modernbert.0123456789ab.ready"
    put(tmp_path, {"precious": "mine", f"{ready}/a": "new", f"{ready}/removed.json": '["../precious", "gone"]'})
    complete_pending_write(tmp_path / "folder")
    assert held(tmp_path) == {"precious": "mine", "folder/a": "new"}


@pytest.mark.timeout(20)
def test_a_folder_can_be_written_inside_one_that_is_being_written(tmp_path):
    put(tmp_path / "out", OLD | FOREIGN)
    with atomic_directory(tmp_path / "out", owned_names=("index.json", "part-1")) as partial:
        write(partial)
        write(partial / "model")
    assert held(tmp_path / "out") == FOREIGN | NEW | {f"model/{name}": text for name, text in NEW.items()}


def test_an_output_that_cannot_be_or_would_cost_an_input_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "x.jsonl").write_text("mine")
    (tmp_path / "link.jsonl").symlink_to("x.jsonl")
    for output, sentence in (
        (tmp_path, "is a folder"),
        (Path(), "is a folder"),
        (tmp_path / "x.jsonl" / "y.jsonl", r"x\.jsonl is not a folder, so .*y\.jsonl cannot be written"),
        (tmp_path / "x.jsonl", "is an input, which would be lost"),
        (tmp_path / "link.jsonl", "is an input, which would be lost"),
    ):
        with pytest.raises(DataError, match=sentence):
            check_file(output, None, tmp_path / "none", str(tmp_path / "x.jsonl"))
    check_file(tmp_path / "new" / "y.jsonl", tmp_path / "x.jsonl")
    assert not (tmp_path / "new").exists()


def test_a_sampled_hash_sees_the_size_the_ends_and_each_block(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = (65 << 20) + 5
    with path.open("wb") as file:
        file.truncate(size)
    hashes = {sampled_hash(path)}
    for place in (0, 3 << 19, 40 << 20, size - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        hashes.add(sampled_hash(path))
    with path.open("r+b") as file:
        file.truncate(size - 1)
    hashes.add(sampled_hash(path))
    small = tmp_path / "small"
    small.write_bytes(b"one")
    hashes.add(sampled_hash(small))
    assert len(hashes) == 7
