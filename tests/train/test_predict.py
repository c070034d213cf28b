"""Predictions of fine-tuned folders, from Python and from the command line, for texts, tables and questions."""

import csv
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from labelled import predicted, recipe, report, sentences, write_lines
from modernbert import ChoiceAnswerer, Classifier, TokenClassifier
from modernbert.cli import app
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.train.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_pictures")


def predict(*arguments):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def chosen(model, tmp_path_factory):
    """A run on questions whose choices name the colour that one word tells, measured on what it was trained on."""
    base = tmp_path_factory.mktemp("choices")
    draw = np.random.default_rng(0)
    records = []
    for text, label in sentences(80, 1):
        order = [str(one) for one in draw.permutation(["red", "green", "blue"])]
        records.append({"question": text, "choices": order, "label": order.index(label)})
    data = {"train": str(write_lines(base / "x.jsonl", records)), "held_out": 0.0}
    data["test"] = data["train"]
    training = {"epochs": 30, "learning_rate": 2e-3}
    return finetune(recipe(model, base / "run", "choose", data=data, training=training))


@pytest.mark.slow
def test_the_right_choice_is_learned(chosen):
    assert report(chosen)["metrics"]["test"]["accuracy"]["value"] > 0.9


def test_choices_are_ranked_as_the_report_says(chosen):
    lines = predicted(chosen)
    answer = ChoiceAnswerer.from_pretrained(chosen, device="cpu")
    found = answer([line["question"] for line in lines], [line["choices"] for line in lines])
    for line, ranked in zip(lines, found, strict=True):
        assert ranked[0].index == line["predicted"]
        assert [one.probability for one in sorted(ranked, key=lambda one: one.index)] == pytest.approx(
            line["scores"], abs=1e-5
        )


def test_the_command_line_answers_questions_with_choices(chosen, tmp_path):
    lines = predicted(chosen)[:20]
    path = write_lines(
        tmp_path / "questions.jsonl", [{key: one[key] for key in ("question", "choices")} for one in lines]
    )
    answers = [one["answer"] for one in json.loads(predict("--file", path, "--model", chosen, "--json"))]
    assert answers == [one["choices"][one["predicted"]] for one in lines]
    assert sum(one["predicted"] == one["expected"] for one in lines) > 18
    told = next(one for one in lines if one["predicted"] == one["expected"])
    shown = predict(told["question"], "--choices", *told["choices"], "--model", chosen).splitlines()
    assert shown[0] == told["question"]
    assert shown[1].split()[1:] == [told["choices"][told["expected"]]]
    assert len(shown) == 4
    [found] = json.loads(predict("line", "--choices=a b", "-5", "--json", "--model", chosen))
    assert {one["text"] for one in found["choices"]} == {"a b", "-5"}


def test_choices_of_a_table_are_written_too(chosen, tmp_path):
    rows = [{"question": "the sea?", "choices": ["red", "blue"], "label": 0}]
    output = tmp_path / "out.jsonl"
    predict("--file", write_lines(tmp_path / "q.jsonl", rows), "--model", chosen, "--output", output)
    [found] = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert found["question"] == "the sea?"
    assert found["answer"] in ("red", "blue")


def test_a_model_without_a_trained_head_predicts_nothing(model, classified):
    with pytest.raises(CheckpointError, match="holds a ModernBertForMaskedLM and not a"):
        Classifier.from_pretrained(model)
    with pytest.raises(CheckpointError, match="not a ModernBertForTokenClassification"):
        TokenClassifier.from_pretrained(classified)


def test_the_command_line_predicts_and_names_mistakes(classified, chosen, model, tmp_path):
    found = json.loads(predict("the sea", "grass\tline", "--model", classified, "--json"))
    assert [one["label"] for one in found] == ["blue", "green"]
    assert "blue" in predict("the sea", "--model", classified)
    with pytest.raises(CheckpointError, match="predicts no labels"):
        predict("the sea", "--model", model)
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(ConfigError, match="--context is for a model that answers questions"):
        predict("who?", "--model", classified, "--context", tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="--choices is for a model that chooses answers"):
        predict("who?", "--choices", "one", "two", "--model", classified)
    with pytest.raises(ConfigError, match="Name the possible answers with --choices"):
        predict("who?", "--model", chosen)
    with pytest.raises(DataError, match="at least two choices"):
        predict("who?", "--choices", "one", "--model", chosen)
    with pytest.raises(DataError, match="There is no text"):
        predict("--choices", "one", "two", "--model", chosen)
    lines = write_lines(tmp_path / "x.jsonl", [{"question": "who?", "choices": ["one"]}])
    with pytest.raises(DataError, match=r"x\.jsonl:1: there must be a list of at least two choices"):
        predict("--file", lines, "--model", chosen)


READERS = [".csv", ".tsv", ".jsonl", ".parquet"]


def as_file(path, rows):
    """Rows as a file of the format that its name tells."""
    if path.suffix == ".jsonl":
        return write_lines(path, rows)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.mark.parametrize("ending", READERS)
def test_a_table_is_predicted_by_its_columns_and_its_labels_are_not_read(ending, classified, tmp_path):
    rows = [{"number": str(n), "text": text, "label": "red"} for n, text in enumerate(["the sea", "grass, a leaf"])]
    found = json.loads(predict("--file", as_file(tmp_path / f"new{ending}", rows), "--model", classified, "--json"))
    assert [one["text"] for one in found] == ["the sea", "grass, a leaf"]
    assert [one["label"] for one in found] == ["blue", "green"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_predictions_are_written_beside_the_rows(ending, classified, tmp_path):
    rows = [{"text": "the sea", "label": "red", "note": "a"}, {"text": "a leaf", "label": "green", "note": "b"}]
    output = tmp_path / f"labelled{ending}"
    predict("--file", as_file(tmp_path / "new.csv", rows), "--model", classified, "--output", output)
    written = {
        ".csv": lambda: list(csv.DictReader(output.read_text(encoding="utf-8").splitlines())),
        ".jsonl": lambda: [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()],
        ".parquet": lambda: parquet.read_table(output).to_pylist(),
    }[ending]()
    assert [one["note"] for one in written] == ["a", "b"]
    assert [one["label"] for one in written] == ["red", "green"]
    assert written[0]["predicted_label"] == "blue"
    scores = written[0]["scores"]
    assert max((json.loads(scores) if ending == ".csv" else scores).items(), key=lambda one: one[1])[0] == "blue"


def test_a_column_of_another_name_is_named_or_the_mistake_is(classified, tmp_path):
    file = as_file(tmp_path / "new.csv", [{"review": "the sea", "stars": "3"}])
    with pytest.raises(DataError, match=r"new\.csv:2: there is no text in a column text; it has review, stars\. Name"):
        predict("--file", file, "--model", classified)
    [found] = json.loads(predict("--file", file, "--model", classified, "--json", "--column", "text=review"))
    assert found["label"] == "blue"
    with pytest.raises(ConfigError, match="txt"):
        predict("--file", file, "--model", classified, "--column", "txt=review")
    with pytest.raises(ConfigError, match="must end in"):
        predict("--file", file, "--model", classified, "--output", tmp_path / "out.xlsx")
