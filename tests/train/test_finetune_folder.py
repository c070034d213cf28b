"""The output folder of a run: other files are never lost, and results of other data are never used."""

import json
import shutil

import pytest

from labelled import recipe, report, sentences, write_csv
from modernbert import config as toml
from modernbert.errors import ConfigError, DataError
from modernbert.train.finetune import Finetuning, finetune
from modernbert.train.finetune_folder import claim_folder, input_hashes
from modernbert.train.search import search

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def complete(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    texts = write_csv(folder / "texts.csv", sentences(60, 1))
    finetune(recipe(model, folder / "run", data={"train": str(texts)}, training={"epochs": 1}))
    return folder


def test_a_recipe_and_data_in_the_output_folder_are_never_overwritten(model, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    texts = write_csv(project / "texts.csv", sentences(60, 1))
    written = f"# mine\ntask = 'classify'\nmodel = '{model}'\noutput = '{project}'\ndata.train = '{texts}'\n"
    (project / "recipe.toml").write_text(written)
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        finetune(recipe(model, project, data={"train": str(texts)}))
    texts.rename(tmp_path / "texts.csv")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):  # also with a recipe of the user alone
        finetune(recipe(model, project, data={"train": str(tmp_path / "texts.csv")}))
    assert (project / "recipe.toml").read_text() == written


def test_files_added_to_the_folder_during_a_run_stay(model, tmp_path, monkeypatch):
    texts = write_csv(tmp_path / "texts.csv", sentences(60, 1))
    run = tmp_path / "run"
    result = Finetuning.result

    def slowly(self, trained):
        (run / "notes.txt").write_text("mine")
        (run / "drawings").mkdir()
        (run / "drawings" / "one.txt").write_text("mine, too")
        return result(self, trained)

    monkeypatch.setattr(Finetuning, "result", slowly)
    finetune(recipe(model, run, data={"train": str(texts)}, training={"epochs": 1}))
    assert (run / "report.json").exists()
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "drawings" / "one.txt").read_text() == "mine, too"
    assert not (run / "training").exists()


def test_a_run_with_changed_data_is_refused(complete, model):
    chosen = recipe(model, complete / "run", data={"train": str(complete / "texts.csv")}, training={"epochs": 1})
    assert finetune(chosen) == complete / "run"
    report = (complete / "run" / "report.json").read_text()
    before = (complete / "texts.csv").read_bytes()
    try:
        write_csv(complete / "texts.csv", sentences(60, 2))
        with pytest.raises(ConfigError, match="whose train changed since"):
            finetune(chosen)
        assert (complete / "run" / "report.json").read_text() == report
    finally:
        (complete / "texts.csv").write_bytes(before)
    assert finetune(chosen) == complete / "run"


def test_a_run_with_a_changed_model_is_refused(complete, model, tmp_path):
    start = tmp_path / "model"
    shutil.copytree(model, start)
    chosen = recipe(start, tmp_path / "run", data={"train": str(complete / "texts.csv")}, training={"epochs": 1})
    finetune(chosen)
    (start / "model.safetensors").write_bytes((start / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(ConfigError, match="whose model changed since"):
        finetune(chosen)


def test_a_run_whose_models_modules_changed_is_refused(complete, model, tmp_path):
    start = tmp_path / "model"
    shutil.copytree(model, start)
    (start / "1_Pooling").mkdir()
    (start / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    chosen = recipe(start, tmp_path / "run", data={"train": str(complete / "texts.csv")}, training={"epochs": 1})
    before = input_hashes(chosen)
    (start / "1_Pooling" / "config.json").write_text('{"pooling_mode_last_token": true}')
    assert [name for name in before if input_hashes(chosen)[name] != before[name]] == ["modules of the model"]


def test_every_set_and_the_model_have_their_hashes(model, tmp_path):
    paths = {name: write_csv(tmp_path / f"{name}.csv", sentences(5, seed)) for seed, name in enumerate(("a", "b"))}
    chosen = recipe(model, tmp_path / "run", data={"train": str(paths["a"]), "test": str(paths["b"])})
    hashes = input_hashes(chosen)
    assert hashes.keys() == {"train", "test", "model"}
    assert hashes["train"] != hashes["test"]
    claim_folder(chosen)
    assert json.loads((tmp_path / "run" / "inputs.json").read_text()) == hashes
    assert toml.load(type(chosen), tmp_path / "run" / "recipe.toml") == chosen
    claim_folder(chosen)  # the run has not started, so the folder may be claimed again


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_an_output_without_a_name_is_refused(output, model):
    with pytest.raises(ConfigError, match="name a new folder"):
        recipe(model, output, data={"train": "texts.csv"})


@pytest.mark.parametrize("done", [False, True])
def test_overwrite_of_a_search_removes_only_its_own_files(done, complete, model, tmp_path, monkeypatch):
    chosen = recipe(
        model, tmp_path / "run", data={"train": str(complete / "texts.csv")}, training={"epochs": 1},
        search={"learning_rate": [1e-3], "weight_decay": [1e-5], "epochs": [1]},
    )  # fmt: skip
    trial = tmp_path / "run-search" / "lr-0.001_decay-1e-05_epochs-1"
    if done:
        search(chosen)
        assert (trial / "report.json").exists()
    else:
        claim_folder(chosen.model_copy(update={"output": trial}))
    notes = (tmp_path / "run-search" / "notes.txt", trial / "notes.txt", tmp_path / "run-search" / "mine" / "a.txt")
    for path in notes:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    monkeypatch.setattr("modernbert.train.search.prepare", lambda _: 1 / 0)  # the search starts
    with pytest.raises(ZeroDivisionError):
        search(chosen, overwrite=True)
    monkeypatch.undo()
    left = [path for path in (tmp_path / "run-search").rglob("*") if path.is_file()]
    assert sorted(left) == sorted(notes)
    if done:
        return
    claim_folder(chosen.model_copy(update={"output": trial}), shared=True)
    search(chosen, overwrite=True)
    assert (trial / "report.json").exists()
    assert all(path.read_text() == "mine" for path in notes)


def test_a_search_checks_before_its_trials_that_its_run_can_replace_the_folder(complete, model, tmp_path):
    changes = {"search": {"learning_rate": [1e-3], "weight_decay": [1e-5], "epochs": [1]}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    chosen = recipe(model, tmp_path / "run", data={"train": str(complete / "texts.csv")}, **changes)
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        search(chosen, overwrite=True)
    assert not (tmp_path / "run-search").exists()


def test_a_search_checks_its_output_before_the_first_trial(complete, model):
    changes = {"search": {"learning_rate": [1e-3], "weight_decay": [1e-5], "epochs": [1]}}
    chosen = recipe(model, complete / "run", data={"train": str(complete / "texts.csv")}, **changes)
    with pytest.raises(ConfigError, match="is not empty, and the run of the best setting would be there"):
        search(chosen)
    assert not (complete / "run-search").exists()


def test_a_mended_recipe_runs_in_the_same_folder(model, csvs, tmp_path):
    with pytest.raises(DataError, match="sentiment"):
        finetune(recipe(model, tmp_path / "run", data=csvs | {"label": "sentiment"}))
    with pytest.raises(ConfigError, match="has 2 layers"):
        finetune(recipe(model, tmp_path / "run", data=csvs, training={"freeze_layers": 3}))
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 1}))
    assert report(folder)["settings"]["training"]["epochs"] == 1


def test_a_folder_of_something_else_is_refused(model, csvs, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        finetune(recipe(model, tmp_path, data=csvs))


def test_a_run_is_replaced_where_that_is_asked_for_and_nothing_else_is(model, csvs, tmp_path):
    first = finetune(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 1}))
    (first / "notes.txt").write_text("mine")
    other = recipe(model, tmp_path / "run", data=csvs, training={"epochs": 2})
    with pytest.raises(ConfigError, match=r"whose training differs .*--overwrite"):
        finetune(other)
    assert finetune(other, overwrite=True) == first
    assert report(first)["settings"]["training"]["epochs"] == 2
    assert (first / "notes.txt").read_text() == "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.toml").write_text("# mine\n")
    with pytest.raises(ConfigError, match="is not the recipe of a run, so nothing is overwritten"):
        finetune(recipe(model, tmp_path / "mine", data=csvs), overwrite=True)
    assert (tmp_path / "mine" / "recipe.toml").read_text() == "# mine\n"
