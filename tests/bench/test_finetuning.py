"""The same fine-tuning by this project and by the Trainer of transformers."""

import json

import numpy as np
import pytest
import torch

from corpora import make_model
from labelled import recipe, sentences, write_csv
from modernbert.bench.finetuning import Run, bench_finetuning, pad_items, summarize
from modernbert.cli import app
from modernbert.errors import ConfigError
from modernbert.tasks.task import Item


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("beside"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return str(write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", sentences(96, seed=1)))


@pytest.mark.slow
def test_both_learn_and_results_are_kept(model, texts, tmp_path):
    chosen = recipe(model, tmp_path / "run", data={"train": texts, "held_out": 0.25}, seeds=[0, 1])
    report = bench_finetuning(chosen, threads=1)
    assert [(run.engine, run.seed) for run in report.runs] == [
        ("modernbert", 0), ("Trainer", 0), ("Trainer", 1), ("modernbert", 1),
    ]  # fmt: skip
    for run in report.runs:
        assert run.metrics["accuracy"] > 0.8
        assert run.seconds_per_epoch > 0
    assert not (tmp_path / "run").exists()
    written = json.loads((tmp_path / "run-beside-trainer" / "report.json").read_text(encoding="utf-8"))
    assert written["summaries"][1]["speed"] == 1.0
    assert bench_finetuning(chosen, threads=1) == report  # the same seconds to the last digit: nothing ran again
    longer = chosen.model_copy(update={"training": chosen.training.model_copy(update={"epochs": 9})})
    with pytest.raises(ConfigError, match="holds a run whose training differs"):
        bench_finetuning(longer, threads=1)


def test_the_command_prints_one_json_document(model, texts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = ["bench", "finetune", texts, f"model={model}", "training.epochs=1", "--threads", "1", "--json"]
    with pytest.raises(SystemExit) as stopped:
        app(arguments)
    assert not stopped.value.code
    assert [one["engine"] for one in json.loads(capfd.readouterr().out)["summaries"]] == ["modernbert", "Trainer"]


@pytest.mark.parametrize("task", ["classify", "tokens"])
def test_both_start_from_the_same_weights(task, model, texts, tmp_path):
    if task == "tokens":
        path = tmp_path / "words.conll"
        rows = (" ".join(text.split()) for text, _ in sentences(60, seed=2))
        path.write_text("\n\n".join("\n".join(f"{word}\tB-X" for word in row.split()) for row in rows) + "\n")
        texts = str(path)
    still = {"learning_rate": 1e-12, "epochs": 1, "warmup": 0.0}
    data = {"train": texts, "held_out": 0.5}
    report = bench_finetuning(recipe(model, tmp_path / "run", task, data=data, training=still), threads=1)
    ours, theirs = report.runs
    assert ours.metrics == theirs.metrics


def test_items_and_their_labels_are_padded():
    items = [Item((np.arange(n, dtype=np.int32),), np.full(n, n)) for n in (2, 3)]
    padded = pad_items(items, per_token=True)
    assert padded["input_ids"].tolist() == [[0, 1, 0], [0, 1, 2]]
    assert padded["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert padded["labels"].tolist() == [[2, 2, -100], [3, 3, 3]]
    number = Item((np.arange(3, dtype=np.int32),), np.array([0.5], dtype=np.float32))
    assert torch.equal(pad_items([number], per_token=False)["labels"], torch.tensor([[0.5]]))


def test_a_summary_is_of_the_medians():
    def run(engine, seed, accuracy, seconds):
        return Run(engine, seed, {"accuracy": accuracy}, seconds)

    ours, theirs = summarize(
        [run("modernbert", 0, 0.5, 1.0), run("Trainer", 0, 0.6, 4.0), run("modernbert", 1, 0.7, 2.0),
         run("Trainer", 1, 0.6, 8.0)]
    )  # fmt: skip
    assert ours.speed == pytest.approx(4.0)
    assert ours.metrics["accuracy"] == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert theirs.metrics["accuracy"] == (pytest.approx(0.6), pytest.approx(0.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"layer_decay": 0.9}}, "training.layer_decay"),
        ({"training": {"evaluations_per_epoch": 2}}, "training.evaluations_per_epoch"),
        ({"training": {"schedule": "one_minus_sqrt"}}, "linear or constant"),
        ({"task": "choose"}, "not 'choose'"),
        ({"data": {"train": "texts.csv", "held_out": 0}}, "data.validation"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(changes, words, model, texts, tmp_path):
    data = changes.pop("data", {"train": texts}) | {"train": texts}
    with pytest.raises(ConfigError, match=words):
        bench_finetuning(recipe(model, tmp_path / "run", changes.pop("task", "classify"), data=data, **changes), 1)
