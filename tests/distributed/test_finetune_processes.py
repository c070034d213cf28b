"""Fine-tuning in two gloo processes on this machine."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from corpora import make_model
from gloo import TIMEOUT_SECONDS, losses, started, train
from labelled import recipe, sentences, write_csv
from modernbert.config import dump

pytestmark = pytest.mark.distributed

FINETUNE = ("-m", "modernbert", "finetune")

# `modernbert finetune` whose last process kills itself at step 11, once: no clock decides when that is.
KILLED_AT_STEP_11 = """
import os, pathlib, signal, sys
from modernbert.train import epochs

update, once = epochs.EpochLoop._update, pathlib.Path(sys.argv[-1]).with_name("signalled")

def interrupted(self, *arguments):
    if self.progress.step == 11 and self.processes.rank == self.processes.size - 1 and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *arguments)

epochs.EpochLoop._update = interrupted
sys.argv[:1] = ["modernbert", "finetune"]
from modernbert.cli import main
main()
"""

# The gradients of an update in two forward passes, as contrastive training over a whole batch needs them: the gradient
# of the loss by all outputs, then by the parameters. The loss is that of the task, so the usual way gives the same.
IN_TWO_PASSES = """
import sys
import numpy as np, torch
from torch.nn import functional as F
from modernbert.packed import Sequences
from modernbert.runtime import autocast
from modernbert.tasks.classify import Classify

def compute_gradients(self, model, items, context):
    def logits(own):
        tokens = torch.from_numpy(np.concatenate([item.sequences[0] for item in own]))
        with autocast(context.processes.device, context.precision):
            return model(tokens, Sequences.from_lengths(item.num_tokens for item in own)).float()

    own = context.processes.share(items)
    with torch.no_grad():
        found = logits(own) if own else []
    rows = torch.stack(context.processes.gather(list(found))).requires_grad_()
    loss = F.cross_entropy(rows, self.labels(items), reduction="sum") / context.total
    [gradient] = torch.autograd.grad(loss, rows)
    if own:
        first = len(items) * context.processes.rank // context.processes.size
        logits(own).backward(gradient[first : first + len(own)])
    return loss.detach() / context.processes.size

Classify.compute_gradients = compute_gradients
sys.argv[:1] = ["modernbert", "finetune"]
from modernbert.cli import main
main()
"""


@pytest.fixture(scope="module")
def write_recipe(tmp_path_factory):
    """Twenty-seven updates, the last one of each epoch of a single example; class weights, and microbatches."""
    base = tmp_path_factory.mktemp("base")
    model = make_model(base)
    train = write_csv(base / "train.csv", sentences(161, 1))
    validation = write_csv(base / "validation.csv", sentences(60, 2))

    def write(folder):
        made = recipe(
            model,
            folder / "run",
            data={"train": str(train), "validation": str(validation)},
            training={"epochs": 3, "batch_examples": 20, "learning_rate": 1e-3, "class_weights": {"red": 2.0}},
            machine={"device": "cpu", "precision": "fp32", "microbatch_tokens": 60},
        )
        (folder / "recipe.toml").write_text(dump(made))
        return folder / "recipe.toml"

    return write


@pytest.fixture(scope="module")
def alone(write_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(write_recipe(folder), 1, FINETUNE)
    return folder / "run"


def assert_same_run(found, wanted):
    assert losses(found) == pytest.approx(losses(wanted), abs=1e-6)
    reports = [json.loads((run / "report.json").read_text()) for run in (found, wanted)]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert reports[0]["best_step"] == reports[1]["best_step"]
    weights, expected = (load_file(run / "model.safetensors") for run in (found, wanted))
    assert weights.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_finetune_to_the_losses_of_one(write_recipe, alone, tmp_path):
    """One of them has no example of the last update of an epoch."""
    train(write_recipe(tmp_path), 2, FINETUNE)
    assert len(losses(alone)) == 27
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_two_go_on(write_recipe, alone, tmp_path):
    made = write_recipe(tmp_path)
    with started(made, 2, ["-c", KILLED_AT_STEP_11]) as [first, second]:
        assert second.wait(timeout=TIMEOUT_SECONDS) == -signal.SIGKILL
        _, errors = first.communicate(timeout=TIMEOUT_SECONDS)
        assert first.returncode == 2, errors
        assert "Process 0 of 2 stops because another one has ended" in errors
        assert "Traceback" not in errors
    train(made, 2, FINETUNE)
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_gradients_that_a_task_makes_in_two_passes_are_those_of_its_loss(write_recipe, tmp_path, size):
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    for folder in (plain, cached):
        folder.mkdir()
        made = write_recipe(folder)
        made.write_text(made.read_text().replace("red = 2.0", "red = 1.0"))
    train(plain / "recipe.toml", 1, FINETUNE)
    train(cached / "recipe.toml", size, ["-c", IN_TWO_PASSES])
    assert_same_run(cached / "run", plain / "run")
