"""Fine-tuning from files to a folder with a report, for every task."""

import csv
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from typer.testing import CliRunner

from corpora import make_model
from labelled import StopAfter, recipe, sentences, write_csv, write_lines
from modernbert import ChoiceAnswerer, Classifier, QuestionAnswerer, TokenClassifier
from modernbert.cli import app
from modernbert.config import dump, parse
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.model import SequenceClassifier
from modernbert.run_metrics import Metrics
from modernbert.tasks.classify import ordered_labels
from modernbert.text.records import Source
from modernbert.train.distributed import Processes
from modernbert.train.epochs import dropout_seed, freeze, layer_groups, schedule_factor
from modernbert.train.finetune import PACKAGES, Finetuning, finetune, run
from modernbert.train.finetune_data import prepare, split
from modernbert.train.finetune_recipe import FinetuneRecipe, Training, read_recipe

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def csvs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        "train": str(write_csv(folder / "train.csv", sentences(200, 1))),
        "test": str(write_csv(folder / "test.csv", sentences(60, 2))),
    }


def report(folder):
    return json.loads((folder / "report.json").read_text())


def predicted(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.fixture(scope="module")
def classified(model, csvs, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "run"
    return finetune(recipe(model, output, data=csvs, seeds=[3], training={"epochs": 12}))


def test_a_two_column_csv_gives_a_classifier_and_a_report(classified):
    found = report(classified)
    assert found["metrics"]["test"]["accuracy"]["value"] == 1.0
    assert found["metrics"]["test"]["accuracy"]["baseline"] < 0.6
    assert found["sets"]["train"]["examples"] + found["sets"]["validation"]["examples"] == 200
    for name in ("confusion.png", "learning-curve.png"):
        assert (classified / name).read_bytes().startswith(b"\x89PNG")
    text = (classified / "report.md").read_text()
    assert "accuracy" in text
    assert "learning_rate" in text
    assert not (classified / "training").exists()


def test_the_report_is_that_of_the_predictions(classified):
    lines = predicted(classified)
    right = sum(line["expected"] == line["predicted"] for line in lines) / len(lines)
    assert report(classified)["metrics"]["test"]["accuracy"]["value"] == right
    assert all(line["predicted"] == max(line["scores"], key=line["scores"].get) for line in lines)
    assert all(sum(line["scores"].values()) == pytest.approx(1, abs=1e-5) for line in lines)


def test_the_folder_predicts_what_the_report_says_here_and_in_transformers(classified):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    lines = predicted(classified)
    scores = Classifier.from_pretrained(classified, device="cpu")([line["text"] for line in lines])
    theirs, tokenizer = (
        kind.from_pretrained(classified) for kind in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    for line, found in zip(lines, scores, strict=True):
        assert {one.label: one.score for one in found} == pytest.approx(line["scores"], abs=1e-5)
        with torch.no_grad():
            logits = theirs(**tokenizer(line["text"], return_tensors="pt")).logits[0]
        assert theirs.config.id2label[int(logits.argmax())] == line["predicted"]
        assert float(logits.softmax(-1).max()) == pytest.approx(found[0].score, abs=1e-5)


def test_a_complete_run_is_left_alone_and_another_recipe_refused(classified, model, csvs):
    before = (classified / "model.safetensors").stat().st_mtime_ns
    assert finetune(recipe(model, classified, data=csvs, seeds=[3], training={"epochs": 12})) == classified
    assert (classified / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="whose training differs"):
        finetune(recipe(model, classified, data=csvs, seeds=[3], training={"epochs": 9}))


def test_an_interrupted_run_ends_with_the_same_bits(model, csvs, tmp_path):
    options = {"data": csvs, "training": {"epochs": 3, "dropout": 0.3, "evaluations_per_epoch": 2}}
    whole = finetune(recipe(model, tmp_path / "whole", **options))
    stops = 0
    while (found := run(recipe(model, tmp_path / "parts", **options), StopAfter(13))) is None:
        stops += 1
        assert stops < 20
    assert stops >= 2
    assert same(whole, found)
    assert predicted(whole) == predicted(found)


@pytest.mark.slow
def test_a_seed_decides_everything(model, csvs, tmp_path):
    one, two, three = (
        finetune(recipe(model, tmp_path / name, data=csvs, seed=seed, training={"epochs": 1}))
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert same(one, two)
    assert not same(one, three)


def test_the_largest_seed_trains(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, seed=2**63 - 1, training={"epochs": 1}))
    assert (folder / "model.safetensors").exists()


def test_no_two_seeds_or_processes_share_the_dropout_of_a_step():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**62, 2**63 - 1]
    found = [dropout_seed(seed, step, rank) for seed in seeds for step in (1, 2, 10**6) for rank in (0, 1, 7)]
    assert len(set(found)) == len(found)
    assert all(0 <= number < 2**64 for number in found)
    assert dropout_seed(7, 3) == (7 << 32) + 3  # as runs before had it


def test_microbatches_do_not_change_what_is_learned(model, csvs, tmp_path):
    options = {"data": csvs, "training": {"epochs": 1, "learning_rate": 1e-4, "class_weights": "balanced"}}
    whole = finetune(recipe(model, tmp_path / "whole", **options))
    parts = finetune(recipe(model, tmp_path / "parts", **options, machine={"device": "cpu", "microbatch_tokens": 40}))
    for name, x in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], x, atol=2e-4, rtol=0)


def test_several_seeds_are_all_reported_and_the_best_is_kept(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, seeds=[1, 2], training={"epochs": 2}))
    found = report(folder)
    assert len(found["metrics"]["test"]["accuracy"]["seeds"]) == 2
    values = found["metrics"]["validation"]["accuracy"]["seeds"]
    assert values[found["seeds"].index(found["best_seed"])] == max(values)
    assert " ± " in (folder / "report.md").read_text()


def test_training_ends_early_without_improvement_and_the_best_is_kept(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 40, "patience": 2}))
    found = report(folder)
    assert found["steps"] < 40 * 12
    assert found["best_step"] < found["steps"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["validation"]["accuracy"] for line in lines if "validation" in line}
    assert scores[found["best_step"]] == max(scores.values())


@pytest.mark.slow
def test_numbers_of_any_size_are_learned_and_come_back_as_such(model, tmp_path):
    worth = {"red": 1000.0, "green": 3000.0, "blue": 8000.0}
    rows = [(text, worth[label]) for text, label in sentences(200, 1)]
    data = {"train": str(write_csv(tmp_path / "x.csv", rows, ("text", "price"))), "label": "price"}
    folder = finetune(recipe(model, tmp_path / "run", "regress", data=data, training={"metric": "error"}))
    found = report(folder)["metrics"]["validation"]
    assert found["pearson"]["value"] > 0.95
    assert found["error"]["value"] < 0.2 * found["error"]["baseline"]
    classifier = Classifier.from_pretrained(folder, device="cpu")
    for line in predicted(folder)[:5]:
        [number] = classifier(line["text"])
        assert number.label == "price"
        assert number.score == pytest.approx(line["predicted"], rel=1e-3)


@pytest.mark.slow
def test_several_labels_at_once(model, tmp_path):
    pairs = zip(sentences(250, 1), sentences(250, 2), strict=True)
    rows = [(f"{one} {other}", ";".join({first, second})) for (one, first), (other, second) in pairs]
    data = {"train": str(write_csv(tmp_path / "x.csv", rows)), "separator": ";"}
    folder = finetune(recipe(model, tmp_path / "run", "multi-label", data=data, training={"epochs": 12}))
    assert report(folder)["metrics"]["validation"]["f1_micro"]["value"] > 0.95
    [line, *_] = predicted(folder)
    scores = {one.label: one.score for one in Classifier.from_pretrained(folder, device="cpu")(line["text"])}
    assert scores == pytest.approx(line["scores"], abs=1e-5)
    assert sorted(name for name, score in scores.items() if score >= 0.5) == line["predicted"]


def test_spans_are_found_at_their_characters_also_beside_emoji_and_across_windows(model, tmp_path):
    names = [("東京", "PLACE"), ("fire", "PLACE"), ("🦊🦊", "ANIMAL")]
    records = []
    for record in range(60):
        text, spans = "", []
        for number, (words, _) in enumerate(sentences(4, record)):
            name, label = names[(record + number) % 3]
            text += f"{words.replace('fire', 'sea')} 😀 "
            spans.append([len(text), len(text) + len(name), label])
            text += f"{name} line "
        records.append({"text": text, "entities": spans})
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records))}
    folder = finetune(recipe(model, tmp_path / "run", "tokens", data=data, max_length=48))
    found = report(folder)
    assert found["sets"]["validation"]["windows"] > found["sets"]["validation"]["examples"]
    assert found["metrics"]["validation"]["f1"]["value"] > 0.95
    by_label = found["by_label"]["validation"]
    assert by_label.keys() == {"ANIMAL", "PLACE"}
    assert all(one["f1"] > 0.9 for one in by_label.values())
    assert sum(one["expected"] for one in by_label.values()) == 4 * found["sets"]["validation"]["examples"]
    assert "## Each label on the validation set" in (folder / "report.md").read_text(encoding="utf-8")
    find = TokenClassifier.from_pretrained(folder, device="cpu", max_length=48)
    lines = predicted(folder)
    for line, spans in zip(lines, find([line["text"] for line in lines]), strict=True):
        assert [(one.begin, one.end, one.label) for one in spans] == [
            (one["begin"], one["end"], one["label"]) for one in line["predicted"]
        ]
        assert all(one.text == line["text"][one.begin : one.end] for one in spans)
    [one] = find("group 😀 東京 line")
    assert (one.begin, one.end, one.label, one.text) == (8, 10, "PLACE", "東京")


def test_words_with_tags_are_learned_as_words(model, tmp_path):
    lines = []
    for text, label in sentences(150, 1):
        own = {"red": "B-RED", "green": "B-GREEN", "blue": "B-BLUE"}[label]
        known = ("fire", "blood", "grass", "leaf", "sea", "sky")
        lines += [f"{word}\t{own if word in known else 'O'}" for word in text.split()] + [""]
    (tmp_path / "x.conll").write_text("\n".join(lines))
    folder = finetune(recipe(model, tmp_path / "run", "tokens", data={"train": str(tmp_path / "x.conll")}))
    assert report(folder)["metrics"]["validation"]["f1"]["value"] > 0.95
    [found] = TokenClassifier.from_pretrained(folder, device="cpu")("group leaf, line")
    assert (found.begin, found.end, found.label) == (6, 10, "GREEN")


@pytest.mark.slow
def test_answers_are_found_in_long_contexts_or_not_at_all(model, tmp_path):
    questions = []
    for number, (text, _) in enumerate(sentences(200, 1)):
        number_text = f"{1000 + 37 * number % 9000}"
        answered = number % 4 != 0
        context = f"{text} default {number_text} values" if answered else f"{text} line"
        answers = [{"text": number_text, "answer_start": context.index(number_text)}] if answered else []
        questions.append({"id": str(number), "question": "number", "context": context, "answers": answers})
    data = {"train": str(write_lines(tmp_path / "x.jsonl", questions))}
    options = {"data": data, "max_answer_tokens": 8, "training": {"epochs": 20}}
    folder = finetune(recipe(model, tmp_path / "run", "answer", **options))
    assert report(folder)["metrics"]["validation"]["exact"]["value"] > 0.7
    ask = QuestionAnswerer.from_pretrained(folder, device="cpu", max_length=40)
    told = next(line for line in predicted(folder) if line["predicted"] and line["predicted"] in line["expected"])
    context = next(one["context"] for one in questions if one["id"] == told["id"])
    assert ask("number", context)[0].text == told["predicted"]
    long = f"{'line group ' * 60}{context}"
    best = next(reply for reply in ask("number", long) if reply.text)
    assert long[best.begin : best.end] == best.text
    assert any(reply.text == "" for reply in ask("number", "group line"))


def test_a_folder_reads_as_its_recipe_did(model, tmp_path):
    """What is cut, where windows end and how long an answer may be decide every one of these predictions."""
    from transformers import AutoModelForQuestionAnswering

    draw = sentences(400, 1)
    texts = [" ".join(text for text, _ in draw[10 * number : 10 * number + 10]) for number in range(40)]
    words = [text.split()[-1] for text in texts]
    records = [
        {
            "text": f"{text} {number}",
            "label": ("red", "green")[number % 2],
            "entities": [[len(text) - len(word), len(text), "LAST"]],
            "question": "last",
            "context": text,
            "answers": [{"text": word, "answer_start": len(text) - len(word)}],
            "id": str(number),
        }
        for number, (text, word) in enumerate(zip(texts, words, strict=True))
    ]
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records)), "test": str(tmp_path / "x.jsonl")}
    short = {"max_length": 24, "overlap_tokens": 3, "max_answer_tokens": 1, "training": {"epochs": 1}}
    folders = {
        task: finetune(recipe(model, tmp_path / task, task, data=data, **short))
        for task in ("classify", "tokens", "answer")
    }
    for line, found in zip(
        predicted(folders["classify"]),
        Classifier.from_pretrained(folders["classify"], device="cpu")([one["text"] for one in records]),
        strict=True,
    ):
        assert {one.label: one.score for one in found} == pytest.approx(line["scores"], abs=1e-5)
    for line, spans in zip(
        predicted(folders["tokens"]),
        TokenClassifier.from_pretrained(folders["tokens"], device="cpu")([one["text"] for one in records]),
        strict=True,
    ):
        assert [one.begin for one in spans] == [one["begin"] for one in line["predicted"]]
        assert [one.score for one in spans] == pytest.approx([one["score"] for one in line["predicted"]], abs=1e-5)
    ask = QuestionAnswerer.from_pretrained(folders["answer"], device="cpu")
    for line, replies in zip(predicted(folders["answer"]), ask(["last"] * len(texts), texts), strict=True):
        assert (replies[0].text, replies[0].begin) == (line["predicted"], line["begin"])
        assert replies[0].probability == pytest.approx(line["score"], abs=1e-5)
    assert ask.max_length == 24
    assert QuestionAnswerer.from_pretrained(folders["answer"], device="cpu", max_length=30).max_length == 30
    theirs = AutoModelForQuestionAnswering.from_pretrained(folders["answer"]).config
    assert theirs.modernbert_task["max_answer_tokens"] == 1
    again = recipe(folders["answer"], tmp_path / "again", "answer", data=data)
    assert "max_length" not in prepare(again)[0].config_updates()["modernbert_task"]


@pytest.fixture(scope="module")
def chosen(model, tmp_path_factory):
    """A run on questions whose choices name the colour that one word tells, measured on what it was trained on."""
    base = tmp_path_factory.mktemp("choices")
    draw = np.random.default_rng(0)
    records = []
    for text, label in sentences(200, 1):
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


def predict(*arguments):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 4096}, "reads 128 tokens"),
        ({"training": {"metric": "rouge"}}, "take one of accuracy"),
        ({"training": {"class_weights": {"pink": 2.0}}}, "'pink', which is none of blue, green, red"),
        ({"training": {"freeze_layers": 3}}, "has 2 layers"),
        ({"training": {"epochs": 1, "learning_rate": 1e38, "warmup": 0.0}}, "not finite"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_sentence(changes, message, model, csvs, tmp_path):
    with pytest.raises(ConfigError, match=message):
        finetune(recipe(model, tmp_path / "run", data=csvs, **changes))


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


def test_frozen_parts_stay_and_the_rest_moves(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 1, "freeze_layers": 1}))
    before, after = weights(model), weights(folder)
    for name, x in before.items():
        if name.startswith("decoder."):
            continue
        stays = name.startswith(("model.embeddings.", "model.layers.0."))
        assert torch.equal(after[name], x) == stays, name


def test_random_weights_are_of_the_seed_and_not_of_the_model(model, csvs, tmp_path):
    def start(seed, name):
        chosen = recipe(model, tmp_path / name, data=csvs, random_weights=True)
        return Finetuning(chosen, *prepare(chosen), seed, ALONE).model

    first, again, other = start(0, "first"), start(0, "again"), start(1, "other")
    loaded = SequenceClassifier.from_pretrained(model, changes={"id2label": first.config.id2label})
    name = "model.embeddings.tok_embeddings.weight"
    weight = first.state_dict()[name]
    assert torch.equal(weight, again.state_dict()[name])
    for strange in (other, loaded):
        assert (weight - strange.state_dict()[name]).norm() > weight.norm()
    of_the_task = {name: getattr(first.config, name) for name in ("problem_type", "modernbert_task")}
    assert first.config == loaded.config.model_copy(update=of_the_task)
    assert first.tokenizer_source == model
    assert first.training


def test_the_learning_rate_falls_from_the_head_down(model, csvs, tmp_path):
    task, sets = prepare(recipe(model, tmp_path / "run", data=csvs))
    training = Training(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    finetuning = Finetuning(recipe(model, tmp_path / "run", data=csvs), task, sets, 0, ALONE)
    freeze(finetuning.model, training)
    names = {id(parameter): name for name, parameter in finetuning.model.named_parameters()}
    rates = {
        names[id(x)]: group["peak_lr"] for group in layer_groups(finetuning.model, training) for x in group["params"]
    }
    assert rates.keys() == set(names.values())
    assert rates["classifier.weight"] == rates["model.final_norm.weight"] == 1.0
    assert rates["model.layers.1.mlp.Wi.weight"] == 0.5
    assert rates["model.layers.0.mlp.Wi.weight"] == 0.25
    assert rates["model.embeddings.tok_embeddings.weight"] == 0.125


@pytest.mark.parametrize("kind", ["linear", "one_minus_sqrt", "constant"])
def test_schedules_rise_to_one_and_fall_as_they_say(kind):
    training = Training(schedule=kind, warmup=0.2)
    factors = [schedule_factor(training, step / 100) for step in range(101)]
    assert factors[10] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(1.0)
    assert factors[60] == pytest.approx({"linear": 0.5, "one_minus_sqrt": 1 - 0.5**0.5, "constant": 1.0}[kind])
    assert factors[100] == pytest.approx(1.0 if kind == "constant" else 0.0)


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


def test_activation_checkpointing_changes_no_bit(model, csvs, tmp_path):
    plain, again = (
        finetune(
            recipe(
                model,
                tmp_path / str(flag),
                data=csvs,
                training={"epochs": 1, "dropout": 0.1},
                machine={"device": "cpu", "activation_checkpointing": flag},
            )
        )
        for flag in (False, True)
    )
    assert same(plain, again)


@pytest.mark.slow
def test_compiled_layers_finetune_to_the_same_losses(model, csvs, tmp_path):
    """In a process of its own, as dynamo cannot trace through the shape checks of a test run."""
    found = {}
    for flag in (False, True):
        made = recipe(
            model, tmp_path / str(flag), data=csvs, training={"epochs": 1},
            machine={"device": "cpu", "precision": "fp32", "compile": flag},
        )  # fmt: skip
        (tmp_path / f"{flag}.toml").write_text(dump(made))
        command = [sys.executable, "-m", "modernbert", "finetune", str(tmp_path / f"{flag}.toml")]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=250)
        assert "| accuracy, test set" in result.stderr
        assert result.stdout.strip() == str(tmp_path / str(flag))
        found[flag] = [
            line["loss"] for line in Metrics(tmp_path / str(flag) / "metrics.jsonl").read() if "loss" in line
        ]
    assert found[True] == pytest.approx(found[False], abs=1e-4)


def test_a_run_that_is_resumed_between_evaluations_ends_with_the_same_bits(model, csvs, tmp_path):
    options = {"data": csvs, "training": {"epochs": 1, "dropout": 0.3}}
    machine = {"device": "cpu", "checkpoint_every_steps": 5}
    whole = finetune(recipe(model, tmp_path / "whole", **options, machine=machine))
    original = Finetuning._update

    class CrashError(Exception):
        pass

    def update(self, *arguments):
        if self.progress.step == 8:
            raise CrashError
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "_update", update)
        with pytest.raises(CrashError):
            finetune(recipe(model, tmp_path / "parts", **options, machine=machine))
    [saved] = (tmp_path / "parts" / "training" / "seed-0" / "checkpoints").iterdir()
    assert saved.name == "step-00000005"
    parts = finetune(recipe(model, tmp_path / "parts", **options, machine=machine))
    assert same(whole, parts)
    assert [line["step"] for line in Metrics(parts / "metrics.jsonl").read()] == [
        line["step"] for line in Metrics(whole / "metrics.jsonl").read()
    ]


def test_tensorboard_follows_every_seed_and_its_files_stay(model, csvs, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard, an extra, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    machine = {"device": "cpu", "trackers": ["tensorboard"]}
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, seeds=[1, 2], training={"epochs": 1}, machine=machine))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for seed in (1, 2):
        events = EventAccumulator(str(folder / "tensorboard" / f"seed-{seed}"))
        events.Reload()
        losses = {line["step"]: line["loss"] for line in lines if line["seed"] == seed and "loss" in line}
        assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(losses, rel=1e-6)
        assert events.Scalars("validation/accuracy")


def test_the_command_ends_with_the_metrics_beside_the_baseline(model, csvs, tmp_path):
    made = tmp_path / "recipe.toml"
    made.write_text(dump(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 1})))
    result = CliRunner().invoke(app, ["finetune", str(made)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'run'}\n"
    found = report(tmp_path / "run")["metrics"]["test"]["accuracy"]
    [line] = [line for line in result.stderr.splitlines() if line.startswith("| accuracy, test set")]
    assert line.split("|")[2].strip() == f"{found['value']:.4f}"
    assert line.split("|")[4].strip() == f"{found['baseline']:.4f}"


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


def test_choices_of_a_table_are_written_too(chosen, tmp_path):
    rows = [{"question": "the sea?", "choices": ["red", "blue"], "label": 0}]
    output = tmp_path / "out.jsonl"
    predict("--file", write_lines(tmp_path / "q.jsonl", rows), "--model", chosen, "--output", output)
    [found] = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert found["question"] == "the sea?"
    assert found["answer"] in ("red", "blue")
