"""TensorBoard is real; wandb and trackio are fakes with the used part of their interface."""

import logging
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modernbert.config import parse
from modernbert.errors import ConfigError
from modernbert.run_metrics import Metrics
from modernbert.train import pretrain as module
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import Run
from modernbert.train.trackers import Tracking, numbers, tracked_metrics

SERVICES = ["wandb", "trackio"]


class StandIn(ModuleType):
    """A fake wandb or trackio that keeps the rows of a run by its id or name, as their servers do."""

    def __init__(self, name):
        super().__init__(name)
        self.runs, self.opened, self.finished = {}, [], 0
        self.begin_error = self.log_error = None

    def init(self, *, project, name, config, resume, **only_wandb):
        if self.begin_error:
            raise self.begin_error
        assert resume == "allow"
        assert set(only_wandb) == ({"id", "dir"} if self.__name__ == "wandb" else set())
        print("chatter")  # trackio greets on stdout
        self.opened.append(project)
        self.rows = self.runs.setdefault(only_wandb.get("id", name), [])
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values, step=None):
        torch.rand(3), np.random.seed(0), random.seed(0)  # a careless package
        if self.log_error:
            raise self.log_error
        self.rows.append(dict(values) if step is None else {"step": step, **values})

    def finish(self):
        self.finished += 1


@pytest.fixture(params=SERVICES)
def service(request, monkeypatch):
    stand_in = StandIn(request.param)
    monkeypatch.setitem(sys.modules, request.param, stand_in)
    return stand_in


@pytest.fixture
def tracked(recipe_for, tmp_path):
    """The tiny recipe with some trackers."""

    def make(*names, run="run", **changes):
        recipe = recipe_for(tmp_path / run)
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"trackers": names} | changes)})

    return make


@pytest.fixture
def metrics(tmp_path):
    (tmp_path / "run").mkdir()
    return Metrics(tmp_path / "run" / "metrics.jsonl")


def tracking(recipe):
    run = recipe.run
    return Tracking(run.trackers, run.project, run.directory.name, run.directory, recipe.model_dump(mode="json"))


def line(step, **values):
    return {"step": step, "phase": "pretrain", "tokens": 100 * step} | (values or {"loss": 1 / step})


def numbers_in(recipe):
    return [{"step": line["step"], **numbers(line)} for line in Metrics(recipe.run.directory / "metrics.jsonl").read()]


def crash_at(monkeypatch, step):
    original = module.Pretraining._update

    def update(self, *arguments):
        if self.progress.step == step:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(module.Pretraining, "_update", update)


def pretrain_with_a_crash(recipe, monkeypatch, step):
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe)
    pretrain(recipe)


@pytest.mark.slow
def test_a_resumed_run_sends_every_line_once(tracked, service, monkeypatch, capsys):
    """It crashes between two checkpoints."""
    recipe = tracked(service.__name__, project="letters")
    pretrain_with_a_crash(recipe, monkeypatch, 6)
    [rows] = service.runs.values()
    for row, expected in zip(rows, numbers_in(recipe), strict=True):
        assert row | {"tokens_per_second": 0} == expected | {"tokens_per_second": 0}
    assert any("validation/library/loss" in row and row["tokens"] for row in rows)
    assert service.opened == ["letters"] * 2
    assert service.finished == 2
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_tensorboard_shows_each_step_of_a_resumed_run_once(tracked, monkeypatch, step):
    """It crashes before the first checkpoint, and between two."""
    pytest.importorskip("tensorboard", reason="TensorBoard, an extra, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tracked("tensorboard")
    pretrain_with_a_crash(recipe, monkeypatch, step)
    events = EventAccumulator(str(recipe.run.directory / "tensorboard"))
    events.Reload()
    for name in ("loss", "tokens", "tokens_per_second", "validation/library/loss"):
        drawn = [(event.step, event.value) for event in events.Scalars(name)]
        written = [values for values in numbers_in(recipe) if name in values]
        assert drawn == [(values["step"], pytest.approx(values[name], rel=1e-6)) for values in written]


@pytest.mark.slow
def test_trackers_do_not_change_the_training(tracked, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", StandIn("wandb"))
    plain = load_file(pretrain(tracked(run="plain")) / "model.safetensors")
    weights = load_file(pretrain(tracked("wandb")) / "model.safetensors")
    assert all(torch.equal(plain[name], weights[name]) for name in plain)


def test_a_tracker_that_is_added_later_receives_the_complete_run(tracked, metrics, service):
    metrics.write(line(1))
    metrics.write(line(2))
    with tracked_metrics(metrics, tracking(tracked(service.__name__))):
        metrics.write(line(3))
    [rows] = service.runs.values()
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_several_lines_of_a_step_are_all_sent(tracked, metrics, service):
    recipe = tracked(service.__name__)
    with tracked_metrics(metrics, tracking(recipe)):
        metrics.write(line(1, spike={"loss": 9.0}))
        metrics.write(line(1))
    with tracked_metrics(metrics, tracking(recipe)):
        metrics.write(line(1, validation={"web": {"loss": 2.0}}))
        metrics.write(line(2))
    [rows] = service.runs.values()
    assert [set(row) - {"step", "tokens"} for row in rows] == [
        {"spike/loss"}, {"loss"}, {"validation/web/loss"}, {"loss"}
    ]  # fmt: skip


def test_a_failing_service_is_reported_once_and_receives_its_lines_later(tracked, metrics, service, caplog):
    with caplog.at_level(logging.WARNING), tracked_metrics(metrics, tracking(tracked(service.__name__))):
        for step in range(1, 9):
            service.log_error = OSError("no route to host") if step in (3, 4, 6) else None
            metrics.write(line(step))
    assert caplog.text.count("no route to host") == 1
    [rows] = service.runs.values()
    assert [row["step"] for row in rows] == list(range(1, 9))


def test_a_failing_service_does_not_affect_another_one(tracked, metrics, monkeypatch):
    wandb, trackio = StandIn("wandb"), StandIn("trackio")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    wandb.log_error = ConnectionError("gone")
    recipe = tracked("wandb", "trackio")
    with tracked_metrics(metrics, tracking(recipe)):
        metrics.write(line(1))
    assert [len(rows) for rows in trackio.runs.values()] == [1]
    wandb.log_error = None
    with tracked_metrics(metrics, tracking(recipe)):
        assert metrics.follow is not None  # and what waits has been sent
    assert [len(rows) for rows in wandb.runs.values()] == [1]
    assert [len(rows) for rows in trackio.runs.values()] == [1]


def test_a_new_run_does_not_start_without_its_service(tracked, metrics, service):
    service.begin_error = RuntimeError("api_key not configured\nhint")
    with (
        pytest.raises(ConfigError, match=r"cannot start \(RuntimeError: api_key not configured\); fix this"),
        tracked_metrics(metrics, tracking(tracked(service.__name__))),
    ):
        pytest.fail("it began")


def test_a_resumed_run_continues_without_its_service(tracked, metrics, service, caplog):
    metrics.write(line(1))
    service.begin_error = ConnectionError("no network")
    with caplog.at_level(logging.WARNING), tracked_metrics(metrics, tracking(tracked(service.__name__))):
        metrics.write(line(2))
    assert "no network" in caplog.text
    service.begin_error = None
    with tracked_metrics(metrics, tracking(tracked(service.__name__))):
        assert metrics.follow is not None  # and what waits has been sent
    [rows] = service.runs.values()
    assert [row["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize("name", ["tensorboard", *SERVICES])
def test_a_missing_package_is_an_error_before_any_file_is_written(tracked, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    recipe = tracked(name)
    with pytest.raises(ConfigError, match=rf"names {name}.*pip install .*\[{name}\]', or leave it out\.$"):
        pretrain(recipe)
    assert not recipe.run.directory.exists()


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ConfigError, match=r"trackers\.0: Input should be 'tensorboard', 'trackio' or 'wandb'"):
        parse(Run, {"directory": "run", "trackers": ["mlflow"]}, "recipe")


def test_numbers_have_paths_and_names_are_left_out():
    spike = {"loss": 4.0, "usual": 2.0, "documents": {"web": [1]}}
    assert numbers(line(3, spike=spike)) == {"tokens": 300, "spike/loss": 4.0, "spike/usual": 2.0}
