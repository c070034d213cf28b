"""The report of a run with its pictures, and the folder that it speaks of."""

import pytest
import torch

from labelled import predicted, recipe, report
from modernbert import Classifier
from modernbert.errors import ConfigError
from modernbert.train.finetune import finetune


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
