"""Pretraining on a CUDA device: its steps as CUDA graphs, and that no step waits for the device."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from modernbert.run_metrics import Metrics
from modernbert.stream.prefetch import Prefetch
from modernbert.train import pretrain as module
from modernbert.train.distributed import Processes
from modernbert.train.graphs import CudaRecorder
from modernbert.train.pretrain import Pretraining, pretrain
from modernbert.train.stopping import StopRequest
from synchronisation import never_waiting

pytestmark = pytest.mark.gpu

PHASE = {
    "tokens": 24_000,
    "max_length": 128,
    "mixture": {"library": 1.0},
    "schedule": {"peak_lr": 1e-3, "warmup_tokens": 4_000},
    "batch_tokens": 1024,
}


@pytest.fixture
def recipe_on_cuda(recipe_for):
    """One phase of 24 steps of two microbatches, in bf16 and with dropout."""

    def make(run, tokens=24_000, **changes):
        recipe = recipe_for(run, phases={"only": PHASE | {"tokens": tokens}})
        chosen = {"device": "cuda", "precision": "bf16", "log_every_steps": 4, "checkpoint_every_steps": 8} | changes
        return recipe.model_copy(update={"run": recipe.run.model_copy(update=chosen)})

    return make


@pytest.fixture
def recorded(monkeypatch):
    """One entry for each graph that is recorded."""
    found, original = [], CudaRecorder.__call__

    def record(self, work):
        replay = original(self, work)
        found.append(replay)
        return replay

    monkeypatch.setattr(CudaRecorder, "__call__", record)
    return found


def losses(run):
    return [line["loss"] for line in Metrics(run / "metrics.jsonl").read() if "loss" in line]


def assert_same_weights(one, other):
    """Of two runs whose kernels may differ in their last bits."""
    weights, expected = (load_file(run / "final" / "model.safetensors") for run in (one, other))
    for name in expected:
        assert (weights[name] - expected[name]).norm() <= 1e-2 * expected[name].norm() + 1e-3, name


@pytest.mark.parametrize("changes", [{}, {"cuda_graphs": "off"}], ids=["graphs", "eager"])
def test_steps_never_wait_for_the_device(recipe_on_cuda, recorded, tmp_path, changes):
    recipe = recipe_on_cuda(tmp_path / "run", **changes)
    training = Pretraining(recipe, Processes(0, 1, torch.device("cuda")))
    phase, stop = recipe.phases["only"], StopRequest()
    training._enter("only", phase)
    with Prefetch(training._planned(), 3) as updates:

        def step():
            launched = training._update(next(updates), stop)
            training.progress = launched.progress
            return launched

        for _ in range(8):
            before = step()
        with never_waiting():
            for _ in range(10):
                launched = step()
                assert training._read(before).loss > 0
                before = launched
    assert len(recorded) == (0 if changes else 1)


def test_graphs_train_like_eager_passes(recipe_on_cuda, recorded, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        pretrain(recipe_on_cuda(tmp_path / "graphs"))
    assert len(recorded) == 1
    assert "CUDA graphs" not in caplog.text
    pretrain(recipe_on_cuda(tmp_path / "eager", cuda_graphs="off"))
    assert len(recorded) == 1
    assert losses(tmp_path / "graphs") == pytest.approx(losses(tmp_path / "eager"), abs=1e-3)
    assert_same_weights(tmp_path / "graphs", tmp_path / "eager")
    assert losses(tmp_path / "graphs")[-1] < losses(tmp_path / "graphs")[0]


def test_a_run_with_graphs_resumes(recipe_on_cuda, recorded, tmp_path, monkeypatch):
    pretrain(recipe_on_cuda(tmp_path / "whole"))
    original = module.Pretraining._update

    def update(self, planned, stop):
        stop.requested |= self.progress.step == 10
        return original(self, planned, stop)

    monkeypatch.setattr(module.Pretraining, "_update", update)
    assert pretrain(recipe_on_cuda(tmp_path / "stopped")) is None
    monkeypatch.setattr(module.Pretraining, "_update", original)
    pretrain(recipe_on_cuda(tmp_path / "stopped"))
    assert len(recorded) == 3
    assert losses(tmp_path / "stopped")[-1] == pytest.approx(losses(tmp_path / "whole")[-1], abs=1e-3)
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_training_that_cannot_be_recorded_continues_without_graphs(recipe_on_cuda, tmp_path, monkeypatch, caplog):
    original = module.Pretraining._backward

    def backward(self, inputs):
        loss = original(self, inputs)
        assert float(loss) > 0  # waits for the device
        return loss

    monkeypatch.setattr(module.Pretraining, "_backward", backward)
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        pretrain(recipe_on_cuda(tmp_path / "run"))
    monkeypatch.undo()
    assert caplog.text.count("continues without CUDA graphs") == 1
    pretrain(recipe_on_cuda(tmp_path / "eager", cuda_graphs="off"))
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "eager"), abs=1e-3)
    assert_same_weights(tmp_path / "run", tmp_path / "eager")
