"""Spans from files to a folder: its predictions equal those of the report, and lost labels are counted."""

import json
import random

import numpy as np
import pytest
from typer.testing import CliRunner

from labelled import predicted, recipe, report, sentences, write_lines
from modernbert import TokenClassifier
from modernbert.cli import app
from modernbert.errors import DataError
from modernbert.train.finetune import finetune
from modernbert.train.finetune_data import prepare

pytestmark = pytest.mark.usefixtures("no_pictures")


def conll(path, sentences):
    rows = ("".join(f"{word}\t{tag}\n" for word, tag in one) for one in sentences)
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


def marked_sentences(kind):
    """Sentences of words that a rule for plain text would split differently, with their tags."""
    draw = random.Random(3)
    names = {
        "marks": [["3M"], ["@piet"], ["AT&T"], ["U.S."], ["O'Neill", "'s"], ["Coca-Cola", "Co."]],
        "characters": [["北", "京"], ["大", "阪", "城"], ["A", "股"]],
        "hindi": [["दिल्ली"], ["मुंबई"], ["क्षि", "हैदराबाद"]],
    }[kind]
    others = {
        "marks": ["line", "of", "(", "is", "x-y", "."],
        "characters": list("住在去。"),
        "hindi": ["से", "गया", "।"],
    }
    found = []
    for _ in range(150):
        one = [(word, "O") for word in draw.choices(others[kind], k=draw.randint(1, 4))]
        place = draw.randint(0, len(one))
        one[place:place] = [(word, "I-X" if number else "B-X") for number, word in enumerate(draw.choice(names))]
        found.append(one)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "joined_by"), [("marks", " "), ("characters", ""), ("hindi", " ")])
def test_predictions_of_the_folder_equal_those_in_its_report(kind, joined_by, model, tmp_path):
    sentences = marked_sentences(kind)
    data = {"train": conll(tmp_path / "x.conll", sentences), "joined_by": joined_by}
    folder = finetune(recipe(model, tmp_path / "run", "tokens", data=data, training={"epochs": 12}))
    assert report(folder)["metrics"]["validation"]["f1"]["value"] > 0.9
    find = TokenClassifier.from_pretrained(folder, device="cpu")
    lines = predicted(folder)
    for line, spans in zip(lines, find([line["text"] for line in lines]), strict=True):
        assert [(one.begin, one.end, one.label) for one in spans] == [
            (one["begin"], one["end"], one["label"]) for one in line["predicted"]
        ]
    words = [[word for word, _ in one] for one in sentences[:20]]
    for one, spans in zip(words, find(words), strict=True):
        text = joined_by.join(one)
        ends = np.cumsum([0, *(len(word) + len(joined_by) for word in one)]).tolist()
        assert all(span.begin in ends and span.end + len(joined_by) in ends for span in spans)
        assert all(span.text == text[span.begin : span.end] for span in spans)


def test_a_file_of_words_is_predicted_with_its_words(model, tmp_path):
    data = {"train": conll(tmp_path / "x.conll", marked_sentences("marks"))}
    folder = finetune(recipe(model, tmp_path / "run", "tokens", data=data, training={"epochs": 12}))
    write_lines(tmp_path / "words.jsonl", [{"words": ["of", "AT&T", "is", "x-y"]}, {"text": "of AT&T is x-y"}])
    command = ["predict", "--file", str(tmp_path / "words.jsonl"), "--model", str(folder), "--device", "cpu", "--json"]
    one, other = json.loads(CliRunner().invoke(app, command).stdout)
    assert one["text"] == other["text"] == "of AT&T is x-y"
    assert [span["text"] for span in one["spans"]] == [span["text"] for span in other["spans"]] == ["AT&T"]


def test_lost_spans_are_counted_and_listed(model, tmp_path):
    records = [
        {
            "words": [*"東京", "im", "port", str(number)],
            "tags": ["O", "O", "B-A", "O", "B-A"] if number % 3 else ["O"] * 5,
        }
        for number in range(45)
    ]
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records)), "joined_by": "", "held_out": 0.2}
    folder = finetune(recipe(model, tmp_path / "run", "tokens", data=data, training={"epochs": 1}))
    found = report(folder)["sets"]
    lost = [one for name in ("train", "validation") for one in found[name]["lost"]]
    assert sum(found[name]["lost_spans"] for name in ("train", "validation")) == len(lost) == 30
    assert f"{tmp_path / 'x.jsonl'}:2: im (A, 2 to 4)" in lost
    assert "Lost spans of the train set: " in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("span", "message"), [([7, 10], "'lin' and cuts the word 'line', where"), ([8, 11], "'ine' and cuts")]
)
def test_a_span_that_cuts_a_word_is_an_error_with_its_line_or_left_out(span, message, model, tmp_path):
    records = [{"text": f"import line {number}", "entities": [[7, 11, "A"]]} for number in range(40)]
    records[2]["entities"] = [[*span, "A"]]
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records))}
    with pytest.raises(DataError, match=rf"x\.jsonl:3: .*{message}.*did you mean 7 to 11"):
        prepare(recipe(model, tmp_path / "run", "tokens", data=data))
    _, sets = prepare(recipe(model, tmp_path / "run", "tokens", data=data, skip_bad=True))
    assert sets.skipped == {"train": {"span inside a word": 1}}


def test_many_spans_that_cut_words_are_refused_with_any_tokens(model, tmp_path):
    records = [{"text": f"qxzj line {number}", "entities": [[0, 3, "A"]]} for number in range(40)]
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records))}
    with pytest.raises(DataError, match=r"x\.jsonl:1: .*'qxz' and cuts the word 'qxzj', as 40 of 40 .*mean 0 to 4\?"):
        prepare(recipe(model, tmp_path / "run", "tokens", data=data))
    prepare(recipe(model, tmp_path / "run", "tokens", data=data | {"inside_words": True}))
    for record in records[2:]:
        record["entities"] = [[5, 9, "A"]]
    data = {"train": str(write_lines(tmp_path / "y.jsonl", records))}
    prepare(recipe(model, tmp_path / "run", "tokens", data=data))


def test_white_space_at_the_ends_of_a_span_does_not_count_as_an_error(model, tmp_path):
    records = [
        {"text": f"{name} line {number}", "entities": [[0, len(name) + 1, "A"]]}
        for number in range(60)
        for name in ("import", "group")
    ]
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records))}
    folder = finetune(recipe(model, tmp_path / "run", "tokens", data=data))
    assert report(folder)["metrics"]["validation"]["f1"]["value"] == 1
    assert {one["text"] for line in predicted(folder) for one in line["expected"]} == {"import", "group"}


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
