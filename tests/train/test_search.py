"""A search: the settings of a grid or samples, their results, and the run of the best one."""

import json
import math
import tomllib
from pathlib import Path

import optuna
import pytest

from corpora import make_model
from labelled import StopAfter, recipe, sentences, write_csv
from modernbert.errors import CheckpointError, ConfigError
from modernbert.train import search as module
from modernbert.train import trials
from modernbert.train.finetune_recipe import Search
from modernbert.train.search import search
from modernbert.train.trials import OptunaSampler, Setting, Trial

pytestmark = pytest.mark.usefixtures("no_pictures")
RANGES = {"learning_rate": [1e-4, 3e-3], "weight_decay": [1e-6, 1e-4], "epochs": [1, 2]}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return make_model(folder), {"train": str(write_csv(folder / "train.csv", sentences(80, 1)))}


@pytest.fixture
def recipe_for(material, tmp_path):
    """Make a recipe for a run, with a section `search` and further changes."""
    model, data = material

    def make(name="run", training=None, **values):
        return recipe(model, tmp_path / name, data=data, search=values, training=training or {})

    return make


def table(recipe):
    folder = recipe.output.with_name(f"{recipe.output.name}-search")
    return json.loads((folder / "search.json").read_text()), (folder / "search.md").read_text().splitlines()


def settings(records):
    return [(one["learning_rate"], one["weight_decay"], one["epochs"]) for one in records]


def study(recipe):
    path = recipe.output.with_name(f"{recipe.output.name}-search") / "study.journal"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))


@pytest.fixture
def untrained(monkeypatch):
    """Replace training by an error."""

    def forbidden(*_):
        raise AssertionError("nothing is left to train")

    return lambda: monkeypatch.setattr("modernbert.train.finetune.Finetuning", forbidden)


@pytest.mark.slow
def test_a_grid_tries_every_combination_and_runs_the_best(recipe_for):
    search_recipe = recipe_for(learning_rate=[1e-6, 3e-3], weight_decay=[1e-5], epochs=[1, 3])
    folder = search(search_recipe)
    records, lines = table(search_recipe)
    assert sorted(settings(records)) == [(1e-6, 1e-5, 1), (1e-6, 1e-5, 3), (3e-3, 1e-5, 1), (3e-3, 1e-5, 3)]
    assert records[0]["metrics"]["accuracy"] == max(one["metrics"]["accuracy"] for one in records)
    assert records[0]["learning_rate"] == 3e-3
    training = json.loads((folder / "report.json").read_text())["settings"]["training"]
    assert (training["learning_rate"], training["weight_decay"], training["epochs"]) == settings(records)[0]
    assert len(lines) == 6


@pytest.mark.parametrize("use_optuna", [False, True])
def test_a_failed_trial_is_recorded_and_the_search_continues(use_optuna, recipe_for, untrained, monkeypatch):
    grid = {"learning_rate": [1e38, 3e-3], "weight_decay": [1e-5], "epochs": [1]}
    if use_optuna:
        monkeypatch.setattr(OptunaSampler, "setting", lambda _, number: Setting(grid["learning_rate"][number], 1e-5, 1))
        grid["trials"] = 2
    search_recipe = recipe_for(**grid, training={"warmup": 0.0})
    folder = search(search_recipe)
    records, lines = table(search_recipe)
    assert [one["learning_rate"] for one in records] == [3e-3, 1e38]
    assert [one["failure"] is None for one in records] == [True, False]
    assert "The loss is not finite at step" in lines[-1]
    failed = folder.with_name("run-search") / "lr-1e+38_decay-1e-05_epochs-1"
    assert not (failed / "training").exists()
    if use_optuna:
        assert [one.state.name for one in study(search_recipe).trials] == ["FAIL", "COMPLETE"]
    untrained()
    assert search(search_recipe) == folder
    assert table(search_recipe) == (records, lines)
    with pytest.raises(ConfigError, match="whose training differs"):
        search(recipe_for(**grid, training={"warmup": 0.1}))


def test_a_search_whose_trials_all_fail_is_an_error(recipe_for):
    search_recipe = recipe_for(learning_rate=[1e37, 1e38], weight_decay=[1e-5], epochs=[1], training={"warmup": 0.0})
    with pytest.raises(ConfigError, match=r"All 2 trials failed: lower search\.learning_rate"):
        search(search_recipe)
    assert [one["metrics"] for one in table(search_recipe)[0]] == [{}, {}]
    assert not (search_recipe.output / "report.json").exists()


def test_predictions_that_are_not_finite_are_a_failure(recipe_for, monkeypatch):
    def run(recipe, *_):
        measured = {"metrics": {"validation": {"accuracy": {"value": math.nan}}}, "speed": {"training_seconds": 1.0}}
        (recipe.output / "report.json").write_text(json.dumps(measured))
        return recipe.output

    search_recipe = recipe_for(**RANGES, trials=2)
    monkeypatch.setattr(module, "run", run)
    with pytest.raises(ConfigError, match="All 2 trials failed"):
        search(search_recipe)
    assert [one.state.name for one in study(search_recipe).trials] == ["FAIL", "FAIL"]


@pytest.mark.slow
def test_trials_are_sampled_within_the_ranges_and_the_best_is_run(recipe_for, untrained):
    search_recipe = recipe_for(**RANGES, trials=4)
    folder = search(search_recipe)
    records, _ = table(search_recipe)
    assert len(set(settings(records))) == 4
    for rate, decay, epochs in settings(records):
        assert 1e-4 <= rate <= 3e-3
        assert 1e-6 <= decay <= 1e-4
        assert epochs in (1, 2)
    kept = study(search_recipe)
    assert [one.params for one in kept.trials] == [
        vars(OptunaSampler.setting(sampler_of(search_recipe), number)) for number in range(4)
    ]
    assert kept.best_value == records[0]["metrics"]["accuracy"]
    assert json.loads((folder / "report.json").read_text())["settings"]["training"]["epochs"] == records[0]["epochs"]
    untrained()
    assert search(search_recipe) == folder
    assert table(search_recipe)[0] == records


def sampler_of(recipe):
    return OptunaSampler(
        recipe.search, recipe.seeds[0], "accuracy", recipe.output.with_name(f"{recipe.output.name}-search")
    )


@pytest.mark.slow
def test_a_stopped_search_resumes_with_the_same_trials(recipe_for, monkeypatch):
    complete, parts = (recipe_for(name, **RANGES, trials=3) for name in ("complete", "parts"))
    search(complete)
    stops = 0
    monkeypatch.setattr(module, "StopRequest", lambda: Entered(4))
    while search(parts) is None:
        stops += 1
        assert stops < 20
    assert stops >= 3
    for one, other in zip(table(complete)[0], table(parts)[0], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


class Entered(StopAfter):
    """A stop request that does not handle signals."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing to restore."""


@pytest.mark.slow
def test_a_larger_number_of_trials_continues_from_the_finished_ones(recipe_for):
    fewer, more = (recipe_for(**RANGES, trials=count) for count in (1, 2))
    search(fewer)
    [first] = settings(table(fewer)[0])
    (fewer.output / "report.json").rename(fewer.output / "recipe.toml")  # so that the best may be another one
    for path in fewer.output.iterdir():
        path.unlink()
    search(more)
    assert first in settings(table(more)[0])
    assert len(study(more).trials) == 2


def sampled_settings(folder, score_of, seed=0, count=40, metric="accuracy"):
    """The sampled settings if each trial has the score of `score_of`."""
    sampler = OptunaSampler(Search(learning_rate=(1e-6, 1e-2), trials=count), seed, metric, folder)
    found = []
    for number in range(count):
        found.append(sampler.setting(number))
        assert sampler.setting(number) == found[-1]
        sampler.report(number, Trial(found[-1], {metric: score_of(found[-1])}, 1.0))
    return found


def test_samples_depend_on_seed_and_results_alone(tmp_path):
    def score_of(setting):
        return setting.learning_rate

    one, two = (sampled_settings(tmp_path / name, score_of, count=14) for name in ("one", "two"))
    assert one == two
    assert sampled_settings(tmp_path / "three", score_of, seed=1, count=3) != one[:3]
    other = sampled_settings(tmp_path / "four", lambda setting: -setting.learning_rate, count=14)
    assert other[:10] == one[:10]  # the first ten are random
    assert other[10:] != one[10:]


@pytest.mark.parametrize("metric", ["accuracy", "error"])
def test_samples_approach_good_settings(metric, tmp_path):
    def distance(setting):
        return abs(math.log(setting.learning_rate / 2e-5))

    found = sampled_settings(
        tmp_path, lambda one: distance(one) if metric == "error" else -distance(one), metric=metric
    )
    assert sum(map(distance, found[-10:])) < 0.7 * sum(map(distance, found[:10]))


def test_a_study_continues_with_other_rates_but_not_with_other_epochs(tmp_path):
    sampled_settings(tmp_path, lambda setting: setting.learning_rate, count=2)
    wider = OptunaSampler(Search(learning_rate=(1e-1, 1.0), trials=3), 0, "accuracy", tmp_path)
    assert wider.setting(1).learning_rate <= 1e-2
    assert wider.setting(2).learning_rate >= 1e-1
    wider.report(2, Trial(wider.setting(2), {"accuracy": 1.0}, 1.0))
    with pytest.raises(ConfigError, match=r"was sampled from other search\.epochs"):
        OptunaSampler(Search(epochs=(4,), trials=3), 0, "accuracy", tmp_path)


@pytest.mark.slow
def test_a_damaged_study_is_an_error_and_its_trials_are_in_their_folders(recipe_for, untrained):
    search_recipe = recipe_for(**RANGES, trials=2)
    folder = search(search_recipe)
    records, _ = table(search_recipe)
    path = folder.with_name("run-search") / "study.journal"
    path.write_text(path.read_text()[100:])
    with pytest.raises(CheckpointError, match=r"study\.journal is damaged"):
        search(search_recipe)
    path.unlink()
    untrained()
    assert search(search_recipe) == folder
    assert table(search_recipe)[0] == records


def test_a_single_value_is_used_unchanged(tmp_path):
    values = Search(learning_rate=(1.23456e-5,), weight_decay=(0.01,), epochs=(3,), trials=1)
    assert OptunaSampler(values, 0, "accuracy", tmp_path).setting(0) == Setting(1.23456e-5, 0.01, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight_decay": [0.0, 1e-5], "trials": 2}, "weight_decay holds 0, and trials are sampled by its logarithm"),
        ({"weight_decay": [-1e-5]}, "greater than or equal to 0"),
        ({"learning_rate": []}, "at least 1 item"),
        ({"trials": 0}, "greater than 0"),
    ],
)
def test_ranges_that_cannot_be_searched_are_refused(values, message, recipe_for):
    with pytest.raises(ConfigError, match=message):
        recipe_for(**values)


def test_missing_optuna_is_an_error_before_any_data_is_read(recipe_for, monkeypatch):
    monkeypatch.setattr(trials, "find_spec", lambda _: None)
    monkeypatch.setattr(module, "prepare", None)
    with pytest.raises(ConfigError, match=r"needs optuna: pip install .*\[search\]'"):
        search(recipe_for(trials=2))


def test_the_extra_installs_optuna():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["search"]
    assert extra[0] == "modernbert[finetune]"
    assert extra[1].startswith("optuna>=")
