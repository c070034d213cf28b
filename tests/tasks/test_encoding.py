"""Texts to ids and back: what the tokenizers of transformers give, and spans and answers that survive the trip."""

import json
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from corpora import make_tokenizer
from modernbert.errors import ConfigError
from modernbert.stream.masking import IGNORED
from modernbert.tasks.encoding_questions import best_pairs, decode_answers, encode_questions
from modernbert.tasks.encoding_spans import Units, best_path, bio_tags, decode_spans, encode_spans
from modernbert.tasks.reading_spans import spans_of_tags
from modernbert.text.examples import Answer, ChoiceExample, Origin, QuestionExample, Span, SpanExample
from modernbert.text.framing import encode_choices, encode_texts, encodings
from modernbert.text.offsets import TokenizedText, best_windows, windows
from modernbert.text.tokenizer import load_tokenizer, train_tokenizer

HERE = Origin("test", 1)
JAPANESE = "松友美佐紀は、日本のバドミントン選手。東京都 千代田区 "
# Any text, and much of what is hard: unknown characters, emoji of several, marks to be composed, runs of spaces.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from("aé e\u0301\u0323 日本東京😀👨\u200d👩ﬁ각\u1112\u1161  \n.क्षि𠮷"), max_size=40),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def byte_level(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    path = tmp_path_factory.mktemp("unigram") / "tokenizer"
    train_tokenizer([JAPANESE * 3, "some English words"] * 20, path, vocab_size=448, kind="unigram")
    return load_tokenizer(path)


@pytest.fixture(params=["byte_level", "unigram"], scope="module")
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


def tokenized(tokenizer, text):
    return TokenizedText.of(text, next(encodings(tokenizer, [text])))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.tuples(TEXTS, st.none() | TEXTS.filter(bool)), min_size=1, max_size=3),
    max_length=st.integers(5, 40),
)
def test_ids_are_those_of_transformers_with_truncation(folder, texts, max_length):
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    firsts, seconds = [first for first, _ in texts], [second for _, second in texts]
    found = encode_texts(load_tokenizer(folder), firsts, seconds, max_length=max_length)
    for (first, second), ids in zip(texts, found.ids, strict=True):
        expected = theirs(first, second, truncation="longest_first", max_length=max_length)["input_ids"]
        assert ids.tolist() == expected
    whole = [len(theirs(first, second)["input_ids"]) for first, second in texts]
    assert found.truncated == sum(length > max_length for length in whole)


def test_ids_are_those_that_the_published_tokenizer_gives(shared):
    tokenizer = load_tokenizer(shared / "modernbert-tokenizer")
    cases = json.loads((shared / "modernbert-tokenizer" / "golden_ids.json").read_text(encoding="utf-8"))["cases"]
    found = encode_texts(tokenizer, [case["text"] for case in cases], max_length=8192)
    assert [ids.tolist() for ids in found.ids] == [case["input_ids"] for case in cases]


def test_a_length_without_room_is_refused(byte_level):
    with pytest.raises(ConfigError, match="no room"):
        encode_texts(byte_level, ["a"], ["b"], max_length=4)


def test_special_tokens_that_are_written_in_a_text_are_text(byte_level):
    cls_id, sep_id, mask_id = (byte_level.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    text = "write [MASK] and [SEP] here"
    [ids] = encode_texts(byte_level, [text], max_length=64).ids
    assert (ids[0], ids[-1]) == (cls_id, sep_id)
    assert not {cls_id, sep_id, mask_id} & set(ids[1:-1].tolist())
    assert byte_level.decode(ids[1:-1].tolist()) == text
    assert tokenized(byte_level, text).ids.tolist() == ids[1:-1].tolist()


def test_choices_follow_each_other_with_their_question(byte_level):
    example = ChoiceExample("Which?", ("this", "that", "other"), 1, HERE)
    ids = encode_choices(byte_level, [example, example], max_length=32).ids
    assert len(ids) == 6
    assert [byte_level.decode(one.tolist()) for one in ids[:2]] == ["Which?this", "Which?that"]
    assert ids[1].tolist() == encode_texts(byte_level, ["Which?"], ["that"], max_length=32).ids[0].tolist()


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_offsets_rise_and_cover_everything_but_white_space(tokenizer, text):
    found = tokenized(tokenizer, text)
    assert (np.diff(found.offsets, axis=0) >= 0).all()
    covered = np.zeros(len(text), dtype=bool)
    for begin, end in found.offsets:
        assert begin == end or (not text[begin].isspace() and not text[end - 1].isspace())
        covered[begin:end] = True
    assert all(character.isspace() for character, seen in zip(text, covered, strict=True) if not seen)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, data=st.data())
def test_spans_that_end_on_tokens_come_back_through_tokens_and_windows(tokenizer, text, data):
    units = Units.of(tokenized(tokenizer, text), None)
    spans, unit = [], 0
    while unit < len(units.places):
        last = data.draw(st.integers(unit, len(units.places) - 1))
        if data.draw(st.booleans()):
            spans.append(Span(units.places[unit][0], units.places[last][1], data.draw(st.sampled_from("AB"))))
        unit = last + 1
    example = SpanExample(text, tuple(spans), None, HERE)
    tags = bio_tags(["A", "B"])
    stride = data.draw(st.integers(0, 8))
    encoded = encode_spans(tokenizer, [example], tags, max_length=data.draw(st.integers(3, 30)), stride=stride)
    assert encoded.lost == []
    [decoded] = decode_spans(encoded, [certain(window.labels, len(tags)) for window in encoded.windows])
    assert tuple(span for span, _ in decoded) == example.spans
    assert all(probability > 0.99 for _, probability in decoded)


def certain(labels, classes):
    """Logits that say the labels; nonsense where there is none."""
    logits = np.full((len(labels), classes), -50.0)
    logits[np.arange(len(labels)), np.where(labels == IGNORED, classes - 1, labels)] = 50.0
    return logits


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.tuples(st.text("abcé日本😀.", min_size=1, max_size=6), st.sampled_from("OABI")), min_size=1),
    max_length=st.integers(3, 30),
)
def test_words_with_labels_come_back_and_only_their_first_tokens_are_learned(byte_level, words, max_length):
    tags = [{"O": "O", "A": "B-A", "B": "B-B", "I": "I-A"}[tag] for _, tag in words]
    begins = np.cumsum([0, *(len(word) + 1 for word, _ in words)])[:-1].tolist()
    places = tuple((begin, begin + len(word)) for begin, (word, _) in zip(begins, words, strict=True))
    example = SpanExample(" ".join(word for word, _ in words), spans_of_tags(places, tags), places, HERE)
    encoded = encode_spans(byte_level, [example], bio_tags(["A", "B"]), max_length=max_length, stride=1)
    [decoded] = decode_spans(encoded, [certain(window.labels, 5) for window in encoded.windows])
    assert tuple(span for span, _ in decoded) == example.spans
    if len(encoded.windows) == 1:
        assert (encoded.windows[0].labels != IGNORED).sum() == len(words)


def test_bytes_of_a_character_are_never_parted_whatever_is_predicted(tokenizer):
    text = "a👨\u200d👩日本語b"
    example = SpanExample(text, (), None, HERE)
    encoded = encode_spans(tokenizer, [example], bio_tags(["A"]), max_length=100, stride=0)
    generator = np.random.default_rng(0)
    for _ in range(50):
        [decoded] = decode_spans(encoded, [generator.normal(size=(len(encoded.windows[0].ids), 3))])
        spans = [span for span, _ in decoded]
        assert all(one.end <= other.begin for one, other in pairwise(spans))
        assert all(0 <= span.begin < span.end <= len(text) for span in spans)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_best_path_is_the_best_of_all_that_are_allowed(length, seed):
    random = np.random.default_rng(seed)
    scores, forbidden = random.normal(size=(length, 3)), random.random((3, 3)) < 0.4
    forbidden[:, 0] = False
    allowed = [path for path in product(range(3), repeat=length) if not any(forbidden[a, b] for a, b in pairwise(path))]
    best = max(allowed, key=lambda path: sum(scores[unit, tag] for unit, tag in enumerate(path)))
    assert tuple(best_path(scores, forbidden)) == best


def decoded(tokenizer, tags, favourites):
    """What is read out of one text of words, where `favourites` has (tag, second tag) of each, 0.6 and 0.4 probable."""
    words = [f"w{number}" for number in range(len(favourites))]
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    places = tuple((int(start), int(start) + len(word)) for start, word in zip(starts, words, strict=False))
    encoded = encode_spans(tokenizer, [SpanExample(" ".join(words), (), places, HERE)], tags, max_length=512, stride=8)
    [window], [units] = encoded.windows, encoded.units
    logits = np.full((len(window.ids), len(tags)), -100.0)
    for anchor, (first, second) in zip(units.anchors, favourites, strict=True):
        logits[1 + anchor, tags.index(second)] = np.log(0.4)
        logits[1 + anchor, tags.index(first)] = np.log(0.6)
    [found] = decode_spans(encoded, [logits])
    return [(places.index((span.begin, span.begin + 2)), span.label, round(score, 3)) for span, score in found]


def test_a_span_keeps_its_label_though_a_tag_inside_it_would_rather_have_another(byte_level):
    tags = bio_tags(["PER", "ORG"])
    assert decoded(byte_level, tags, [("B-PER", "O"), ("I-ORG", "I-PER"), ("I-PER", "O")]) == [(0, "PER", 0.533)]
    assert decoded(byte_level, tags, [("B-PER", "B-ORG"), ("I-ORG", "I-PER"), ("I-ORG", "O")]) == [(0, "ORG", 0.533)]
    assert decoded(byte_level, tags, [("B-PER", "O"), ("B-ORG", "O")]) == [(0, "PER", 0.6), (1, "ORG", 0.6)]


def test_a_span_may_begin_with_an_inner_tag(byte_level):
    tags = bio_tags(["PER"])
    assert decoded(byte_level, tags, [("O", "B-PER"), ("I-PER", "B-PER"), ("I-PER", "O")]) == [(1, "PER", 0.6)]


def test_a_span_that_ends_inside_a_token_is_counted(byte_level):
    text = "import json"
    assert len(tokenized(byte_level, text).ids) < len(text)
    example = SpanExample(text, (Span(2, 4, "A"),), None, HERE)
    encoded = encode_spans(byte_level, [example], bio_tags(["A"]), max_length=100, stride=0)
    assert encoded.lost == [(0, Span(2, 4, "A"))]


@given(num_tokens=st.integers(0, 200), room=st.integers(1, 50), stride=st.integers(0, 60))
def test_windows_cover_everything_and_share_what_was_asked_for(num_tokens, room, stride):
    cut = windows(num_tokens, room, stride)
    assert cut[0][0] == 0
    assert cut[-1][1] == num_tokens
    for one, other in pairwise(cut):
        assert one[1] - other[0] == min(stride, room // 2)
        assert one[1] - one[0] == room
    best = best_windows(cut)
    for token, number in enumerate(best.tolist()):
        contexts = [
            min(token - begin if begin else 10**9, end - 1 - token if end < num_tokens else 10**9)
            if begin <= token < end
            else -1
            for begin, end in cut
        ]
        assert contexts[number] == max(contexts)
    with pytest.raises(ConfigError):
        windows(5, 0, 0)


def certain_answer(window):
    logits = np.zeros((len(window.ids), 2))
    logits[window.labels[0], 0] = logits[window.labels[1], 1] = 50.0
    return logits


@settings(max_examples=150, deadline=None)
@given(context=TEXTS, question=TEXTS, data=st.data())
def test_answers_that_end_on_tokens_come_back_through_windows(tokenizer, context, question, data):
    units = Units.of(tokenized(tokenizer, context), None)
    if not units.places:
        return
    first = data.draw(st.integers(0, len(units.places) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(units.places) - 1)))
    begin, end = units.places[first][0], units.places[last][1]
    example = QuestionExample("q", question, context, (Answer(context[begin:end], begin),), HERE)
    max_length = data.draw(st.integers(60, 120))
    encoded = encode_questions(tokenizer, [example], max_length=max_length, stride=25)
    assert encoded.lost == 0
    assert all(len(window.ids) <= max_length for window in encoded.windows)
    held = [window for window in encoded.windows if window.labels.any()]
    assert held, "neighbours share more than the answer has"
    logits = [certain_answer(window) for window in encoded.windows]
    [replies] = decode_answers(encoded, logits, max_answer_tokens=100)
    assert (replies[0].begin, replies[0].end, replies[0].text) == (begin, end, context[begin:end])
    assert sum(reply.probability for reply in replies) == pytest.approx(1)


def test_no_answer_is_said_by_its_score_and_the_threshold(byte_level):
    example = QuestionExample("q", "where?", "in the house", (), HERE)
    encoded = encode_questions(byte_level, [example], max_length=64, stride=0)
    [window] = encoded.windows
    assert window.labels.tolist() == [0, 0]
    logits = np.zeros((len(window.ids), 2))
    logits[0] = 2.0
    logits[window.context_at] = 1.0
    assert decode_answers(encoded, [logits])[0][0].text != ""
    said = decode_answers(encoded, [logits], no_answer_threshold=0.0)[0]
    assert (said[0].text, said[0].score) == ("", 4.0)
    held_back = decode_answers(encoded, [logits], no_answer_threshold=3.0)[0]
    assert held_back[0].text != ""
    assert [reply.text for reply in held_back].count("") == 1


def test_no_answer_needs_every_window_to_say_so(byte_level):
    example = QuestionExample("q", "where?", "in the house " * 30, (), HERE)
    encoded = encode_questions(byte_level, [example], max_length=64, stride=8)
    assert len(encoded.windows) > 2
    logits = [np.zeros((len(window.ids), 2)) for window in encoded.windows]
    for scores in logits:
        scores[0] = 3.0
    assert decode_answers(encoded, logits, no_answer_threshold=0.0)[0][0].text == ""
    logits[1][0] = -3.0
    assert decode_answers(encoded, logits, no_answer_threshold=0.0)[0][0].text != ""


@given(st.data())
def test_the_best_pairs_are_those_of_the_slow_way(data):
    count, longest, n_best = (data.draw(st.integers(1, 8)) for _ in range(3))
    scores = st.lists(st.integers(-9, 9), min_size=count, max_size=count)
    begins, ends = (np.array(data.draw(scores), dtype=np.float64) for _ in range(2))
    slow = sorted((begins[i] + ends[j] for i in range(count) for j in range(i, min(count, i + longest))), reverse=True)
    found = best_pairs(begins, ends, n_best, longest)
    assert [score for *_, score in found] == slow[:n_best]
    assert all(i <= j < i + longest and begins[i] + ends[j] == score for i, j, score in found)


def test_a_long_question_leaves_half_of_the_room(byte_level):
    example = QuestionExample("q", "why " * 100, "in the house " * 30, (), HERE)
    encoded = encode_questions(byte_level, [example], max_length=43, stride=128)
    assert encoded.truncated == 1
    assert {window.context_at for window in encoded.windows} == {22}
    assert max(len(window.ids) for window in encoded.windows) == 43


def test_the_japanese_entities_and_answers_of_the_task_files_come_back(shared):
    """Under the published tokenizer, which cuts Japanese into bytes: what ends inside a token is counted as lost."""
    from modernbert.tasks.reading import read_questions, read_spans

    if not (shared / "data" / "tasks").is_dir():
        pytest.skip("the task files are not beside this checkout")
    tokenizer = load_tokenizer(shared / "modernbert-tokenizer")
    examples = list(read_spans(shared / "data" / "tasks" / "ja_ner_wikipedia" / "ner.json"))[:500]
    tags = bio_tags([span.label for example in examples for span in example.spans])
    encoded = encode_spans(tokenizer, examples, tags, max_length=64, stride=16)
    decoded = decode_spans(encoded, [certain(window.labels, len(tags)) for window in encoded.windows])
    wanted = sum(len(example.spans) for example in examples)
    same = sum(
        len({span for span, _ in spans} & set(example.spans)) for spans, example in zip(decoded, examples, strict=True)
    )
    assert same == wanted - len(encoded.lost)
    assert len(encoded.lost) < 0.05 * wanted
    questions = list(read_questions(shared / "data" / "tasks" / "jaquad" / "dev" / "jaquad_dev_0000.json"))[:50]
    asked = encode_questions(tokenizer, questions, max_length=384, stride=128)
    replies = decode_answers(asked, [certain_answer(window) for window in asked.windows], max_answer_tokens=300)
    exact = sum(reply[0].text == question.answers[0].text for reply, question in zip(replies, questions, strict=True))
    assert exact > 45
