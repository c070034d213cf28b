"""The evaluation of a trained folder gives the metrics of its report."""

import json

import pytest
from typer.testing import CliRunner

from corpora import make_model
from labelled import recipe, sentences, write_csv, write_lines
from modernbert.cli import app
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.evaluate.folder import measure_folder
from modernbert.train.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def texts(folder):
    rows = {name: sentences(count, seed) for name, count, seed in (("train", 120, 1), ("test", 40, 2))}
    return {name: write_csv(folder / f"{name}.csv", found, ("sentence", "label")) for name, found in rows.items()}


def entities(folder):
    files = {}
    for name, count, seed in (("train", 100, 1), ("test", 30, 2)):
        records = [
            {"words": text.split(), "tags": ["B-X" if word in ("fire", "sea") else "O" for word in text.split()]}
            for text, _ in sentences(count, seed)
        ]
        files[name] = write_lines(folder / f"{name}.jsonl", records)
    return files


def questions(folder):
    files = {}
    for name, count, seed in (("train", 60, 1), ("test", 20, 2)):
        records = [
            {
                "id": str(number),
                "question": "who?",
                "context": f"{text} Anna {text}",
                "answers": [{"text": "Anna", "answer_start": len(text) + 1}],
            }
            for number, (text, _) in enumerate(sentences(count, seed))
        ]
        files[name] = write_lines(folder / f"{name}.jsonl", records)
    return files


def numbers(folder):
    rows = {name: sentences(count, seed) for name, count, seed in (("train", 100, 1), ("test", 30, 2))}
    return {
        name: write_csv(folder / f"{name}.csv", [(text, 100 + 7 * len(text)) for text, _ in found])
        for name, found in rows.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "make", "more"),
    [
        ("classify", texts, {"text": "sentence"}),
        ("tokens", entities, {}),
        ("answer", questions, {}),
        ("regress", numbers, {}),
    ],
)
def test_a_folder_is_measured_as_its_report_measures_it(task, make, more, model, tmp_path):
    files = make(tmp_path)
    data = {name: str(path) for name, path in files.items()} | more
    folder = finetune(recipe(model, tmp_path / "run", task, data=data, training={"epochs": 3}))
    report = json.loads((folder / "report.json").read_text())["metrics"]["test"]
    command = ["evaluate", "folder", str(folder), str(files["test"]), "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--predictions", str(tmp_path / "found.jsonl"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {name: one["value"] for name, one in found["metrics"].items()} == {
        name: pytest.approx(one["value"], abs=1e-4) for name, one in report.items()
    }
    lines = (tmp_path / "found.jsonl").read_text().splitlines()
    assert len(lines) == found["examples"]
    if task == "classify":
        assert "accuracy" in CliRunner().invoke(app, command).stdout
        write_csv(tmp_path / "other.csv", [("a fire", "violet")], ("sentence", "label"))
        with pytest.raises(DataError, match=r"other\.csv:2: the label 'violet' is not one of blue, green, red"):
            measure_folder(folder, tmp_path / "other.csv", device="cpu")
        write_csv(tmp_path / "named.csv", sentences(20, 3))
        assert len(measure_folder(folder, tmp_path / "named.csv", ["data.text=text"], device="cpu").results) == 20
        (folder / "recipe.toml").unlink()
        usual = measure_folder(folder, files["test"], ["data.text=sentence"], device="cpu")
        assert usual.metrics["accuracy"].value == pytest.approx(report["accuracy"]["value"], abs=1e-4)
        with pytest.raises(ConfigError, match="does not show its format"):
            measure_folder(folder, tmp_path / "x.data", device="cpu")


def test_a_folder_without_a_trained_head_is_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="holds no model for the task"):
        measure_folder(model, write_csv(tmp_path / "x.csv", sentences(5, 1)), device="cpu")
