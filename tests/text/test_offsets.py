"""Offsets cover every character, and windows every token."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import ConfigError
from modernbert.text.framing import encodings
from modernbert.text.offsets import TokenizedText, best_windows, windows

# Any text, and much of what is hard: unknown characters, emoji of several, marks to be composed, runs of spaces.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from("aé e\u0301\u0323 日本東京😀👨\u200d👩ﬁ각\u1112\u1161  \n.क्षि𠮷"), max_size=40),
)


def tokenized(tokenizer, text):
    return TokenizedText.of(text, next(encodings(tokenizer, [text])))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_offsets_rise_and_cover_all_but_white_space(tokenizer, text):
    found = tokenized(tokenizer, text)
    assert (np.diff(found.offsets, axis=0) >= 0).all()
    covered = np.zeros(len(text), dtype=bool)
    for begin, end in found.offsets:
        assert begin == end or (not text[begin].isspace() and not text[end - 1].isspace())
        covered[begin:end] = True
    assert all(character.isspace() for character, seen in zip(text, covered, strict=True) if not seen)


@given(num_tokens=st.integers(0, 200), max_tokens=st.integers(1, 50), overlap=st.integers(0, 60))
def test_windows_cover_all_tokens_and_share_the_overlap(num_tokens, max_tokens, overlap):
    cut = windows(num_tokens, max_tokens, overlap)
    assert cut[0][0] == 0
    assert cut[-1][1] == num_tokens
    for one, other in pairwise(cut):
        assert one[1] - other[0] == min(overlap, max_tokens // 2)
        assert one[1] - one[0] == max_tokens
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
