"""Invalid texts are an error with their number, and results are in the order of the texts."""

import json

import numpy as np
import pandas
import pytest
import torch
from typer.testing import CliRunner

from corpora import make_model
from modernbert import Classifier, FillMask, QuestionAnswerer, TokenClassifier
from modernbert.cli import app
from modernbert.errors import CheckpointError, DataError
from modernbert.model import QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead
from modernbert.tasks.tokens.tags import bio_tags


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("texts"))


def saved(start, kind, name, **changes):
    torch.manual_seed(1)
    folder = start.parent / name
    kind.from_pretrained(start, changes=changes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classes(start):
    return saved(start, SequenceClassifier, "classes", id2label={0: "a", 1: "b"}, modernbert_task={"pairs": False})


@pytest.fixture(scope="module")
def spans(start):
    task = {"units": "words", "joined_by": " "}
    return saved(start, TokenHead, "spans", id2label=dict(enumerate(bio_tags(["X"]))), modernbert_task=task)


@pytest.fixture(scope="module")
def answers(start):
    return saved(start, QuestionAnswering, "answers", modernbert_task={"always_answers": True})


@pytest.fixture(scope="module")
def predictors(classes, spans, answers, start):
    return {
        "classes": Classifier.from_pretrained(classes, device="cpu"),
        "spans": TokenClassifier.from_pretrained(spans, device="cpu"),
        "masks": FillMask.from_pretrained(start, device="cpu"),
        "questions": QuestionAnswerer.from_pretrained(answers, device="cpu"),
    }


def called(predictors, name, texts):
    if name == "questions":
        return predictors[name](texts, ["in the house"] * len(texts))
    return predictors[name](texts)


@pytest.mark.parametrize("name", ["classes", "spans", "masks", "questions"])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (None, "2 is None and should be a text"),
        (float("nan"), r"2 is not a number \(NaN, an empty cell of a table\) and should be a text"),
        (3, "2 is 3 and should be a text"),
        (b"fire", "2 is b'fire' and should be a text"),
        ("fire \ud83d", "2 holds an unpaired surrogate"),
        (" ", "2 is empty"),
        (pandas.NA, "2 is <NA> and should be a text"),
    ],
    ids=["None", "NaN", "number", "bytes", "surrogate", "empty", "NA"],
)
def test_an_invalid_text_is_an_error_with_its_number(predictors, name, wrong, sentence):
    with pytest.raises(DataError, match=sentence):
        called(predictors, name, ["fire [MASK]", wrong])


@pytest.mark.parametrize("name", ["classes", "spans", "masks", "questions"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_sequence_of_texts_is_accepted(predictors, name, size):
    texts = ["fire [MASK]", "the sea [MASK]", "sky [MASK]"][:size]
    expected = called(predictors, name, texts)
    assert len(expected) == size
    for same in (
        tuple(texts),
        np.array(texts),
        np.array(texts, dtype=object),
        pandas.Series(texts, index=range(5, 5 + size)),
    ):
        assert called(predictors, name, same) == expected


def test_only_a_tuple_of_two_inside_a_sequence_is_a_pair(predictors):
    classify = predictors["classes"]
    [pair], [other] = classify([("fire", "sea")]), classify([("sea", "fire")])
    assert pair != other
    assert classify(("fire", "sea")) == classify(["fire", "sea"])
    for wrong in (["fire", "sea"], ("fire",), ("fire", "sea", "sky")):
        with pytest.raises(DataError, match=r"Text 1 is a (list|tuple) of \d; a pair is a tuple of two texts"):
            classify([wrong])
    with pytest.raises(DataError, match="The second text of pair 2 is None"):
        classify([("a", "b"), ("a", None)])


@pytest.mark.parametrize("wrong", [None, 3, {"text": "fire"}, b"fire", {"fire", "water"}, np.array("fire")])
def test_a_value_that_is_not_a_sequence_is_an_error(predictors, wrong):
    for name in ("classes", "spans", "masks"):
        with pytest.raises(DataError, match="should be a text, or a list of texts"):
            predictors[name](wrong)


def test_a_table_is_not_read_as_a_list_of_its_columns(predictors):
    for name in ("classes", "spans", "masks"):
        with pytest.raises(DataError, match="give one of its columns"):
            predictors[name](pandas.DataFrame({"text": ["fire"], "label": ["hot"]}))


def test_words_are_given_as_lists(predictors):
    find = predictors["spans"]
    words = ["the", "AT&T", "fire"]
    assert find.text_of(words) == "the AT&T fire"
    [found] = find([words])
    ends = {0, 3, 4, 8, 9, 13}
    assert all({span.begin, span.end} <= ends for span in found)
    assert find([tuple(words), words]) == [found, found]
    with pytest.raises(DataError, match="Word 2 of text 1 is None"):
        find([["the", None]])
    with pytest.raises(DataError, match="Text 1 is \\[\\]"):
        find([[]])


def with_old_keys(start, tags, **keys):
    """A folder whose config.json is that of an older version."""
    path = saved(start, TokenHead, f"old {keys}", id2label=tags) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return path.parent


def test_folders_of_other_trainers_and_of_older_versions_give_whole_words(start):
    tags = dict(enumerate(bio_tags(["X"])))
    other = TokenClassifier.from_pretrained(saved(start, TokenHead, "other", id2label=tags), device="cpu")
    older, marks = (
        TokenClassifier.from_pretrained(with_old_keys(start, tags, label_words=flag), device="cpu")
        for flag in (True, False)
    )
    assert (other.rule.units, older.rule.units, marks.rule.units) == ("whole words", "whole words", "tokens")
    text = 'The "Coca-Cola" of O\'Neill, U.S.A.'
    whole_words = {"The", '"', "Coca-Cola", "of", "O'Neill", ",", "U.S.A."}
    assert {text[begin:end] for begin, end in other.rule.split(text)} == whole_words


def test_labels_that_are_not_tags_or_lack_the_tag_O_are_refused(start):
    for number, labels in enumerate(({0: "B-X", 1: "I-X"}, {0: "O", 1: "X"})):
        with pytest.raises(CheckpointError, match="are not tags of spans"):
            TokenClassifier.from_pretrained(saved(start, TokenHead, f"no tags {number}", id2label=labels), device="cpu")


def test_a_file_of_json_lines_is_not_read_as_plain_text(classes, answers, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "fire"}\n{"text": "the sea"}\n')
    found = shown("predict", "--file", tmp_path / "x.jsonl", "--model", classes)
    assert [one["text"] for one in found] == ["fire", "the sea"]
    for wrong in ('{"body": "fire"}', '{"text": ["fire"]}', '{"text": null}'):
        (tmp_path / "x.jsonl").write_text(wrong)
        result = CliRunner().invoke(app, ["predict", "--file", str(tmp_path / "x.jsonl"), "--model", str(classes)])
        assert isinstance(result.exception, DataError)
        assert "x.jsonl:1: there is no text in a column text" in str(result.exception)
    (tmp_path / "context.txt").write_text("in the house")
    (tmp_path / "x.jsonl").write_text('{"question": "where?"}\n')
    output = shown("predict", "--file", tmp_path / "x.jsonl", "--model", answers, "--context", tmp_path / "context.txt")
    assert [one["question"] for one in output] == ["where?"]


def shown(*command):
    result = CliRunner().invoke(app, [*map(str, command), "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_result_n_of_a_file_belongs_to_line_n(classes, spans, answers, start, tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(b"fire [MASK]\n\n   \r\nsea [MASK]\r\n")
    (tmp_path / "context.txt").write_text("in the house")
    for folder, more in ((classes, ()), (spans, ()), (answers, ("--context", tmp_path / "context.txt"))):
        found = shown("predict", "--file", file, "--model", folder, *more)
        assert [one.get("text", one.get("question")) for one in found] == ["fire [MASK]", "", "   ", "sea [MASK]"]
        assert [one.get("empty", False) for one in found] == [False, True, True, False]
    found = shown("fill-mask", "--file", file, "--model", start)
    assert [(one["text"], len(one["masks"])) for one in found] == [
        ("fire [MASK]", 1), ("", 0), ("   ", 0), ("sea [MASK]", 1),
    ]  # fmt: skip


def test_a_tab_separates_a_pair_only_for_a_model_of_pairs(start, classes):
    pairs = saved(start, SequenceClassifier, "pairs", id2label={0: "a", 1: "b"}, modernbert_task={"pairs": True})
    text = "fire\tsea"
    [single], [pair] = (shown("predict", text, "--model", folder) for folder in (classes, pairs))
    [as_text] = Classifier.from_pretrained(classes, device="cpu")([text])
    [as_pair] = Classifier.from_pretrained(pairs, device="cpu")([("fire", "sea")])
    assert single["scores"] == {one.label: pytest.approx(one.score) for one in as_text}
    assert pair["scores"] == {one.label: pytest.approx(one.score) for one in as_pair}


def test_offsets_of_answers_count_the_characters_of_the_file(answers, tmp_path):
    text = "Number 5 is here.\r\nAnna lives in Oslo.\r\nThe end."
    (tmp_path / "x.txt").write_bytes(text.encode())
    [found] = shown("predict", "Where?", "--context", tmp_path / "x.txt", "--model", answers)
    assert all(one["text"] == text[one["begin"] : one["end"]] for one in found["answers"])
    replies = QuestionAnswerer.from_pretrained(answers, device="cpu")("Where?", text)
    assert [(one["begin"], one["end"]) for one in found["answers"]] == [(one.begin, one.end) for one in replies]
