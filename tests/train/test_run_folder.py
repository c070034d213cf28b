"""A run directory belongs to one process at a time, and to the data that its run began with."""

import json
import os
import signal

import pytest

from corpora import make_shards, write_shard
from modernbert.data import Shards
from modernbert.errors import ConfigError, DataError
from modernbert.train import pretrain as module
from modernbert.train.pretrain import pretrain
from modernbert.train.run_folder import LOCK, check_inputs, in_use
from modernbert.train.stopping import StopRequest


def in_another_process(work) -> int:
    """Its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except ConfigError:
            os._exit(2)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def take(directory):
    with in_use(directory):
        pass


def test_a_directory_in_use_is_refused_with_the_number_of_its_process(tmp_path):
    with in_use(tmp_path):
        assert in_another_process(lambda: take(tmp_path)) == 2
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on .*; wait for it or stop it"):
            take(tmp_path)
    assert in_another_process(lambda: take(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_directory_whose_process_was_killed_is_free(tmp_path):
    def die():
        with in_use(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_another_process(die) == -signal.SIGKILL
    assert (tmp_path / LOCK).exists()
    take(tmp_path)


def test_a_lock_that_its_owner_has_removed_holds_nobody_off(tmp_path, monkeypatch):
    """Another process has opened the file just before, and got a file that is no longer there."""
    (tmp_path / LOCK).touch()
    opened, original = [], os.open

    def slowly(path, *arguments):
        descriptor = original(path, *arguments)
        if not opened:
            (tmp_path / LOCK).unlink()
        opened.append(path)
        return descriptor

    monkeypatch.setattr(os, "open", slowly)
    with in_use(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / LOCK).exists()


def test_two_pretraining_processes_do_not_share_a_directory(recipe_for, tmp_path, monkeypatch):
    seen = []

    def second(*_):
        with pytest.raises(ConfigError, match="is in use by process"):
            pretrain(recipe_for(tmp_path / "run"))
        seen.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Pretraining, "run", second)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe_for(tmp_path / "run"))
    assert seen
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_whose_shards_were_replaced_by_others_of_the_same_size_is_refused(recipe_for, material, tmp_path):
    tokenizer, _ = material
    shards = make_shards(tmp_path / "shards", tokenizer)
    recipe = recipe_for(tmp_path / "run", data={"library": str(shards)})
    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    check_inputs(recipe)
    check_inputs(recipe)
    found = Shards.open(shards)
    documents = [found.document(number).tolist() for number in range(found.num_documents)]
    size = (shards / "library.ds").stat().st_size
    write_shard(shards / "library.ds", documents[::-1])
    assert (shards / "library.ds").stat().st_size == size
    with pytest.raises(ConfigError, match=r"whose data\.library changed since it began.*put back what was there"):
        check_inputs(recipe)
    (tmp_path / "run" / "inputs.json").unlink()  # as the sentence says
    check_inputs(recipe)


def test_data_may_change_before_the_first_checkpoint(recipe_for, material, tmp_path):
    tokenizer, _ = material
    recipe = recipe_for(tmp_path / "run", data={"library": str(make_shards(tmp_path / "shards", tokenizer))})
    check_inputs(recipe)
    make_shards(tmp_path / "shards", tokenizer, characters=500)
    check_inputs(recipe)
    saved = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert saved["data.library"] == Shards.open(tmp_path / "shards").fingerprint()


@pytest.mark.parametrize("text", ["", "[]", "3", "{"])
def test_damaged_hashes_are_one_sentence(text, recipe_for, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    (tmp_path / "run" / "inputs.json").write_text(text)
    with pytest.raises(ConfigError, match=r"inputs\.json is damaged"):
        check_inputs(recipe_for(tmp_path / "run"))


def test_a_source_whose_held_out_documents_are_empty_is_one_sentence(recipe_for, tmp_path):
    for documents in ([[5] * 200, []], [[], [5] * 200]):
        write_shard(tmp_path / "shards" / "a.ds", documents)
        recipe = recipe_for(tmp_path / "run", data={"library": str(tmp_path / "shards")})
        with pytest.raises(DataError, match=r"has no token; raise validation\.fraction|has no document of"):
            pretrain(recipe)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_asks_once_and_then_interrupts(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
