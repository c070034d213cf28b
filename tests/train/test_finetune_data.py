"""Labelled data of another kind than the task says: one sentence with the cause, and no silent other reading."""

import json
import random

import pytest

from corpora import make_model
from labelled import COLOURS, recipe, sentences, write_csv, write_lines
from modernbert import Classifier
from modernbert.errors import DataError
from modernbert.train.finetune import finetune
from modernbert.train.finetune_data import prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def prepared(model, folder, path, task="classify", **data):
    return prepare(recipe(model, folder / "run", task, data={"train": str(path), **data}))


@pytest.mark.parametrize("places", [1, 2, 4])
def test_numbers_that_are_to_be_classes_are_told_with_the_task_for_numbers(places, model, tmp_path):
    draw = random.Random(0)
    rows = [(f"number line {number}", round(draw.uniform(1, 9), places)) for number in range(120)]
    path = write_csv(tmp_path / "x.csv", rows)
    with pytest.raises(DataError, match=r"The labels are \d+ different numbers, such as .*task = \"regress\""):
        prepared(model, tmp_path, path)
    prepared(model, tmp_path, path, "regress")
    path = write_lines(tmp_path / "x.jsonl", [{"text": text, "label": label + 0.5} for text, label in rows])
    with pytest.raises(DataError, match=r"and should be a label; numbers are learned with task = \"regress\""):
        prepared(model, tmp_path, path)


def test_classes_that_look_like_numbers_stay_classes(model, tmp_path):
    rows = [(f"line {number}", number % 5) for number in range(100)]
    rows += [(f"version {number}", f"{number % 3}.5") for number in range(100)]
    task, _ = prepared(model, tmp_path, write_csv(tmp_path / "x.csv", rows))
    assert task.names == ("0", "0.5", "1", "1.5", "2", "2.5", "3", "4")


def test_lists_of_labels_in_a_csv_are_learned_as_labels(model, tmp_path):
    rows = [
        (text, f"['{label}']" if number % 2 else str([label, "other"]))
        for number, (text, label) in enumerate(sentences(90, 1))
    ]
    task, sets = prepared(model, tmp_path, write_csv(tmp_path / "x.csv", rows), "multi-label")
    assert task.names == ("blue", "green", "other", "red")
    assert {len(example.label) for example in sets.train.examples} == {1, 2}


def test_vectors_of_zeros_and_ones_are_refused_also_where_each_has_one_of_both(model, tmp_path):
    records = [{"text": text, "label": [int(name == label) for name in COLOURS]} for text, label in sentences(60, 1)]
    with pytest.raises(DataError, match=r"x\.jsonl:1: label is \[.*\], which seems to say for each label"):
        prepared(model, tmp_path, write_lines(tmp_path / "x.jsonl", records), "multi-label")
    records = [{"text": text, "label": [0, 1] if label == "red" else [1, 0]} for text, label in sentences(60, 1)]
    with pytest.raises(DataError, match="Every training example has both labels, 0 and 1"):
        prepared(model, tmp_path, write_lines(tmp_path / "x.jsonl", records), "multi-label")


def test_a_class_is_learned_once_and_predicted_composed(model, tmp_path):
    rows = [
        (text, {"red": "caf\u00e9", "green": "cafe\u0301", "blue": "tea"}[label]) for text, label in sentences(60, 1)
    ]
    task, _ = prepared(model, tmp_path, write_csv(tmp_path / "x.csv", rows))
    assert task.names == ("caf\u00e9", "tea")


def test_too_few_examples_say_how_many_different_ones_there_are(model, tmp_path):
    path = write_csv(tmp_path / "x.csv", [("the same line", "red")] * 40 + [("another line", "blue")])
    with pytest.raises(DataError, match=r"41 examples \(2 different texts, 2 labels\) are too few"):
        prepared(model, tmp_path, path)


def test_columns_of_a_conll_file_are_named_by_number_in_a_recipe(model, tmp_path):
    rows = "1\tAnna\tB-PER\tO\n2\tOsloer\tO\tB-LOC\n3\tx\tO\tO\n\n"
    (tmp_path / "x.conll").write_text(rows * 20)
    task, sets = prepared(model, tmp_path, tmp_path / "x.conll", "tokens", words=2, tags=4, held_out=0)
    assert (task.names, sets.train.examples[0].text) == (("LOC",), "Anna Osloer x")
    task, _ = prepared(model, tmp_path, tmp_path / "x.conll", "tokens", tags="3", held_out=0)
    assert task.names == ("PER",)


def test_special_tokens_in_texts_are_text_in_training_and_in_use(model, tmp_path):
    rows = [(f"{text} [MASK] {word}", label) for text, label in sentences(60, 1) for word in ("[SEP]", "[CLS]")]
    folder = finetune(
        recipe(
            model, tmp_path / "run", data={"train": str(write_csv(tmp_path / "x.csv", rows))}, training={"epochs": 1}
        )
    )
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    classify = Classifier.from_pretrained(folder, device="cpu")
    for line, scores in zip(lines, classify([line["text"] for line in lines]), strict=True):
        assert {one.label: pytest.approx(one.score, abs=1e-5) for one in scores} == line["scores"]
    _, sets = prepared(model, tmp_path, tmp_path / "x.csv")
    ids = sets.train.items[0].sequences[0].tolist()
    assert (
        ids.count(classify.tokenizer.token_to_id("[SEP]")),
        ids.count(classify.tokenizer.token_to_id("[MASK]")),
    ) == (1, 0)
