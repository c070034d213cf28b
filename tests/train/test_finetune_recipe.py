"""Recipes of fine-tuning: files that are one by themselves, overrides, and those that do not fit."""

import tomllib
from pathlib import Path

import pytest

from labelled import recipe
from modernbert.config import parse
from modernbert.errors import ConfigError
from modernbert.text.records import Source
from modernbert.train.finetune import PACKAGES, finetune
from modernbert.train.finetune_recipe import FinetuneRecipe, read_recipe

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_labelled_texts_are_a_recipe_of_themselves(model, csvs, tmp_path):
    found = read_recipe(Path(csvs["train"]), [f"model={model}", "training.epochs=2"])
    assert found == parse(
        FinetuneRecipe,
        {
            "task": "classify",
            "model": str(model),
            "output": "output/train",
            "data": {"train": csvs["train"]},
            "training": {"epochs": 2},
        },
        "a test",
    )
    with pytest.raises(ConfigError, match=r"There is no file .*nothing\.csv"):
        read_recipe(tmp_path / "nothing.csv")
    with pytest.raises(ConfigError, match=r"There is no recipe .*nothing\.toml"):
        read_recipe(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("name", "task"),
    [("ok.ndjson", "classify"), ("ok.csv.gz", "classify"), ("ok.JSONL.ZST", "classify"), ("ok.iob2", "tokens")],
)
def test_every_file_whose_name_tells_its_format_is_a_recipe_of_itself(name, task, tmp_path):
    (tmp_path / name).touch()
    found = read_recipe(tmp_path / name)
    assert (found.task, found.output, found.data.train.path) == (task, Path("output/ok"), str(tmp_path / name))


def test_overrides_reach_into_a_source_that_is_a_path(model, csvs, tmp_path):
    changes = ["data.train.delimiter=;", "data.train.limit=3"]
    found = read_recipe(Path(csvs["train"]), changes)
    assert found.data.train == Source(path=csvs["train"], delimiter=";", limit=3)
    with pytest.raises(ConfigError, match=r"delimitre is not a known key; did you mean 'data\.train\.delimiter'"):
        read_recipe(Path(csvs["train"]), ["data.train.delimitre=;"])
    with pytest.raises(
        ConfigError, match=r"learning_rate is not a known key; did you mean 'training\.learning_rate' or"
    ):
        read_recipe(Path(csvs["train"]), ["learning_rate=3"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 4096}, "reads 128 tokens"),
        ({"training": {"metric": "rouge"}}, "choose one of accuracy"),
        ({"training": {"class_weights": {"pink": 2.0}}}, "'pink', which is not one of blue, green, red"),
        ({"training": {"freeze_layers": 3}}, "has 2 layers"),
        ({"training": {"epochs": 1, "learning_rate": 1e38, "warmup": 0.0}}, "not finite"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_sentence(changes, message, model, csvs, tmp_path):
    with pytest.raises(ConfigError, match=message):
        finetune(recipe(model, tmp_path / "run", data=csvs, **changes))


def test_the_extra_brings_what_is_asked_for():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert "modernbert[plot]" in extras["finetune"]
    brought = " ".join([*extras["finetune"], *extras["plot"]])
    assert all(f"{package}>=" in brought for package in PACKAGES)


def test_a_missing_package_is_told_before_anything_is_read(model, monkeypatch, tmp_path):
    monkeypatch.setattr("modernbert.train.finetune.PACKAGES", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install .*\[finetune\]'"):
        finetune(recipe(model, tmp_path / "run", data={"train": "nowhere.csv"}))
