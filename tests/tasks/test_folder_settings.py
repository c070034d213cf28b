"""The task settings of a folder are read from `modernbert_task`, and from the keys of older folders."""

import json

import pytest

from corpora import make_model
from modernbert.errors import ConfigError
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import read_config
from modernbert.tasks.answer.folder import AnswerFolderSettings
from modernbert.tasks.folder_settings import FolderSettings
from modernbert.tasks.texts import TextFolderSettings
from modernbert.tasks.tokens.folder import SpanFolderSettings, rule_of
from modernbert.text.words import WordRule

# The keys in config.json of every fine-tuned model before `modernbert_task`.
OLD = {
    "problem_type": None, "label_words": None, "span_units": None, "joined_by": None, "reads_pairs": False,
    "always_answers": False, "read_tokens": None, "overlap_tokens": None, "max_answer_tokens": 64,
}  # fmt: skip


def old_config(architecture, **keys):
    return EncoderConfig.from_hf({"model_type": "modernbert", "architectures": [architecture], **OLD, **keys})


def test_the_keys_of_an_old_folder_are_read():
    texts = old_config("ModernBertForSequenceClassification", reads_pairs=True, read_tokens=200)
    assert TextFolderSettings.of(texts) == TextFolderSettings(pairs=True, max_length=200)
    spans = old_config("ModernBertForTokenClassification", span_units="characters", joined_by="", overlap_tokens=9)
    assert SpanFolderSettings.of(spans) == SpanFolderSettings(units="characters", joined_by="", overlap_tokens=9)
    assert rule_of(spans) == WordRule("characters", "")
    answers = old_config("ModernBertForQuestionAnswering", always_answers=True, max_answer_tokens=7)
    assert AnswerFolderSettings.of(answers) == AnswerFolderSettings(always_answers=True, max_answer_tokens=7)


@pytest.mark.parametrize(("labelled", "units"), [(True, "whole words"), (False, "tokens"), (None, "whole words")])
def test_the_oldest_span_folders_keep_their_units(labelled, units):
    assert rule_of(old_config("ModernBertForTokenClassification", label_words=labelled)).units == units


def test_a_masked_language_model_has_no_task_even_with_old_keys():
    assert old_config("ModernBertForMaskedLM").modernbert_task is None
    assert "modernbert_task" not in old_config("ModernBertForMaskedLM").to_hf()


def test_a_rewritten_folder_has_one_object_and_the_same_settings(tmp_path):
    config = old_config("ModernBertForSequenceClassification", reads_pairs=True, read_tokens=200)
    values = config.to_hf()
    assert not values.keys() & (OLD.keys() - {"problem_type"})
    assert EncoderConfig.from_hf(values).modernbert_task == config.modernbert_task


def test_keys_of_a_newer_version_are_ignored_and_invalid_values_are_an_error():
    config = EncoderConfig(modernbert_task={"kind": "tokens", "of_tomorrow": 1, "max_length": 32})
    assert FolderSettings.of(config).max_length == 32
    with pytest.raises(ConfigError, match=r"modernbert_task: max_length"):
        FolderSettings.of(EncoderConfig(modernbert_task={"max_length": 0}))


def test_transformers_reads_a_folder_with_a_task(tmp_path):
    from transformers import AutoConfig

    folder = make_model(tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modernbert_task": {"kind": "tokens"}}))
    assert AutoConfig.from_pretrained(folder).modernbert_task == {"kind": "tokens"}
    assert read_config(folder).modernbert_task == {"kind": "tokens"}
