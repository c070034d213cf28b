"""Units of a text: the training labels are recovered from the same text, in every script."""

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from corpora import make_tokenizer
from modernbert.packed import IGNORED
from modernbert.tasks.tokens.reading import SpanExample
from modernbert.tasks.tokens.tags import Span, bio_tags, spans_of_tags
from modernbert.tasks.tokens.windows import decode_spans, encode_spans, span_inside_word
from modernbert.text.records import Origin
from modernbert.text.tokenizer import load_tokenizer
from modernbert.text.tokenizer_training import train_tokenizer
from modernbert.text.words import WordRule, clusters, inside_word, join, splits_cluster, widen_to_clusters

HERE = Origin("test", 1)
WORDS = {
    "latin": ["the", "U.S.", "AT&T", "3M", "@piet", "Coca-Cola", "O'Neill", "n't", "zoë", "zoe\u0308", "#1", "."],
    "cyrillic": ["Москва", "и", "С.-Петербург", "й", "й", ","],
    "arabic": ["محمد", "في", "القاهرة", "مُحَمَّد", "؟"],
    "devanagari": ["मोहन", "दिल्ली", "क्षि", "से", "मुंबई", "।"],
    "thai": ["กรุงเทพ", "ที่", "น้ำ", "สวย"],
    "han": ["张", "伟", "住", "北京", "。", "A股"],
    "japanese": ["山田", "は", "東京", "タワー", "が", "。"],
    "hangul": ["서울", "에서", "김민수", "가", "각"],
    "emoji": ["👨\u200d👩\u200d👧", "🇯🇵", "❤\ufe0f", "ok"],
}


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    return load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    path = tmp_path_factory.mktemp("unigram") / "tokenizer"
    texts = [" ".join(words) for words in WORDS.values()] + ["".join(words) for words in WORDS.values()]
    train_tokenizer(texts * 20, path, vocab_size=512, kind="unigram")
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def wide() -> Tokenizer:
    """Tokens that cross the ends of words, as the tokenizer is trained without pre-tokenization."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [joint.join(words[:4]) for words in WORDS.values() for joint in (" ", "")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(texts * 5, trainer)
    return tokenizer


@pytest.fixture(params=["byte_level", "unigram", "wide"], scope="module")
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


def certain(labels, classes):
    logits = np.full((len(labels), classes), -50.0)
    logits[np.arange(len(labels)), np.where(labels == IGNORED, classes - 1, labels)] = 50.0
    return logits


def learned(tokenizer, text, spans, rule, words=None):
    """The predictions of a perfect model, and the lost spans."""
    tags = bio_tags(["A", "B"])
    example = SpanExample(text, spans, rule.split(text), HERE)
    encoded = encode_spans(tokenizer, [example], tags, max_length=40, overlap=10)
    logits = [certain(window.labels, len(tags)) for window in encoded.windows]
    [decoded] = decode_spans(encoded, logits, [words])
    return {span for span, _ in decoded}, {span for _, span in encoded.lost}


@st.composite
def labelled(draw):
    words, tags = [], []
    alphabet = WORDS[draw(st.sampled_from(sorted(WORDS)))]
    for _ in range(draw(st.integers(1, 8))):
        words.append(draw(st.sampled_from(alphabet)))
        tags.append(draw(st.sampled_from(["O", "B-A", "I-A", "B-B"])))
    return words, tags


@settings(max_examples=200, deadline=None)
@given(labelled(), st.sampled_from([" ", "", "_", " | "]))
def test_labels_of_words_are_recovered_from_the_text_alone_or_counted_as_lost(tokenizer, example, joined_by):
    words, tags = example
    text, places = join(words, joined_by)
    gold = spans_of_tags(places, tags)
    found, lost = learned(tokenizer, text, gold, WordRule.of_words(joined_by))
    assert set(gold) - found == lost


@settings(max_examples=100, deadline=None)
@given(labelled())
def test_no_span_is_lost_if_words_are_separate_and_no_token_covers_two(byte_level, example):
    words, tags = example
    text, places = join(words, " ")
    gold = spans_of_tags(places, tags)
    assert learned(byte_level, text, gold, WordRule.of_words(" ")) == (set(gold), set())
    assert learned(byte_level, text, gold, WordRule.of_words(" "), places) == (set(gold), set())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WORDS)), st.data())
def test_spans_by_offsets_are_recovered_or_counted_as_lost(tokenizer, script, data):
    text = " ".join(data.draw(st.lists(st.sampled_from(WORDS[script]), min_size=1, max_size=6)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=4)))
    gold = tuple(
        Span(begin, end, "A")
        for begin, end in zip(cuts[::2], cuts[1::2], strict=False)
        if text[begin:end].strip() == text[begin:end]
    )
    found, lost = learned(tokenizer, text, gold, WordRule("tokens"))
    assert set(gold) - found == lost


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["tokens", "words", "characters", "whole words"]), st.data())
def test_no_unit_separates_a_letter_from_its_marks(tokenizer, units, data):
    script = data.draw(st.sampled_from(sorted(WORDS)))
    text = data.draw(st.sampled_from([" ", ""])).join(data.draw(st.lists(st.sampled_from(WORDS[script]), min_size=1)))
    example = SpanExample(text, (), WordRule(units).split(text), HERE)
    [found] = encode_spans(tokenizer, [example], bio_tags(["A"]), max_length=500, overlap=0).units
    starts = {match.start() for match in regex.finditer(r"\X", text)} | {len(text)}
    assert {place for unit in found.offsets for place in unit} <= starts


def units_of(text, rule):
    return [text[begin:end] for begin, end in rule.split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr O'Neill's dog, 3M.", ["Mr", "O", "'", "Neill", "'", "s", "dog", ",", "3M", "."]),
        ("AT&T in the U.S.", ["AT", "&", "T", "in", "the", "U", ".", "S", "."]),
        ("東京タワー。iPhone", ["東", "京", "タ", "ワ", "ー", "。", "iPhone"]),
        ("मोहन दिल्ली।", ["मोहन", "दिल्ली", "।"]),
        ("น้ำ 서울에서", ["น้ำ", "서", "울", "에", "서"]),
        ("zoe\u0308 👨\u200d👩 🇯🇵x", ["zoe\u0308", "👨\u200d👩", "🇯🇵", "x"]),
        ("", []),
        (" \n", []),
    ],
)
def test_units_depend_on_the_text_alone(text, expected):
    assert units_of(text, WordRule("words")) == expected


def test_units_end_at_the_separator_of_the_words():
    assert units_of("Angela_Merkel_met", WordRule.of_words("_")) == ["Angela", "Merkel", "met"]
    assert units_of("e\u0301ab", WordRule.of_words("")) == ["e\u0301", "a", "b"]


def test_whole_words_are_the_text_between_spaces_without_punctuation_around_it():
    text = 'He: "Coca-Cola, AT&T (the U.S.)" @piet 3M. 東京A'
    assert units_of(text, WordRule("whole words")) == [
        "He", ":", '"', "Coca-Cola", ",", "AT&T", "(", "the", "U.S.", ")", '"', "@piet", "3M", ".", "東", "京", "A",
    ]  # fmt: skip


def test_the_first_token_of_a_whole_word_decides_its_tag(byte_level):
    text, rule, tags = "of Coca-Cola, import", WordRule("whole words"), bio_tags(["A"])
    encoded = encode_spans(byte_level, [SpanExample(text, (), rule.split(text), HERE)], tags, max_length=64, overlap=0)
    [window], [units] = encoded.windows, encoded.units
    assert len(window.ids) - 2 > len(units.offsets) == 4
    logits = np.random.default_rng(0).normal(size=(len(window.ids), 3))  # of tokens that were never trained
    logits[1 + units.anchors] = 0
    for anchor, tag in zip(units.anchors, ["O", "B-A", "O", "O"], strict=True):
        logits[1 + anchor, tags.index(tag)] = 9
    [[(span, _)]] = decode_spans(encoded, [logits])
    assert text[span.begin : span.end] == "Coca-Cola"


def test_a_token_of_two_words_neither_breaks_an_entity_nor_counts_as_found():
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "大阪", "城。"]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("大阪|城。"), "isolated")
    text, rule = "大阪城。", WordRule.of_words("")
    assert learned(tokenizer, text, (Span(0, 2, "A"),), rule) == ({Span(0, 2, "A")}, set())
    assert learned(tokenizer, text, (Span(0, 3, "A"),), rule) == ({Span(0, 4, "A")}, {Span(0, 3, "A")})


def test_no_span_ends_inside_a_word_of_a_given_list(byte_level):
    text, rule = "met AT&T now", WordRule("words")
    tags = bio_tags(["A"])
    encoded = encode_spans(byte_level, [SpanExample(text, (), rule.split(text), HERE)], tags, max_length=64, overlap=0)
    [window], [units] = encoded.windows, encoded.units
    logits = np.zeros((len(window.ids), 3))
    for anchor, tag in zip(units.anchors, ["O", "B-A", "O", "O", "O"], strict=True):
        logits[1 + anchor, tags.index(tag)] = 2.0
    [[(span, _)]] = decode_spans(encoded, [logits])
    assert text[span.begin : span.end] == "AT"
    assert decode_spans(encoded, [logits], [join(text.split(" "), " ")[1]]) == [()]
    logits[1 + units.anchors[2], tags.index("I-A")] = 4.0
    logits[1 + units.anchors[3], tags.index("I-A")] = 1.0
    [[(span, _)]] = decode_spans(encoded, [logits], [join(text.split(" "), " ")[1]])
    assert text[span.begin : span.end] == "AT&T"


FAMILY, FLAG, LETTER = "👨\u200d👩\u200d👧", "🇯🇵", "e\u0301"


def test_a_place_inside_a_character_is_seen_however_many_flags_are_before_it():
    text = f"ab {FLAG * 70}{FAMILY}{LETTER}"
    ends = {end for _, end in clusters(text)}
    assert [place for place in range(1, len(text)) if splits_cluster(text, place)] == [
        place for place in range(1, len(text)) if place not in ends
    ]


@pytest.mark.parametrize("cluster", [FAMILY, FLAG, LETTER, "한"])
def test_a_stretch_is_widened_to_whole_characters(cluster):
    text = f"a {cluster} b"
    for begin in range(2, 2 + len(cluster)):
        for end in range(begin + 1, 3 + len(cluster)):
            assert widen_to_clusters(text, begin, end) == (2, 2 + len(cluster))
    assert widen_to_clusters(" \u0301", 1, 2) == (1, 2)  # white space is never taken along


def test_a_quotation_mark_stays_with_its_marks():
    assert WordRule("whole words").split('"\u0301a b') == ((0, 3), (4, 5))


def test_positions_inside_characters_and_words():
    text = "ab e\u0301c 東京 서울 1x"
    assert [place for place in range(len(text) + 1) if splits_cluster(text, place)] == [4]
    assert [place for place in range(len(text) + 1) if inside_word(text, place)] == [1, 4, 5]
    text = "FCvs NY1 India 12a"
    ends = [place for place in range(len(text) + 1) if inside_word(text, place)]
    assert [text[place - 1 : place + 1] for place in ends] == ["FC", "vs", "NY", "In", "nd", "di", "ia", "12"]


def test_a_span_that_cuts_a_word_is_detected_if_no_token_ends_there(byte_level):
    text = "import json"
    example = SpanExample(text, (Span(0, 4, "A"), Span(7, 11, "A")), None, HERE)
    assert span_inside_word(byte_level, example) == (Span(0, 4, "A"), Span(0, 6, "A"))
    complete = SpanExample(text, (Span(0, 6, "A"), Span(7, 11, "A")), None, HERE)
    assert span_inside_word(byte_level, complete) is None
