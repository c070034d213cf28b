"""The table of tasks: modules are imported when used, and a new task needs one file, one line and one recipe."""

import json
import subprocess
import sys
import tomllib

import pytest

from corpora import make_model
from docs.test_docs import ROOT, blocks
from labelled import sentences, write_csv
from modernbert.config import dump, load, parse
from modernbert.errors import ConfigError
from modernbert.model.folder import read_architecture, read_config
from modernbert.tasks.kinds import KINDS, Kind, kind_of_model, predictor_class, task_class, trainable_tasks
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.task import Task
from modernbert.train.finetune import finetune
from modernbert.train.finetune_recipe import FinetuneRecipe

pytestmark = pytest.mark.usefixtures("no_pictures")
PAGE = ROOT / "docs" / "contributing.md"


@pytest.mark.parametrize("name", trainable_tasks())
def test_a_task_has_its_name_in_the_table(name):
    assert issubclass(task_class(name), Task)
    assert task_class(name).name == name


@pytest.mark.parametrize("name", KINDS)
def test_a_predictor_loads_what_its_task_trains(name):
    predictor = predictor_class(name)
    assert issubclass(predictor, Predictor)
    if name in trainable_tasks():
        assert predictor.kind is task_class(name).head


def test_the_table_imports_no_torch():
    code = "import sys; from modernbert.tasks.kinds import KINDS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_new_task_needs_one_file_one_line_and_one_recipe(tmp_path, monkeypatch):
    """The example of the documentation, with other paths."""
    [code], [text] = blocks(PAGE, "python"), blocks(PAGE, "toml")
    (tmp_path / "rate.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert '"rate": Kind("modernbert.tasks.rate.Rate", "modernbert.tasks.rate.Rater"),' in PAGE.read_text()
    monkeypatch.setitem(KINDS, "rate", Kind("rate.Rate", "rate.Rater"))
    stars = {"red": 1, "green": 3, "blue": 4}
    rows = [(words, stars[colour]) for words, colour in sentences(160, 1)]
    values = tomllib.loads(text)
    values["model"], values["output"] = str(make_model(tmp_path)), str(tmp_path / "run")
    values["data"]["train"] = str(write_csv(tmp_path / values["data"]["train"], rows, ("review", "stars")))
    values |= {"training": {"epochs": 6, "learning_rate": 3e-3, "batch_examples": 16}, "machine": {"device": "cpu"}}
    folder = finetune(parse(FinetuneRecipe, values, "the page"))
    report = json.loads((folder / "report.json").read_text())["metrics"]["validation"]
    assert report["spearman"]["value"] > 0.9
    assert kind_of_model(read_architecture(folder), read_config(folder)) == "rate"
    predicted = predictor_class("rate").from_pretrained(folder, device="cpu")(["fire", "grass", "sky"])
    assert predicted == pytest.approx([1, 3, 4], abs=0.5)


def values(task="classify", **data):
    return {"task": task, "model": "m", "output": "out", "data": {"train": "x.csv", **data}}


def test_a_recipe_has_only_the_columns_of_its_task():
    recipe = parse(FinetuneRecipe, values("answer", question="ask"), "x")
    assert recipe.data.columns.question == "ask"
    with pytest.raises(ConfigError, match=r"data\.spans is not a known key"):
        parse(FinetuneRecipe, values(spans="marks"), "x")
    with pytest.raises(ConfigError, match=r'several columns are for task = "multi-label"'):
        parse(FinetuneRecipe, values(label=["a", "b"]), "x")
    assert parse(FinetuneRecipe, values("multi-label", label=["a", "b"]), "x").data.columns.label == ("a", "b")


def test_the_recipe_of_an_older_run_equals_the_new_one(tmp_path):
    """Older versions wrote the columns of every task, with their defaults."""
    recipe = parse(FinetuneRecipe, values(text="body"), "x")
    old = {"spans": "entities", "joined_by": " ", "inside_words": False, "question": "question", "context": "context"}
    old |= {"answers": "answers", "identifier": "id", "choices": "choices"}
    assert parse(FinetuneRecipe, values(text="body", **old), "x") == recipe
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    assert load(FinetuneRecipe, tmp_path / "recipe.toml") == recipe


def test_an_unknown_task_is_an_error():
    with pytest.raises(ConfigError, match=r"There is no task 'sort' .* choose one of classify, multi-label"):
        parse(FinetuneRecipe, values("sort"), "x")
    with pytest.raises(ConfigError, match="There is no task 'fill-mask' to fine-tune for"):
        task_class("fill-mask")
