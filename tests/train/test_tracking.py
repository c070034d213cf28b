import json
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
from modernbert.train import pretrain as module
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import Run
from modernbert.train.trackers import numbers
from modernbert.train.tracking import Metrics


class StandIn(ModuleType):
    """wandb or trackio as far as they are called: remembers by run id, as their servers do."""

    def __init__(self, name):
        super().__init__(name)
        self.runs, self.opened, self.finished = {}, [], 0
        self.begin_error = self.log_error = None

    def init(self, **options):
        if self.begin_error:
            raise self.begin_error
        print("chatter")  # trackio greets on stdout
        self.opened.append(options)
        self._rows = self.runs.setdefault(options.get("id", options["name"]), [])
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values, step=None):
        # What a careless package may do to global state.
        torch.rand(3), np.random.default_rng().random(3), random.random()
        if self.log_error:
            raise self.log_error
        self._rows.append(dict(values) if step is None else {"step": step, **values})

    def finish(self):
        self.finished += 1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["wandb", "trackio"])
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


def lines(recipe):
    return [{"step": line["step"], **numbers(line)} for line in Metrics(recipe.run.directory / "metrics.jsonl").read()]


def crash_at(monkeypatch, step):
    original = module.Pretraining._update

    def update(self, *arguments):
        if self.progress.step == step:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(module.Pretraining, "_update", update)


def test_a_service_gets_exactly_the_lines_of_the_file(tracked, service, capsys):
    recipe = tracked(service.__name__, project="letters")
    pretrain(recipe)
    [rows] = service.runs.values()
    assert rows == lines(recipe)
    assert any("validation/library/loss" in row and row["tokens"] for row in rows)
    assert service.opened[0]["project"] == "letters"
    assert service.finished == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("step", [3, 6, 11])
def test_a_run_that_goes_on_repeats_no_line_and_loses_none(tracked, service, monkeypatch, step):
    """Before the first checkpoint, between two, and in the next phase."""
    recipe = tracked(service.__name__)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe)
    pretrain(recipe)
    [rows] = service.runs.values()
    assert [without_speed(row) for row in rows] == [without_speed(line) for line in lines(recipe)]
    assert service.finished == 2


def without_speed(line):
    return {name: value for name, value in line.items() if name != "tokens_per_second"}


def test_a_tracker_that_is_named_later_gets_the_whole_run(tracked, service, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tracked())
    recipe = tracked(service.__name__)
    pretrain(recipe)
    [rows] = service.runs.values()
    assert rows == lines(recipe)


def test_what_is_learned_does_not_know_of_trackers(tracked, service):
    plain = load_file(pretrain(tracked(run="plain")) / "model.safetensors")
    followed = load_file(pretrain(tracked(service.__name__, "tensorboard")) / "model.safetensors")
    assert all(torch.equal(plain[name], followed[name]) for name in plain)


def test_a_service_that_fails_is_named_once_and_gets_its_lines_when_it_is_back(tracked, service, monkeypatch, caplog):
    recipe, written = tracked(service.__name__), []
    original = Metrics.write

    def write(self, values):
        written.append(values)
        service.log_error = OSError("no route to host") if 3 < len(written) < 9 else None
        original(self, values)

    monkeypatch.setattr(Metrics, "write", write)
    with caplog.at_level(logging.WARNING):
        pretrain(recipe)
    assert caplog.text.count("no route to host") == 1
    [rows] = service.runs.values()
    assert rows == lines(recipe)


def test_a_service_that_is_gone_until_the_end_does_not_end_the_run(tracked, service, caplog):
    service.log_error = ConnectionError("gone")
    with caplog.at_level(logging.WARNING):
        assert pretrain(tracked(service.__name__)).exists()
    assert caplog.text.count("gone") == 1


def test_a_new_run_does_not_begin_without_its_service(tracked, service):
    service.begin_error = RuntimeError("api_key not configured\nhint")
    with pytest.raises(ConfigError, match=r"cannot begin \(RuntimeError: api_key not configured\); mend that"):
        pretrain(tracked(service.__name__))


def test_a_run_that_goes_on_does_so_without_its_service(tracked, service, monkeypatch, caplog):
    recipe = tracked(service.__name__)
    with monkeypatch.context() as patch:
        crash_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe)
    service.begin_error = ConnectionError("no network")
    with caplog.at_level(logging.WARNING):
        assert pretrain(recipe).exists()
    assert "no network" in caplog.text


def test_a_missing_package_is_one_sentence_before_anything_is_written(tracked, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = tracked("wandb")
    with pytest.raises(ConfigError, match=r"names wandb.*pip install 'modernbert\[wandb\]', or leave it out\.$"):
        pretrain(recipe)
    assert not recipe.run.directory.exists()


def test_a_tracker_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"trackers\.0: Input should be 'tensorboard', 'trackio' or 'wandb'"):
        parse(Run, {"directory": "run", "trackers": ["mlflow"]}, "recipe")


def test_numbers_have_paths_and_names_are_left_out():
    line = {"step": 3, "phase": "decay", "tokens": 9, "spike": {"loss": 4.0, "usual": 2.0, "documents": {"web": [1]}}}
    assert numbers(line) == {"tokens": 9, "spike/loss": 4.0, "spike/usual": 2.0}


@pytest.mark.parametrize("step", [None, 3, 6, 11])
def test_tensorboard_shows_each_step_of_a_resumed_run_once(tracked, monkeypatch, step):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tracked("tensorboard")
    if step is not None:
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                pretrain(recipe)
    pretrain(recipe)
    events = EventAccumulator(str(recipe.run.directory / "tensorboard"))
    events.Reload()
    written = lines(recipe)
    for name in ("loss", "tokens", "learning_rate", "validation/library/loss"):
        drawn = [(event.step, event.value) for event in events.Scalars(name)]
        assert drawn == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in written if name in line]


def test_the_state_of_trackers_is_plain_json(tracked, service):
    recipe = tracked(service.__name__)
    pretrain(recipe)
    state = json.loads((recipe.run.directory / "trackers.json").read_text())
    assert state[service.__name__]["followed"][0] == lines(recipe)[-1]["step"]
