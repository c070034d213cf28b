"""Labels of texts in files: one, several, or a number."""

import json

import numpy as np
import pytest

from modernbert.config import parse
from modernbert.errors import ConfigError, DataError
from modernbert.tasks.classify import MultiLabelColumns
from modernbert.tasks.task import named_weights
from modernbert.tasks.texts import read_texts_with_labels


def test_numbers_multiple_labels_and_pairs_are_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('one,two,score,topics,toxic,rude\na,b,2.5,"x, y",1,0\nc,d,3,,0,0\n')
    pairs = read_texts_with_labels(path, text="one", pair="two", label="score", kind="number")
    assert [(e.text, e.pair, e.label) for e in pairs] == [("a", "b", 2.5), ("c", "d", 3.0)]
    topics = read_texts_with_labels(path, text="one", label="topics", kind="classes")
    assert [e.label for e in topics] == [("x", "y"), ()]
    columns = read_texts_with_labels(path, text="one", label=("toxic", "rude"), kind="classes")
    assert [e.label for e in columns] == [("toxic",), ()]
    assert [e.label for e in read_texts_with_labels(path, text="one", label=None)] == [None, None]


@pytest.mark.parametrize(
    ("line", "options", "reason", "sentence"),
    [
        ('{"body": "x", "label": "a"}', {}, "missing column", "no column 'text'; there are body, label"),
        ('{"text": "x"}', {}, "missing column", "no column 'label'"),
        ('{"text": " ", "label": "a"}', {}, "empty text", "text is empty"),
        ('{"text": 5, "label": "a"}', {}, "not a text", "text is 5"),
        ('{"text": "\\ud83d", "label": "a"}', {}, "unpaired surrogate", "an unpaired surrogate"),
        ('{"text": "x", "label": null}', {}, "not a label", "label is None"),
        ('{"text": "x", "label": "\\ud83d"}', {}, "not a label", "should be a label"),
        ('{"text": "x", "label": ["\\ud83d"]}', {"kind": "classes"}, "not a label", "list of labels"),
        ('{"text": "x", "label": "a,\\ud83d"}', {"kind": "classes"}, "not a label", "list of labels"),
        ('{"text": "x", "label": "c"}', {"labels": ["a", "b"]}, "unknown label", "'c' is not one of a, b"),
        ('{"text": "x", "label": ["c"]}', {"labels": ["a"], "kind": "classes"}, "unknown label", "'c' is not one of a"),
        ('{"text": "x", "label": {}}', {"kind": "classes"}, "not a label", "list of labels"),
        ('{"text": "x", "label": "high"}', {"kind": "number"}, "not a number", "'high'"),
        ('{"text": "x", "label": NaN}', {"kind": "number"}, "not a number", "nan"),
        ('{"text": "x", "label": "2"}', {"kind": "classes", "label": ("label",)}, "neither 0 nor 1", "'2'"),
        ("not json", {}, "broken line", "not JSON"),
        ("[1]", {}, "broken line", "not a JSON object"),
    ],
)
def test_an_invalid_text_is_an_error_with_file_and_line_or_counted(tmp_path, line, options, reason, sentence):
    path = tmp_path / "x.jsonl"
    good = {"classes": '["a"]', "number": "1"}.get(options.get("kind", ""), '"a"')
    good = "1" if "label" in options else good
    path.write_text(f'{{"text": "good", "label": {good}}}\n{line}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2: ") as error:
        list(read_texts_with_labels(path, **options))
    assert sentence in str(error.value)
    examples = read_texts_with_labels(path, **options, skip_bad=True)
    assert [one.text for one in examples] == ["good"]
    assert examples.skipped == {reason: 1}


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("['blue']", ("blue",)),
        ("['green', 'red']", ("green", "red")),
        ('["green", "it\'s"]', ("green", "it's")),
        ("['green' 'red']", ("green", "red")),
        ("('green', 'red')", ("green", "red")),
        ("{'red'}", ("red",)),
        ("[blue, red]", ("blue", "red")),
        ("[]", ()),
        ("['room 1 2']", ("room 1 2",)),
        ("['a' 'b' 'c d']", ("a", "b", "c d")),
        ("[3 12]", ("3", "12")),
        ("[3, 12]", ("3", "12")),
        ("blue, red", ("blue", "red")),
        ("(blue)", ("(blue)",)),
    ],
)
def test_a_list_of_labels_written_as_a_text_is_a_list(tmp_path, written, labels):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "one", "label": written}) + "\n")
    [example] = read_texts_with_labels(tmp_path / "x.jsonl", kind="classes")
    assert example.label == labels


@pytest.mark.parametrize("vector", [[1, 0, 1], [0.0, 0.0], [True, False, False], "[0, 1, 0]", "0,1,1", "[0 1 0]"])
def test_zeros_and_ones_instead_of_labels_are_refused(tmp_path, vector):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "one", "label": vector}) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1: label is .* names of the labels with 1, or a column of 0 and 1"):
        list(read_texts_with_labels(tmp_path / "x.jsonl", kind="classes"))


ONE, TWO = "caf\u00e9", "cafe\u0301"  # the same word, composed and decomposed


def labelled_file(folder, *labels, column="label"):
    lines = [json.dumps({"text": f"text {number}", column: label}) for number, label in enumerate(labels)]
    (folder / "x.jsonl").write_text("\n".join(lines))
    return folder / "x.jsonl"


def test_a_label_is_one_however_unicode_writes_it(tmp_path):
    path = labelled_file(tmp_path, ONE, TWO, f"{TWO} ")
    assert {example.label for example in read_texts_with_labels(path)} == {ONE}
    path = labelled_file(tmp_path, [ONE, TWO, "bar"], f"bar,{TWO}", f"['{TWO}']")
    several = read_texts_with_labels(path, kind="classes")
    assert [example.label for example in several] == [(ONE, "bar"), ("bar", ONE), (ONE,)]
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "x", TWO: 1}))
    [example] = read_texts_with_labels(tmp_path / "x.jsonl", label=(TWO,), kind="classes")
    assert example.label == (ONE,)


@pytest.mark.parametrize("learned", [ONE, TWO])
def test_labels_of_new_data_are_those_of_the_model_whichever_form_it_learned(learned, tmp_path):
    path = labelled_file(tmp_path, ONE, TWO)
    assert [one.label for one in read_texts_with_labels(path, labels=(learned, "bar"))] == [learned, learned]
    several = read_texts_with_labels(path, labels=(learned, "bar"), kind="classes")
    assert [one.label for one in several] == [(learned,), (learned,)]
    np.testing.assert_array_equal(named_weights({TWO: 3.0}, ("bar", learned)), [1, 3])


def test_a_model_that_learned_both_forms_of_a_label_is_not_measured(tmp_path):
    with pytest.raises(ConfigError, match=r"two labels .* which differ only in how Unicode writes their letters"):
        read_texts_with_labels(labelled_file(tmp_path, ONE), labels=(ONE, TWO))


def test_two_columns_of_one_label_are_refused():
    with pytest.raises(ConfigError, match="two columns have the same label"):
        parse(MultiLabelColumns, {"label": [ONE, TWO]}, "a test")
