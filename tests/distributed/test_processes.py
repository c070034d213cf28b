"""Pretraining in two gloo processes on this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from corpora import make_shards, make_tokenizer, tiny_recipe
from gloo import TIMEOUT_SECONDS, free_port, lines, losses, started, train
from modernbert.config import dump, parse
from modernbert.errors import DataError, ProcessError
from modernbert.train import distributed as training
from modernbert.train.distributed import attempt_name
from modernbert.train.peers import Peers, lost_a_peer
from modernbert.train.recipe import PretrainRecipe

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    tokenizer = make_tokenizer(folder / "tokenizer")
    return tokenizer, make_shards(folder / "shards", tokenizer)


@pytest.fixture(scope="module")
def write_recipe(material):
    """The tiny recipe without dropout, so that nothing depends on how rows are shared out among processes."""

    def write(folder, **changes):
        recipe = tiny_recipe(*material, folder / "run")
        recipe["model"]["attention_output_dropout"] = 0.0
        recipe["run"] |= changes
        (folder / "recipe.toml").write_text(dump(parse(PretrainRecipe, recipe, "tiny")))
        return folder / "recipe.toml"

    return write


# `modernbert pretrain` whose last process sends itself a signal at step 5, once: no clock decides when it comes.
SIGNAL_AT_STEP_5 = """
import os, pathlib, signal, sys
from modernbert.train import pretrain

update, once = pretrain.Pretraining._update, pathlib.Path(sys.argv[-1]).with_name("signalled")

def interrupted(self, *arguments):
    chosen = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    if self.progress.step == 5 and chosen and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.{name})
    return update(self, *arguments)

pretrain.Pretraining._update = interrupted
sys.argv[:1] = ["modernbert", "pretrain"]
from modernbert.cli import main
main()
"""


def assert_same_run(found, wanted):
    assert losses(found) == pytest.approx(losses(wanted), abs=1e-5)
    for one, two in zip(lines(wanted), lines(found), strict=True):
        assert one["tokens"] == two["tokens"]
        if "loss" in one:
            assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        else:
            assert two["validation"]["library"] == pytest.approx(one["validation"]["library"], rel=1e-4)
    weights, expected = (load_file(run / "final" / "model.safetensors") for run in (found, wanted))
    assert weights.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def alone(write_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(write_recipe(folder), 1)
    return folder / "run"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"parallel": "ddp"}, id="ddp", marks=pytest.mark.slow),
        pytest.param(
            {"parallel": "fsdp", "activation_checkpointing": True},
            id="fsdp with activation checkpointing",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_train_to_the_losses_of_one(write_recipe, alone, tmp_path, changes):
    """Microbatches of one process and of two are cut differently; the global count of predicted tokens is the same."""
    train(write_recipe(tmp_path, **changes), 2)
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_run_stopped_in_one_process_goes_on_in_two_shards(write_recipe, alone, tmp_path):
    recipe = write_recipe(tmp_path, parallel="fsdp")
    with started(recipe, 1, ["-c", SIGNAL_AT_STEP_5.replace("{name}", "SIGINT")]) as [process]:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 130, errors
    train(recipe, 2)
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_process_goes_on(write_recipe, alone, tmp_path):
    recipe = write_recipe(tmp_path)
    with started(recipe, 2, ["-c", SIGNAL_AT_STEP_5.replace("{name}", "SIGKILL")]) as [first, second]:
        assert second.wait(timeout=TIMEOUT_SECONDS) == -signal.SIGKILL
        _, errors = first.communicate(timeout=TIMEOUT_SECONDS)
        assert first.returncode == 2, errors
        assert "Process 0 of 2 stops because another one has ended" in errors
        assert "Traceback" not in errors
    train(recipe, 1)
    assert_same_run(tmp_path / "run", alone)


AT_THE_END = """
import gc, sys
from torch import distributed
from modernbert.cli import main

destroy = distributed.destroy_process_group

def watched():
    left = [found for found in gc.get_objects() if type(found).__name__ == "DistributedDataParallel"]
    sys.stderr.write(f"{len(left)} left\\n")
    destroy()

distributed.destroy_process_group = watched
sys.argv[:1] = ["modernbert", "pretrain"]
main()
"""


@pytest.mark.slow
def test_nothing_that_holds_the_group_outlives_it(write_recipe, alone, tmp_path):
    """Or a process hangs at its end, one time in a few."""
    with started(write_recipe(tmp_path), 2, ["-c", AT_THE_END]) as processes:
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0, errors
            assert "0 left" in errors


def test_processes_started_again_do_not_take_an_old_one_for_their_peer():
    """The second attempt finds the store as the first has left it, and its processes come one after the other."""
    store = torch.distributed.HashStore()

    def attempt(order):
        with ThreadPoolExecutor() as pool:
            names = []
            for rank in order:
                names.append(pool.submit(attempt_name, store, rank, 3))
                time.sleep(0.2)
            return {name.result(timeout=TIMEOUT_SECONDS) for name in names}

    [first], [second] = attempt([0, 1, 2]), attempt([1, 2, 0])
    assert first != second


def test_a_process_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(training, "START_TIMEOUT", 0.2)
    with pytest.raises(ProcessError, match="Process 1 of 2 waited"):
        attempt_name(torch.distributed.HashStore(), 1, 2)


@pytest.mark.slow
def test_torchrun_brings_a_killed_run_back(write_recipe, alone, tmp_path):
    recipe = write_recipe(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    program = tmp_path / "killed_once.py"
    program.write_text(SIGNAL_AT_STEP_5.replace("{name}", "SIGKILL"))
    launcher += ["--master-port", str(free_port()), str(program), str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(launcher, env=environment, stderr=subprocess.PIPE, text=True) as agent:
        try:
            _, errors = agent.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            agent.kill()
    assert agent.returncode == 0, errors
    assert "Resuming from" in errors
    assert_same_run(tmp_path / "run", alone)


FULL_DISK = """
import sys
from modernbert.cli import main
from modernbert.model import folder as checkpoint
from modernbert.train import checkpoint as training

def full(*arguments, **named):
    raise OSError(28, "No space left on device")

checkpoint.save_file = training.save_file = full
sys.argv[:1] = ["modernbert", "pretrain"]
main()
"""


@pytest.mark.slow
def test_a_full_disk_of_the_first_process_ends_the_others_with_its_sentence(write_recipe, tmp_path):
    with started(write_recipe(tmp_path), 2, ["-c", FULL_DISK]) as [first, second]:
        _, told = first.communicate(timeout=TIMEOUT_SECONDS)
        _, passed_on = second.communicate(timeout=30)
    assert first.returncode == second.returncode == 2, told + passed_on
    assert "could not be written ([Errno 28] No space left on device); free space in" in told
    assert "Process 1 of 2 stops because process 0 has failed: The checkpoint of step 4 could not be" in passed_on
    assert "Traceback" not in told + passed_on


@pytest.mark.slow
def test_a_directory_of_another_recipe_ends_all_processes_with_that_sentence(write_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with started(write_recipe(tmp_path), 2) as processes:
        said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert all("is not empty and holds no run; choose another run.directory" in one for one in said)
    assert not any("Traceback" in one for one in said)


STUCK = """
import sys, time
from modernbert.errors import DataError
from modernbert.train.distributed import processes

try:
    with processes("cpu") as these:
        if these.first:
            raise DataError("the disk of process 0 is full")
        time.sleep(600)  # as in a collective that nobody can interrupt
except DataError as error:
    time.sleep(20)  # it lives on: no connection is closed
"""


@pytest.mark.slow
def test_a_process_that_cannot_be_interrupted_is_ended_all_the_same(tmp_path):
    with started(tmp_path, 2, ["-c", STUCK]) as [_, second]:
        _, said = second.communicate(timeout=60)
    assert second.returncode == 2
    assert said.endswith("Process 1 of 2 stops because process 0 has failed: the disk of process 0 is full\n")


class EndingStore(torch.distributed.HashStore):
    """Ends with the process of rank 0."""

    def __init__(self):
        super().__init__()
        self.ended = False

    def check(self, keys):
        if self.ended:
            raise RuntimeError("Connection reset by peer")
        return super().check(keys)


def lose_connection(peers, store, key, then):
    with peers.reporting():
        while not store.check([key]):
            time.sleep(0.01)
        then()
        raise RuntimeError("Connection closed by peer")


def test_a_process_fails_only_after_the_others_have_read_its_message(monkeypatch):
    """It may hold the store, so that the others would only see that it has ended."""
    monkeypatch.setattr("modernbert.train.peers._READING_SECONDS", 300.0)
    monkeypatch.setattr("modernbert.train.peers._POLL_SECONDS", 60.0)  # only the main thread of the second one reads
    store = EndingStore()
    read = threading.Event()

    def fail():
        with pytest.raises(DataError), Peers(store, 0, 2).reporting():
            raise DataError("the disk of process 0 is full")
        assert read.is_set()
        store.ended = True

    with ThreadPoolExecutor() as threads:
        first = threads.submit(fail)
        with pytest.raises(ProcessError, match="process 0 has failed: the disk of process 0 is full"):
            lose_connection(Peers(store, 1, 2), store, "failure", read.set)
        first.result()


def test_a_message_that_was_read_is_kept_when_the_store_has_ended():
    store = EndingStore()
    store.set("failure", "0 the disk of process 0 is full")
    with pytest.raises(ProcessError, match="process 0 has failed: the disk of process 0 is full"):
        lose_connection(Peers(store, 1, 2), store, "failure/seen/1", lambda: setattr(store, "ended", True))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5"), True),
        (torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (torch.distributed.DistNetworkError("The client socket has timed out"), True),
        (torch.distributed.DistBackendError("NCCL error: unhandled cuda error, out of memory"), False),
        (RuntimeError("this build has no NCCL"), False),
        (RuntimeError("gloo has no product for this dtype"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_only_an_error_of_another_process_says_that_it_has_ended(error, lost):
    assert lost_a_peer(error) == lost
