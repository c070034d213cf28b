import pytest

import modernbert
from corpora import tiny_recipe
from labelled import sentences
from modernbert import Classifier, api, finetune, pretrain
from modernbert.errors import ConfigError

SETTINGS = {"epochs": 2, "learning_rate": 3e-3, "batch_examples": 16, "device": "cpu", "max_length": 32}

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def pretrained(material, tmp_path_factory):
    """A tiny model, pretrained from Python."""
    run = tmp_path_factory.mktemp("api") / "run"
    return pretrain(tiny_recipe(*material, run), "run.device=cpu")


def rows(count, seed):
    return [{"text": text, "label": label} for text, label in sentences(count, seed)]


def test_every_public_name_exists_and_is_listed():
    for name in modernbert.__all__:
        assert getattr(modernbert, name) is not None
        assert name in dir(modernbert)


def test_pretraining_from_a_mapping_gives_the_folder_of_the_model(pretrained):
    assert (pretrained / "model.safetensors").is_file()
    assert pretrained.name == "final"


def test_a_classifier_learns_from_rows(pretrained, tmp_path):
    call = {"model": pretrained, "task": "classify", "output": tmp_path / "run", **SETTINGS}
    predictor = finetune(train=rows(240, 1), validation=rows(60, 2), **call)
    assert isinstance(predictor, Classifier)
    held_out = rows(40, 3)
    found = predictor([row["text"] for row in held_out])
    right = [scores[0].label == row["label"] for scores, row in zip(found, held_out, strict=True)]
    assert sum(right) > 30
    assert (tmp_path / "run" / "report.md").is_file()


def test_the_same_call_resumes_and_other_rows_are_refused(pretrained, tmp_path):
    call = {"model": pretrained, "task": "classify", "output": tmp_path / "run", **SETTINGS}
    first = finetune(train=rows(60, 1), **call)
    again = finetune(train=iter(rows(60, 1)), **call)
    assert [one.score for one in first(["a red sea"])[0]] == [one.score for one in again(["a red sea"])[0]]
    with pytest.raises(ConfigError, match="choose another output"):
        finetune(train=rows(60, 4), **call)
    finetune(train=rows(60, 1), **call)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1.0}, "learning_rat"),
        ({"training": {"epochs": 1}}, "training is a section"),
        ({"task": "clasify"}, "task"),
    ],
)
def test_a_setting_that_does_not_exist_is_named(pretrained, settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        finetune(
            **{"model": pretrained, "task": "classify", "train": rows(20, 1), "output": tmp_path / "run"} | settings
        )


def test_a_stopped_run_is_reported(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr("modernbert.train.finetune.finetune", lambda recipe: None)
    with pytest.raises(api.StoppedError, match="the same call resumes it"):
        finetune(model=pretrained, task="classify", train=rows(20, 1), output=tmp_path / "run")
