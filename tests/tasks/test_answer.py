"""Questions from files to windows and back to answers, and their metrics."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import DataError
from modernbert.tasks.answer.reading import AcceptedAnswer as Answer
from modernbert.tasks.answer.reading import QuestionExample, read_questions
from modernbert.tasks.answer.scores import normalized_answer, squad_scores
from modernbert.tasks.answer.windows import best_pairs, decode_answers, encode_questions
from modernbert.tasks.tokens.windows import Units
from modernbert.text.framing import encodings
from modernbert.text.offsets import TokenizedText
from modernbert.text.records import Origin

SQUAD = {
    "data": [
        {
            "title": "東京",
            "paragraphs": [
                {
                    "context": "日本の首都は東京である。",
                    "qas": [
                        {"id": "q1", "question": "首都は？", "answers": [{"text": "東京", "answer_start": 6}]},
                        {"id": "q2", "question": "人口は？", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}


def test_a_squad_file_gives_a_record_for_each_question(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(SQUAD, ensure_ascii=False, indent=1))
    first, second = read_questions(tmp_path / "x.json")
    assert (first.identifier, first.question, first.answers) == ("q1", "首都は？", (Answer("東京", 6),))
    assert second.answers == ()
    lines = (tmp_path / "x.json").read_text().splitlines()
    assert '"q1"' in lines[first.origin.line - 1]
    assert '"q2"' in lines[second.origin.line - 1]


def test_questions_are_read_from_columns_as_on_the_hub(tmp_path):
    record = {"id": 7, "question": "q", "context": "the answer", "answers": {"text": ["answer"], "answer_start": [4]}}
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    [example] = read_questions(tmp_path / "x.jsonl")
    assert (example.identifier, example.answers) == ("7", (Answer("answer", 4),))
    [example] = read_questions(tmp_path / "x.jsonl", answers=None, identifier=None)
    assert example.identifier.endswith("x.jsonl:1")


def test_an_answer_at_another_offset_is_an_error_with_its_true_offset(tmp_path):
    record = {"id": "a", "question": "q", "context": "the answer", "answers": [{"text": "answer", "answer_start": 5}]}
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1: question a: the answer 'answer' is not at 5; it is at 4\."):
        list(read_questions(tmp_path / "x.jsonl"))


def test_questions_without_the_column_id_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "Who?", "context": "A cat.", "answers": [], "name": 3}\n' * 2)
    places = [f"{path}:1", f"{path}:2"]
    assert [one.identifier for one in read_questions(path)] == places
    assert [one.identifier for one in read_questions(path, identifier=None)] == places
    assert [one.identifier for one in read_questions(path, identifier="name")] == ["3", "3"]
    with pytest.raises(DataError, match=r"x\.jsonl:1: there is no column 'key'"):
        list(read_questions(path, identifier="key"))


@pytest.mark.parametrize("identifier", [20, "二十", "twenty"])
def test_a_squad_question_without_answers_is_an_error_and_not_unanswerable(tmp_path, identifier):
    questions = [
        {"id": 10, "question": "Who?", "answers": [{"text": "A", "answer_start": 0}]},
        {"id": 11, "question": "Why?", "is_impossible": True},
        {"id": identifier, "question": "Where?"},
    ]
    path = tmp_path / "x.json"
    paragraph = {"context": "A cat, 20 of them.", "qas": questions}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}, indent=1))
    line = 1 + path.read_text().splitlines().index(f'       "id": {json.dumps(identifier)},')
    assert line > 10
    with pytest.raises(DataError, match=rf"x\.json:{line}: there is no column 'answers'; there are id, question"):
        list(read_questions(path))
    assert [one.identifier for one in read_questions(path, answers=None)] == ["10", "11", str(identifier)]
    assert [len(one.answers) for one in read_questions(path, skip_bad=True)] == [1, 0]


def test_a_squad_file_with_an_invalid_format_is_an_error(tmp_path):
    (tmp_path / "x.json").write_text('{"data": [{"paragraphs": [{"qas": []}, {"qas": [{"id": "a"}]}]}]}')
    with pytest.raises(DataError, match="SQuAD's form"):
        list(read_questions(tmp_path / "x.json"))


HERE = Origin("test", 1)


# Any text, and much of what is hard: unknown characters, emoji of several, marks to be composed, runs of spaces.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from("aé e\u0301\u0323 日本東京😀👨\u200d👩ﬁ각\u1112\u1161  \n.क्षि𠮷"), max_size=40),
)


def tokenized(tokenizer, text):
    return TokenizedText.of(text, next(encodings(tokenizer, [text])))


def certain_answer(window):
    logits = np.zeros((len(window.ids), 2))
    logits[window.labels[0], 0] = logits[window.labels[1], 1] = 50.0
    return logits


@settings(max_examples=150, deadline=None)
@given(context=TEXTS, question=TEXTS, data=st.data())
def test_answers_at_token_boundaries_are_recovered_from_windows(tokenizer, context, question, data):
    units = Units.of(tokenized(tokenizer, context), None)
    if not units.offsets:
        return
    first = data.draw(st.integers(0, len(units.offsets) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(units.offsets) - 1)))
    begin, end = units.offsets[first][0], units.offsets[last][1]
    example = QuestionExample("q", question, context, (Answer(context[begin:end], begin),), HERE)
    max_length = data.draw(st.integers(60, 120))
    encoded = encode_questions(tokenizer, [example], max_length=max_length, overlap=25)
    assert encoded.lost == 0
    assert all(len(window.ids) <= max_length for window in encoded.windows)
    held = [window for window in encoded.windows if window.labels.any()]
    assert held, "neighbours share more than the answer has"
    logits = [certain_answer(window) for window in encoded.windows]
    [replies] = decode_answers(encoded, logits, max_answer_tokens=100)
    assert (replies[0].begin, replies[0].end, replies[0].text) == (begin, end, context[begin:end])
    assert sum(reply.probability for reply in replies) == pytest.approx(1)


@pytest.mark.parametrize("cluster", ["👨\u200d👩\u200d👧", "🇯🇵", "e\u0301", "👍🏽"])
def test_an_answer_never_cuts_a_character(byte_level, cluster):
    context = f"ab {cluster}{cluster} cd"
    example = QuestionExample("1", "who?", context, (Answer(cluster[:1], 3),), Origin("test", 1))
    encoded = encode_questions(byte_level, [example], max_length=120, overlap=0)
    [window], [text] = encoded.windows, encoded.contexts
    ends = {0, 3, 3 + len(cluster), 3 + 2 * len(cluster), 2, 4 + 2 * len(cluster), len(context)}
    first, last = window.labels - window.context_at  # what is learned is the whole character, too
    assert (text.offsets[first, 0], text.offsets[last, 1]) == (3, 3 + len(cluster))
    num_tokens = len(text.ids)
    for first in range(num_tokens):
        logits = np.zeros((len(window.ids), 2))
        logits[window.context_at + first, 0] = 9
        logits[window.context_at + min(first + 1, num_tokens - 1), 1] = 9
        [answers] = decode_answers(encoded, [logits])
        assert all(context[one.begin : one.end] == one.text for one in answers)
        assert {place for one in answers for place in (one.begin, one.end)} <= ends | {1, 5 + 2 * len(cluster)}
        assert len({(one.begin, one.end) for one in answers}) == len(answers)


def test_no_answer_depends_on_its_score_and_the_threshold(byte_level):
    example = QuestionExample("q", "where?", "in the house", (), HERE)
    encoded = encode_questions(byte_level, [example], max_length=64, overlap=0)
    [window] = encoded.windows
    assert window.labels.tolist() == [0, 0]
    logits = np.zeros((len(window.ids), 2))
    logits[0] = 2.0
    logits[window.context_at] = 1.0
    assert decode_answers(encoded, [logits])[0][0].text != ""
    decoded = decode_answers(encoded, [logits], no_answer_threshold=0.0)[0]
    assert (decoded[0].text, decoded[0].score) == ("", 4.0)
    held_back = decode_answers(encoded, [logits], no_answer_threshold=3.0)[0]
    assert held_back[0].text != ""
    assert [reply.text for reply in held_back].count("") == 1


def test_no_answer_needs_a_high_score_in_every_window(byte_level):
    example = QuestionExample("q", "where?", "in the house " * 30, (), HERE)
    encoded = encode_questions(byte_level, [example], max_length=64, overlap=8)
    assert len(encoded.windows) > 2
    logits = [np.zeros((len(window.ids), 2)) for window in encoded.windows]
    for scores in logits:
        scores[0] = 3.0
    assert decode_answers(encoded, logits, no_answer_threshold=0.0)[0][0].text == ""
    logits[1][0] = -3.0
    assert decode_answers(encoded, logits, no_answer_threshold=0.0)[0][0].text != ""


@given(st.data())
def test_the_best_pairs_equal_those_of_an_exhaustive_search(data):
    count, longest, n_best = (data.draw(st.integers(1, 8)) for _ in range(3))
    scores = st.lists(st.integers(-9, 9), min_size=count, max_size=count)
    begins, ends = (np.array(data.draw(scores), dtype=np.float64) for _ in range(2))
    slow = sorted((begins[i] + ends[j] for i in range(count) for j in range(i, min(count, i + longest))), reverse=True)
    found = best_pairs(begins, ends, n_best, longest)
    assert [score for *_, score in found] == slow[:n_best]
    assert all(i <= j < i + longest and begins[i] + ends[j] == score for i, j, score in found)


def test_a_long_question_is_truncated_to_half_of_the_window(byte_level):
    example = QuestionExample("q", "why " * 100, "in the house " * 30, (), HERE)
    encoded = encode_questions(byte_level, [example], max_length=43, overlap=128)
    assert encoded.truncated == 1
    assert {window.context_at for window in encoded.windows} == {22}
    assert max(len(window.ids) for window in encoded.windows) == 43


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("a black cat", ["the cat"], 0, 2 / 3),
        ("black cat", ["white dog", "cat", "black"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("theatre", ["theatre"], 1, 1),
        ("1,000", ["1000"], 1, 1),
        ("U.S.", ["US"], 1, 1),
        ("dog", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("", ["the"], 1, 1),
        ("", ["cat"], 0, 0),
        ("cat", [], 0, 0),
        ("the", ["cat", "a"], 0, 0),
    ],
)
def test_answers_are_scored_as_in_the_squad_script(predicted, answers, exact, f1):
    assert squad_scores([predicted], [answers]).tolist() == [[exact, pytest.approx(f1)]]


WORDS = st.lists(st.sampled_from(["the", "a", "cat", "Cat.", "dog"]), max_size=6).map(" ".join)


@given(WORDS, st.lists(WORDS, max_size=3))
def test_the_best_accepted_answer_counts_in_any_order(predicted, answers):
    [[exact, f1]] = squad_scores([predicted], [answers]).tolist()
    accepted = [answer for answer in answers if normalized_answer(answer)]
    alone = [squad_scores([predicted], [[answer]])[0] for answer in accepted] or [squad_scores([predicted], [[]])[0]]
    assert [exact, f1] == np.max(alone, axis=0).tolist()
    assert exact <= f1 <= 1
    assert squad_scores([predicted], [answers[::-1]]).tolist() == [[exact, f1]]


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("東京都", ["東京"], 0, 0.8),
        ("「東京」。", ["東京"], 1, 1),
        ("約１５メートル", ["約15メートル"], 1, 1),
        ("大阪", ["東京", "大 阪"], 1, 1),
        ("", ["東京"], 0, 0),
        ("", [], 1, 1),
        ("東京", [], 0, 0),
        ("ああい", ["あい"], 0, 0.8),
    ],
)
def test_japanese_answers_are_compared_by_characters(predicted, answers, exact, f1):
    assert squad_scores([predicted], [answers], unit="characters").tolist() == [[exact, pytest.approx(f1)]]
