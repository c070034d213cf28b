"""Spans from files to tags of tokens and back, and their metrics."""

import json
import warnings
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from modernbert.errors import DataError
from modernbert.packed import IGNORED
from modernbert.tasks.answer.reading import read_questions
from modernbert.tasks.answer.windows import decode_answers, encode_questions
from modernbert.tasks.tokens.reading import SpanExample, read_spans
from modernbert.tasks.tokens.scores import span_counts, span_scores, span_scores_by_label
from modernbert.tasks.tokens.tags import Span, best_path, bio_tags, spans_of_tags
from modernbert.tasks.tokens.windows import Units, decode_spans, encode_spans
from modernbert.text.framing import encodings
from modernbert.text.offsets import TokenizedText
from modernbert.text.records import Origin, Source
from modernbert.text.tokenizer import load_tokenizer

CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nPeter\tB-PER\r\nBlackburn\tI-PER\r\n\r\nO\tO\n"


def test_conll_columns_become_texts_with_spans_and_words(tmp_path):
    (tmp_path / "x.conll").write_bytes(CONLL.encode())
    first, second, third = read_spans(tmp_path / "x.conll")
    assert (first.text, first.spans, first.words) == ("EU rejects", (Span(0, 2, "ORG"),), ((0, 2), (3, 10)))
    assert (second.spans, second.origin.line) == ((Span(0, 15, "PER"),), 6)
    assert third.spans == ()
    assert next(iter(read_spans(tmp_path / "x.conll", joined_by=""))).text == "EUrejects"


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-A I-A O", [(1, 3, "A")]),
        ("I-A I-A B-A I-B", [(0, 2, "A"), (2, 3, "A"), (3, 4, "B")]),
        ("B-A B-A I-A I-A", [(0, 1, "A"), (1, 4, "A")]),
        ("S-A B-A E-A E-A", [(0, 1, "A"), (1, 3, "A"), (3, 4, "A")]),
        ("U-A B-B L-B O", [(0, 1, "A"), (1, 3, "B")]),
        ("B-A M-A E-A M-A", [(0, 3, "A"), (3, 4, "A")]),
        ("B-A M-A M-B E-B", [(0, 2, "A"), (2, 4, "B")]),
    ],
)
def test_tags_of_every_scheme_are_read_as_the_conll_script_reads_them(tags, spans):
    assert spans_of_tags([(i, i + 1) for i in range(4)], tags.split()) == tuple(Span(*span) for span in spans)


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=12))
def test_spans_of_tags_agree_with_seqeval(tags):
    ours = [
        (span.label, span.begin, span.end - 1) for span in spans_of_tags([(i, i + 1) for i in range(len(tags))], tags)
    ]
    assert ours == get_entities(tags)


def read_columns(tmp_path, text, **options):
    (tmp_path / "x.conll").write_text(text, encoding="utf-8")
    names = {name: options.pop(name) for name in ("words", "tags", "skip_bad") if name in options}
    examples = read_spans(Source(path=str(tmp_path / "x.conll"), **options), **names)
    return [(one.text, [(span.label, one.text[span.begin : span.end]) for span in one.spans]) for one in examples]


@pytest.mark.parametrize("behind", ["", "\n"])
@pytest.mark.parametrize("marker", ["-DOCSTART- -X- O O\n", "-DOCSTART-\n", "-DOCSTART- O\n", "-DOCSTART-\tO\r\n"])
def test_only_the_line_of_a_document_marker_is_removed(tmp_path, marker, behind):
    text = f"{marker}{behind}Anna B-PER\nsleeps O\n\nOslo B-LOC\n{marker}{behind}Rome B-LOC\n"
    expected = [("Anna sleeps", [("PER", "Anna")]), ("Oslo", [("LOC", "Oslo")]), ("Rome", [("LOC", "Rome")])]
    assert read_columns(tmp_path, text) == expected


NUMBERED = "1\tAnna\tB-PER\tO\n2\tOsloer\tO\tB-LOC\n\n1\tOslo\tB-LOC\tO\n"


def test_columns_are_named_by_number_or_by_name(tmp_path):
    outer = [("Anna Osloer", [("PER", "Anna")]), ("Oslo", [("LOC", "Oslo")])]
    inner = [("Anna Osloer", [("LOC", "Osloer")]), ("Oslo", [])]
    assert read_columns(tmp_path, NUMBERED, words="2", tags="3") == outer
    assert read_columns(tmp_path, NUMBERED, words="2", tags="4") == inner
    assert read_columns(tmp_path, NUMBERED, tags="3") == outer
    names = ("id", "word", "outer", "inner")
    assert read_columns(tmp_path, NUMBERED, columns=names, words="word", tags="inner") == inner
    own = f"# global.columns = ID FORM OUTER INNER\n{NUMBERED}"
    assert read_columns(tmp_path, own, words="FORM", tags="OUTER") == outer
    with pytest.raises(DataError, match="there is no column '7'; there are words, lines, tags, 1, 2"):
        read_columns(tmp_path, "a O\n", tags="7")


def test_a_first_column_of_word_numbers_is_not_the_word(tmp_path):
    with pytest.raises(DataError, match=r"x\.conll:1: the columns 3 and 4 all hold tags; name .* data\.tags = 3"):
        read_columns(tmp_path, NUMBERED)
    text = "1\tAnna\tNNP\tB-PER\n2-3\tim\t_\t_\n2\tin\tIN\tO\n3\tdem\tDT\tO\n"
    assert read_columns(tmp_path, text) == [("Anna in dem", [("PER", "Anna")])]
    scores = "1 CD O\n\n2 CD O\n\n1 CD O\n2 CD B-X\n3 CD O\n\nAnna NNP O\n"
    assert [text for text, _ in read_columns(tmp_path, scores)] == ["1", "2", "1 2 3", "Anna"]
    assert [text for text, _ in read_columns(tmp_path, "1 O\n2 B-X\n")] == ["1 2"]


def test_comments_are_found_by_their_prefix_or_detected(tmp_path):
    text = "# id 1\tdomain=en\n# text = Anna\nAnna _ B-PER\n# _ O\n\n#newdoc id\nOslo _ B-LOC\n"
    assert read_columns(tmp_path, text) == [("Anna #", [("PER", "Anna")]), ("Oslo", [("LOC", "Oslo")])]
    assert read_columns(tmp_path, "%% O\nAnna B-PER\n%% x\n", comments="%%") == [("Anna", [("PER", "Anna")])]
    assert read_columns(tmp_path, "# O\n1 O\n") == [("# 1", [])]
    with pytest.raises(DataError, match=r"x\.conll:2: 'x' is not a tag"):
        read_columns(tmp_path, "Anna B-PER\n# x\n")


def test_bmes_and_bmeo_are_read_as_bioes(tmp_path):
    text = "王 B-PER\n小 M-PER\n明 E-PER\n住 O\n沪 S-LOC\n\n王 B-PER\n明 E-PER\n京 B-LOC\n在 O\n"
    first, second = read_columns(tmp_path, text)
    assert first == ("王 小 明 住 沪", [("PER", "王 小 明"), ("LOC", "沪")])
    assert second == ("王 明 京 在", [("PER", "王 明"), ("LOC", "京")])


def test_white_space_at_the_ends_of_a_span_is_removed(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "Piet \\u00a0reads", "entities": [[0, 6, "PER"], [5, 11, "ACT"]]}\n')
    with pytest.raises(DataError, match="overlap"):
        list(read_spans(Source(path=str(write(tmp_path, [[0, 6, "A"], [4, 8, "B"]])))))
    [example] = read_spans(tmp_path / "x.jsonl")
    assert example.spans == (Span(0, 4, "PER"), Span(6, 11, "ACT"))


def write(folder, spans):
    (folder / "y.jsonl").write_text(json.dumps({"text": "Pietreads", "entities": spans}) + "\n")
    return folder / "y.jsonl"


def test_words_and_tags_in_json_lines(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"tokens": ["東", "京"], "ner": ["B-LOC", "I-LOC"]}\n')
    [example] = read_spans(tmp_path / "x.jsonl", words="tokens", tags="ner", joined_by="")
    assert (example.text, example.spans) == ("東京", (Span(0, 2, "LOC"),))


def test_the_label_of_a_span_is_one_however_unicode_writes_it(tmp_path):
    one, two = "Caf\u00e9", "Cafe\u0301"
    lines = [{"words": ["a", "b"], "tags": [f"B-{label}", f"I-{two}"]} for label in (one, two)]
    lines += [{"text": "a b", "entities": [[0, 3, label]]} for label in (one, two)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [example.spans for example in read_spans(tmp_path / "x.jsonl")] == [(Span(0, 3, one),)] * 4
    for learned in (one, two):  # an earlier version learned a label as it was written
        assert [example.spans for example in read_spans(tmp_path / "x.jsonl", labels=(learned,))] == [
            (Span(0, 3, learned),)
        ] * 4


def test_spans_by_their_offsets_in_every_spelling(tmp_path):
    spellings = [
        [7, 9, "LOC"],
        {"begin": 7, "end": 9, "label": "LOC"},
        {"start": 7, "end": 9, "label": "LOC", "text": "日本"},
        {"start_offset": 7, "end_offset": 9, "label": "LOC"},
        {"span": [7, 9], "type": "LOC", "name": "日本"},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "松友美佐紀は、日本の選手。😀", "entities": [one]} for one in spellings]))
    assert [one.spans for one in read_spans(path)] == [(Span(7, 9, "LOC"),)] * 5


@pytest.mark.parametrize(
    ("record", "reason", "sentence"),
    [
        ({"text": "one two", "entities": [[0, 8, "A"]]}, "span outside its text", "outside its text of 7 characters"),
        ({"text": "one two", "entities": [[3, 3, "A"]]}, "span outside its text", "3 to 3"),
        ({"text": "one two", "entities": [[4, 7, "A"], [0, 5, "B"]]}, "overlapping spans", r"0 to 5 .B. and 4 to 7"),
        ({"text": "one two", "entities": [[0, "3", "A"]]}, "invalid span", "should give begin, end and label"),
        ({"text": "one two", "entities": [[False, 3, "A"]]}, "invalid span", "should give begin, end and label"),
        ({"text": "one two", "entities": [[0, 3, " "]]}, "invalid span", "should give begin, end and label"),
        ({"text": "one two", "entities": [[0, 3, "\ud83d"]]}, "invalid span", "should give begin, end and label"),
        ({"words": ["one"], "tags": ["B-\ud83d"]}, "invalid tag", "is not a tag"),
        ({"text": "one two", "entities": None}, "invalid spans", "should be a list"),
        ({"text": "one two", "entities": [{"span": [1, 4], "type": "A", "name": "one"}]}, "other text in the span",
         "'ne ' and not 'one'; count characters"),
        ({"text": "one two", "entities": [[0, 3, "C"]]}, "unknown label", "'C' is not one of A, B"),
        ({"text": "one  two", "entities": [[3, 5, "A"]]}, "empty span", "holds white space alone"),
        ({"text": "zoe\u0308", "entities": [[0, 3, "A"]]}, "span inside a character", "splits a letter from its marks"),
        ({"text": "क्षि", "entities": [[2, 4, "A"]]}, "span inside a character", "splits a letter from its marks"),
        ({"words": ["a\ud83d"], "tags": ["O"]}, "unpaired surrogate", "a word holds an unpaired"),
        ({"words": ["one"], "tags": "O"}, "invalid words", "tags is 'O' and should be a list of texts"),
        ({"text": "one two"}, "missing column", "no column 'entities'"),
        ({"text": "", "entities": []}, "empty text", "text is empty"),
        ({"words": ["one"], "tags": ["B-A", "O"]}, "invalid words", "same length"),
        ({"words": ["one"], "tags": ["A"]}, "invalid tag", "'A' is not a tag"),
        ({"words": ["one", " "], "tags": ["O", "O"]}, "empty text", "a word is empty"),
    ],
)  # fmt: skip
def test_invalid_spans_are_an_error_with_file_and_line_or_counted(tmp_path, record, reason, sentence):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "good", "entities": [[0, 4, "A"]]}) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=rf"x\.jsonl:2: .*{sentence}"):
        list(read_spans(path, labels=("A", "B")))
    examples = read_spans(path, labels=("A", "B"), skip_bad=True)
    assert [one.text for one in examples] == ["good"]
    assert examples.skipped == {reason: 1}


def test_white_space_around_the_label_of_a_span_is_removed(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one two", "entities": [[0, 3, "A "], [4, 7, " A"]]}')
    [example] = read_spans(tmp_path / "x.jsonl")
    assert [span.label for span in example.spans] == ["A", "A"]


def test_an_invalid_or_missing_tag_in_conll_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "x.conll"
    path.write_text("a O\nb X\n\nc O\nd\n\ne B-A\n")
    with pytest.raises(DataError, match=r"x\.conll:2: 'X' is not a tag"):
        list(read_spans(path))
    examples = read_spans(path, skip_bad=True)
    assert [one.text for one in examples] == ["e"]
    assert examples.skipped == {"invalid tag": 1, "no tag": 1}


HERE = Origin("test", 1)


# Any text, and much of what is hard: unknown characters, emoji of several, marks to be composed, runs of spaces.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from("aé e\u0301\u0323 日本東京😀👨\u200d👩ﬁ각\u1112\u1161  \n.क्षि𠮷"), max_size=40),
)


def tokenized(tokenizer, text):
    return TokenizedText.of(text, next(encodings(tokenizer, [text])))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, data=st.data())
def test_spans_at_token_boundaries_are_recovered_from_windows(tokenizer, text, data):
    units = Units.of(tokenized(tokenizer, text), None)
    spans, unit = [], 0
    while unit < len(units.offsets):
        last = data.draw(st.integers(unit, len(units.offsets) - 1))
        if data.draw(st.booleans()):
            spans.append(Span(units.offsets[unit][0], units.offsets[last][1], data.draw(st.sampled_from("AB"))))
        unit = last + 1
    example = SpanExample(text, tuple(spans), None, HERE)
    tags = bio_tags(["A", "B"])
    stride = data.draw(st.integers(0, 8))
    encoded = encode_spans(tokenizer, [example], tags, max_length=data.draw(st.integers(3, 30)), overlap=stride)
    assert encoded.lost == []
    [decoded] = decode_spans(encoded, [certain(window.labels, len(tags)) for window in encoded.windows])
    assert tuple(span for span, _ in decoded) == example.spans
    assert all(probability > 0.99 for _, probability in decoded)


def certain(labels, classes):
    """Logits that predict the labels; random ones without a label."""
    logits = np.full((len(labels), classes), -50.0)
    logits[np.arange(len(labels)), np.where(labels == IGNORED, classes - 1, labels)] = 50.0
    return logits


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.tuples(st.text("abcé日本😀.", min_size=1, max_size=6), st.sampled_from("OABI")), min_size=1),
    max_length=st.integers(3, 30),
)
def test_labelled_words_are_recovered_and_only_first_tokens_have_labels(byte_level, words, max_length):
    tags = [{"O": "O", "A": "B-A", "B": "B-B", "I": "I-A"}[tag] for _, tag in words]
    begins = np.cumsum([0, *(len(word) + 1 for word, _ in words)])[:-1].tolist()
    places = tuple((begin, begin + len(word)) for begin, (word, _) in zip(begins, words, strict=True))
    example = SpanExample(" ".join(word for word, _ in words), spans_of_tags(places, tags), places, HERE)
    encoded = encode_spans(byte_level, [example], bio_tags(["A", "B"]), max_length=max_length, overlap=1)
    [decoded] = decode_spans(encoded, [certain(window.labels, 5) for window in encoded.windows])
    assert tuple(span for span, _ in decoded) == example.spans
    if len(encoded.windows) == 1:
        assert (encoded.windows[0].labels != IGNORED).sum() == len(words)


def test_no_prediction_splits_the_bytes_of_a_character(tokenizer):
    text = "a👨\u200d👩日本語b"
    example = SpanExample(text, (), None, HERE)
    encoded = encode_spans(tokenizer, [example], bio_tags(["A"]), max_length=100, overlap=0)
    generator = np.random.default_rng(0)
    for _ in range(50):
        [decoded] = decode_spans(encoded, [generator.normal(size=(len(encoded.windows[0].ids), 3))])
        spans = [span for span, _ in decoded]
        assert all(one.end <= other.begin for one, other in pairwise(spans))
        assert all(0 <= span.begin < span.end <= len(text) for span in spans)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_best_path_is_the_best_of_all_allowed_paths(length, seed):
    random = np.random.default_rng(seed)
    scores, forbidden = random.normal(size=(length, 3)), random.random((3, 3)) < 0.4
    forbidden[:, 0] = False
    allowed = [path for path in product(range(3), repeat=length) if not any(forbidden[a, b] for a, b in pairwise(path))]
    best = max(allowed, key=lambda path: sum(scores[unit, tag] for unit, tag in enumerate(path)))
    assert tuple(best_path(scores, forbidden)) == best


def decoded(tokenizer, tags, favourites):
    """The decoded spans of a text of words; `favourites` has (tag, second tag) of each word, 0.6 and 0.4 probable."""
    words = [f"w{number}" for number in range(len(favourites))]
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    places = tuple((int(start), int(start) + len(word)) for start, word in zip(starts, words, strict=False))
    encoded = encode_spans(tokenizer, [SpanExample(" ".join(words), (), places, HERE)], tags, max_length=512, overlap=8)
    [window], [units] = encoded.windows, encoded.units
    logits = np.full((len(window.ids), len(tags)), -100.0)
    for anchor, (first, second) in zip(units.anchors, favourites, strict=True):
        logits[1 + anchor, tags.index(second)] = np.log(0.4)
        logits[1 + anchor, tags.index(first)] = np.log(0.6)
    [found] = decode_spans(encoded, [logits])
    return [(places.index((span.begin, span.begin + 2)), span.label, round(score, 3)) for span, score in found]


def test_a_span_keeps_its_label_although_a_tag_inside_it_prefers_another(byte_level):
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
    encoded = encode_spans(byte_level, [example], bio_tags(["A"]), max_length=100, overlap=0)
    assert encoded.lost == [(0, Span(2, 4, "A"))]


def certain_answer(window):
    logits = np.zeros((len(window.ids), 2))
    logits[window.labels[0], 0] = logits[window.labels[1], 1] = 50.0
    return logits


def test_the_japanese_entities_and_answers_of_the_task_files_are_recovered(shared):
    """With the published tokenizer, which splits Japanese into bytes; spans that end inside a token are lost."""
    from modernbert.tasks.tokens.reading import read_spans

    if not (shared / "data" / "tasks").is_dir():
        pytest.skip("the task files are not beside this checkout")
    tokenizer = load_tokenizer(shared / "modernbert-tokenizer")
    examples = list(read_spans(shared / "data" / "tasks" / "ja_ner_wikipedia" / "ner.json"))[:500]
    tags = bio_tags([span.label for example in examples for span in example.spans])
    encoded = encode_spans(tokenizer, examples, tags, max_length=64, overlap=16)
    decoded = decode_spans(encoded, [certain(window.labels, len(tags)) for window in encoded.windows])
    wanted = sum(len(example.spans) for example in examples)
    same = sum(
        len({span for span, _ in spans} & set(example.spans)) for spans, example in zip(decoded, examples, strict=True)
    )
    assert same == wanted - len(encoded.lost)
    assert len(encoded.lost) < 0.05 * wanted
    questions = list(read_questions(shared / "data" / "tasks" / "jaquad" / "dev" / "jaquad_dev_0000.json"))[:50]
    encoded_questions = encode_questions(tokenizer, questions, max_length=384, overlap=128)
    replies = decode_answers(
        encoded_questions, [certain_answer(window) for window in encoded_questions.windows], max_answer_tokens=300
    )
    exact = sum(reply[0].text == question.answers[0].text for reply, question in zip(replies, questions, strict=True))
    assert exact > 45


TAGS = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=6))
def test_span_f1_agrees_with_seqeval_on_the_same_predictions(texts):
    texts = [(one[: min(len(one), len(other))], other[: min(len(one), len(other))]) for one, other in texts]
    predicted, wanted = ([list(tags) for tags in side] for side in zip(*texts, strict=True))
    spans = [
        [spans_of_tags([(i, i + 1) for i in range(len(tags))], tags) for tags in side] for side in (predicted, wanted)
    ]
    ours = span_scores(*spans)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where there is nothing to count
        assert ours.f1 == pytest.approx(f1_score(wanted, predicted))
        assert ours.precision == pytest.approx(precision_score(wanted, predicted))
        assert ours.recall == pytest.approx(recall_score(wanted, predicted))
        if any(tag != "O" for side in (predicted, wanted) for tags in side for tag in tags):
            report = classification_report(wanted, predicted, output_dict=True)
            for label, scores in span_scores_by_label(*spans).items():
                assert scores.f1 == pytest.approx(report[label]["f1-score"])
                assert scores.expected == report[label]["support"]


def test_a_span_is_correct_only_with_both_ends_and_its_label():
    wanted = [[Span(0, 3, "A"), Span(5, 7, "B")], []]
    predicted = [[Span(0, 3, "B"), Span(5, 7, "B"), Span(8, 9, "A")], [Span(0, 1, "A")]]
    assert span_counts(predicted, wanted).tolist() == [[1, 3, 2], [0, 1, 0]]
    scores = span_scores(predicted, wanted)
    assert (scores.precision, scores.recall, scores.f1) == (0.25, 0.5, pytest.approx(1 / 3))
