"""Ids equal those of the tokenizers of transformers, including special tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from modernbert.errors import ConfigError
from modernbert.text.framing import encode_texts, encodings
from modernbert.text.offsets import TokenizedText
from modernbert.text.tokenizer import load_tokenizer

# Any text, and much of what is hard: unknown characters, emoji of several, marks to be composed, runs of spaces.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from("aé e\u0301\u0323 日本東京😀👨\u200d👩ﬁ각\u1112\u1161  \n.क्षि𠮷"), max_size=40),
)


def tokenized(tokenizer, text):
    return TokenizedText.of(text, next(encodings(tokenizer, [text])))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.tuples(TEXTS, st.none() | TEXTS.filter(bool)), min_size=1, max_size=3),
    max_length=st.integers(5, 40),
)
def test_truncated_ids_are_those_of_transformers(tokenizer_folder, texts, max_length):
    theirs = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    firsts, seconds = [first for first, _ in texts], [second for _, second in texts]
    found = encode_texts(load_tokenizer(tokenizer_folder), firsts, seconds, max_length=max_length)
    for (first, second), ids in zip(texts, found.ids, strict=True):
        expected = theirs(first, second, truncation="longest_first", max_length=max_length)["input_ids"]
        assert ids.tolist() == expected
    full_lengths = [len(theirs(first, second)["input_ids"]) for first, second in texts]
    assert found.truncated == sum(length > max_length for length in full_lengths)


def test_ids_are_those_of_the_published_tokenizer(shared):
    tokenizer = load_tokenizer(shared / "modernbert-tokenizer")
    cases = json.loads((shared / "modernbert-tokenizer" / "golden_ids.json").read_text(encoding="utf-8"))["cases"]
    found = encode_texts(tokenizer, [case["text"] for case in cases], max_length=8192)
    assert [ids.tolist() for ids in found.ids] == [case["input_ids"] for case in cases]


def test_a_max_length_too_short_for_a_text_is_refused(byte_level):
    with pytest.raises(ConfigError, match="no room"):
        encode_texts(byte_level, ["a"], ["b"], max_length=4)


def test_special_tokens_written_in_a_text_are_text(byte_level):
    cls_id, sep_id, mask_id = (byte_level.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    text = "write [MASK] and [SEP] here"
    [ids] = encode_texts(byte_level, [text], max_length=64).ids
    assert (ids[0], ids[-1]) == (cls_id, sep_id)
    assert not {cls_id, sep_id, mask_id} & set(ids[1:-1].tolist())
    assert byte_level.decode(ids[1:-1].tolist()) == text
    assert tokenized(byte_level, text).ids.tolist() == ids[1:-1].tolist()
