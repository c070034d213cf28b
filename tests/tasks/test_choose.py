"""Choices from files to scores, which do not depend on the packing."""

import json
import logging

import pytest
import torch

from corpora import make_model
from modernbert import ChoiceAnswerer
from modernbert.errors import CheckpointError, DataError
from modernbert.kernels import native
from modernbert.model import MultipleChoice
from modernbert.packed import Sequences
from modernbert.tasks.choose import ChoiceExample, encode_choices, read_choices
from modernbert.text.framing import encode_texts
from modernbert.text.records import Origin
from modernbert.text.tokenizer import load_tokenizer


def test_choices_are_read_from_columns_or_a_list_with_or_without_names(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "a": "one", "b": "two", "label": 1}\n')
    [example] = read_choices(path, choices=("a", "b"))
    assert (example.choices, example.label) == (("one", "two"), 1)
    path.write_text('{"question": "q", "choices": ["one", "two"], "label": "two"}\n')
    assert [one.label for one in read_choices(path)] == [1]
    path.write_text('{"question": "q", "choices": ["tea", "caf\\u00e9"], "label": "cafe\\u0301"}\n')
    assert [one.label for one in read_choices(path)] == [1]  # composed and decomposed
    path.write_text('{"question": "q", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "key": "B"}\n')
    assert [one.label for one in read_choices(path, label="key")] == [1]
    assert [one.label for one in read_choices(path, label=None)] == [None]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "choices": ["one", "two"], "label": 2}, "label outside the choices"),
        ({"question": "q", "choices": ["one", "two"], "label": -1}, "label outside the choices"),
        ({"question": "q", "choices": ["one"], "label": 0}, "invalid choices"),
        ({"question": "q", "choices": ["one", " "], "label": 0}, "empty text"),
        ({"question": "q", "choices": ["one", "two"]}, "missing column"),
        ({"question": "q", "label": 0}, "missing column"),
        ({"question": "", "choices": ["one", "two"], "label": 0}, "empty text"),
        ({"question": "q", "choices": ["one", "\ud83d"], "label": 0}, "unpaired surrogate"),
        ({"question": "q", "choices": ["one", "two"], "label": "9" * 5000}, "label outside the choices"),
    ],
)
def test_invalid_choices_are_counted(tmp_path, record, reason):
    good = {"question": "q", "choices": ["one", "two"], "label": 0}
    (tmp_path / "x.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: "):
        list(read_choices(tmp_path / "x.jsonl"))
    examples = read_choices(tmp_path / "x.jsonl", skip_bad=True)
    assert len(list(examples)) == 1
    assert examples.skipped == {reason: 1}


HERE = Origin("test", 1)


def test_every_choice_is_encoded_with_its_question_in_order(byte_level):
    example = ChoiceExample("Which?", ("this", "that", "other"), 1, HERE)
    ids = encode_choices(byte_level, [example, example], max_length=32).ids
    assert len(ids) == 6
    assert [byte_level.decode(one.tolist()) for one in ids[:2]] == ["Which?this", "Which?that"]
    assert ids[1].tolist() == encode_texts(byte_level, ["Which?"], ["that"], max_length=32).ids[0].tolist()


QUESTIONS = ["which module parses arguments", "which day comes after a monday?", "who"]


CHOICES = [["argparse", "calendar", "json", "textwrap"], ["a tuesday", "a sunday"], ["the parser", "you", "me"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("choices")
    torch.manual_seed(1)
    MultipleChoice.from_pretrained(make_model(base)).save_pretrained(base / "trained")
    return base / "trained"


@pytest.fixture(scope="module")
def answer(folder):
    return ChoiceAnswerer.from_pretrained(folder, device="cpu")


def test_scores_equal_those_of_each_choice_alone(folder, answer):
    head, tokenizer = MultipleChoice.from_pretrained(folder, dtype=torch.float32), load_tokenizer(folder)
    for question, choices, ranked in zip(QUESTIONS, CHOICES, answer(QUESTIONS, CHOICES), strict=True):
        expected = []
        for choice in choices:
            ids = torch.tensor(tokenizer.encode(question, choice).ids)
            with torch.no_grad():
                expected.append(head(ids, Sequences.from_lengths([len(ids)])))
        scores = torch.cat(expected)
        assert sorted(one.index for one in ranked) == list(range(len(choices)))
        for one in ranked:
            assert one.text == choices[one.index]
            assert one.score == pytest.approx(float(scores[one.index]), abs=1e-5)
            assert one.probability == pytest.approx(float(scores.softmax(-1)[one.index]), abs=1e-5)
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)


def test_many_questions_give_the_same_results_as_each_alone(answer):
    together = answer(QUESTIONS * 300, CHOICES * 300)  # more tokens than in one batch
    for question, choices, ranked in zip(QUESTIONS, CHOICES, together[-3:], strict=True):
        alone = answer(question, choices)
        assert [one.index for one in alone] == [one.index for one in ranked]
        assert [one.score for one in alone] == pytest.approx([one.score for one in ranked], abs=1e-5)


def test_int8_results_are_close_to_fp32(folder, answer):
    if reason := native.unavailable():
        pytest.skip(f"the native backend {reason}")
    exact = {one.index: one.score for one in answer(QUESTIONS[0], CHOICES[0])}
    found = ChoiceAnswerer.from_pretrained(folder, device="cpu", int8=True)(QUESTIONS[0], CHOICES[0])
    scores = {one.index: one.score for one in found}
    assert scores == pytest.approx(exact, abs=0.05)
    assert scores != pytest.approx(exact, abs=1e-6)


def test_a_question_that_is_too_long_is_truncated_and_logged(folder, answer, caplog):
    question = "parser " * 30
    with caplog.at_level(logging.WARNING, "modernbert"):
        cut = ChoiceAnswerer.from_pretrained(folder, device="cpu", max_length=16)(question, CHOICES[0])
    assert "4 of 4 texts are longer than 16 tokens and were truncated." in caplog.text
    full = answer(question, CHOICES[0])
    assert {one.index: one.score for one in cut} != pytest.approx({one.index: one.score for one in full}, abs=1e-6)


@pytest.mark.parametrize(
    ("questions", "choices", "message"),
    [
        ("who", ["me"], "at least two choices"),
        ("who", "me", "at least two choices, all texts"),
        ("who", [["me", "you"]], "at least two choices, all texts"),
        (["who"], ["me"], "at least two choices, all texts"),
        ("who", ["me", " "], "Choice 2 of question 1 is empty"),
        ("who", ["me", None], "Choice 2 of question 1 is None and should be a text"),
        ("", ["me", "you"], "Question 1 is empty"),
        (["who", "what"], [["me", "you"]], "one list of choices for each of the 2 questions"),
    ],
)
def test_invalid_input_is_an_error(answer, questions, choices, message):
    with pytest.raises(DataError, match=message):
        answer(questions, choices)


def test_an_empty_list_of_questions_gives_an_empty_list(answer):
    assert answer([], []) == []


def test_a_model_of_another_kind_is_refused(folder):
    with pytest.raises(CheckpointError, match="and not a ModernBertForMultipleChoice; train one"):
        ChoiceAnswerer.from_pretrained(folder.parent / "model")
