"""Labelled data of another kind than the task is an error with the cause, and is not silently read as another kind."""

import json
import random

import pytest

from labelled import COLOURS, recipe, report, sentences, write_csv, write_lines
from modernbert import Classifier
from modernbert.errors import DataError
from modernbert.tasks.classify import ordered_labels
from modernbert.train.finetune import finetune
from modernbert.train.finetune_data import prepare, split

pytestmark = pytest.mark.usefixtures("no_pictures")


def prepared(model, folder, path, task="classify", **data):
    return prepare(recipe(model, folder / "run", task, data={"train": str(path), **data}))


@pytest.mark.parametrize("places", [1, 2, 4])
def test_numbers_as_classes_are_an_error_that_suggests_regress(places, model, tmp_path):
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


def test_vectors_of_zeros_and_ones_are_refused_even_if_each_has_both(model, tmp_path):
    records = [{"text": text, "label": [int(name == label) for name in COLOURS]} for text, label in sentences(60, 1)]
    with pytest.raises(DataError, match=r"x\.jsonl:1: label is \[.*\], which seems to have a 0 or 1 for each label"):
        prepared(model, tmp_path, write_lines(tmp_path / "x.jsonl", records), "multi-label")
    records = [{"text": text, "label": [0, 1] if label == "red" else [1, 0]} for text, label in sentences(60, 1)]
    with pytest.raises(DataError, match="Every training example has both labels, 0 and 1"):
        prepared(model, tmp_path, write_lines(tmp_path / "x.jsonl", records), "multi-label")


def test_a_class_in_two_unicode_forms_is_one_class(model, tmp_path):
    rows = [
        (text, {"red": "caf\u00e9", "green": "cafe\u0301", "blue": "tea"}[label]) for text, label in sentences(60, 1)
    ]
    task, _ = prepared(model, tmp_path, write_csv(tmp_path / "x.csv", rows))
    assert task.names == ("caf\u00e9", "tea")


def test_too_few_examples_are_an_error_with_the_number_of_different_texts(model, tmp_path):
    path = write_csv(tmp_path / "x.csv", [("the same line", "red")] * 40 + [("another line", "blue")])
    with pytest.raises(DataError, match=r"41 examples \(2 different texts, 2 labels\) are too few"):
        prepared(model, tmp_path, path)


def test_a_recipe_can_name_columns_of_a_conll_file_by_number(model, tmp_path):
    rows = "1\tAnna\tB-PER\tO\n2\tOsloer\tO\tB-LOC\n3\tx\tO\tO\n\n"
    (tmp_path / "x.conll").write_text(rows * 20)
    task, sets = prepared(model, tmp_path, tmp_path / "x.conll", "tokens", words=2, tags=4, held_out=0)
    assert (task.names, sets.train.examples[0].text) == (("LOC",), "Anna Osloer x")
    task, _ = prepared(model, tmp_path, tmp_path / "x.conll", "tokens", tags="3", held_out=0)
    assert task.names == ("PER",)


def test_special_tokens_in_texts_are_text_in_training_and_prediction(model, tmp_path):
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


def test_labels_are_ordered_by_number_where_all_are_numbers_and_otherwise_by_name():
    ones = {"0" * count + "1" for count in range(8)}
    assert ordered_labels(ones | {"-5", "10"}) == ("-5", *sorted(ones), "10")
    for names in ({"--5", "10", "2"}, {"-", "2"}, {"9" * 5000, "10"}, {"a", "10", "2"}):
        assert ordered_labels(names) == tuple(sorted(names))


def test_a_label_that_training_never_saw_is_told_with_its_line(model, csvs, tmp_path):
    other = write_csv(tmp_path / "other.csv", [("grass", "green"), ("sea", "violet")])
    with pytest.raises(DataError, match=r"other\.csv:3: the label 'violet'"):
        finetune(recipe(model, tmp_path / "run", data=csvs | {"validation": str(other)}))


def test_wrong_examples_are_left_out_and_counted_if_asked_for(model, tmp_path):
    path = write_csv(tmp_path / "x.csv", [*sentences(60, 1), ("", "red"), ("sea", "")])
    with pytest.raises(DataError, match=r"x\.csv:62: text is empty"):
        finetune(recipe(model, tmp_path / "run", data={"train": str(path)}, training={"epochs": 1}))
    options = {"data": {"train": str(path)}, "skip_bad": True, "training": {"epochs": 1}}
    folder = finetune(recipe(model, tmp_path / "other", **options))
    assert sum(report(folder)["sets"]["train"]["left_out"].values()) == 2


def test_truncated_texts_are_counted(model, tmp_path):
    path = write_csv(tmp_path / "x.csv", [*sentences(40, 1), *[(f"fire {'line ' * 300}", "red")] * 3])
    options = {"data": {"train": str(path), "held_out": 0.0}, "training": {"epochs": 1}}
    folder = finetune(recipe(model, tmp_path / "run", **options))
    assert report(folder)["sets"]["train"]["truncated"] == 3


def test_a_split_holds_out_of_every_class_and_never_parts_equal_texts(model, tmp_path):
    rows = [*sentences(300, 1), *[("fire", "red")] * 20]
    data = {"train": str(write_csv(tmp_path / "x.csv", rows)), "held_out": 0.2}
    task, sets = prepare(recipe(model, tmp_path / "run", data=data))
    train, held = sets.train.examples, sets.validation.examples
    assert not {one.text for one in train} & {one.text for one in held}
    for name in task.names:
        share = sum(one.label == name for one in held) / sum(one.label == name for one in [*train, *held])
        assert 0.1 < share < 0.3
    with pytest.raises(DataError, match="too few to hold some out"):
        split(task, train[:1], 0.2)


@pytest.mark.parametrize("task", ["classify", "multi-label", "tokens"])
def test_training_has_every_label_wherever_its_examples_lie(task, model, tmp_path):
    """Each example is in its turn the only one with a label; a held-out part has what training has."""

    def labels(number, rare):
        label = "rare" if number // 2 == rare else "often"  # two records of each text
        if task == "classify":  # the second of two equal texts goes where the first does, whatever its label
            return label if number % 2 else ("one", "other")[number % 4 // 2]
        return ["often", label] if task == "multi-label" else [[0, 4, label]]

    column = "entities" if task == "tokens" else "label"
    held_out = []
    for rare in range(20):
        records = [{"text": f"word {number // 2}", column: labels(number, rare)} for number in range(40)]
        data = {"train": str(write_lines(tmp_path / f"{rare}.jsonl", records)), "held_out": 0.2}
        chosen = recipe(model, tmp_path / "run", task, data=data)
        own, sets = prepare(chosen)
        trained, held = ([one.text for one in part.examples] for part in (sets.train, sets.validation))
        assert {"rare", "often"} <= set(own.names)  # which are those of the training set
        assert not set(trained) & set(held)
        assert len(trained) + len(held) == 40
        assert 2 <= len(held) <= 8
        assert held == [one.text for one in prepare(chosen)[1].validation.examples]
        held_out.append(frozenset(held))
    assert len(set(held_out)) > 1  # some of them had to go back
