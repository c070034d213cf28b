"""Tokens of a text with their character offsets, and windows over texts that are too long."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from modernbert.errors import ConfigError
from modernbert.text.framing import Ids

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A text as tokens, without [CLS] and [SEP].

    `offsets` (tokens, 2) are the characters of a token, without white space around them. Several tokens of one
    character (bytes of an emoji) have the same offsets. A token of white space alone has an empty range.
    """

    text: str
    ids: Ids
    offsets: Offsets

    @classmethod
    def of(cls, text: str, encoding: Encoding) -> "TokenizedText":
        return cls(text, np.array(encoding.ids, dtype=np.int32), _offsets(text, encoding.offsets))

    def covering(self, begin: int, end: int) -> tuple[int, int] | None:
        """The first and the last token with a character of `text[begin:end]`; None if it is white space alone."""
        first = int(np.searchsorted(self.offsets[:, 1], begin, side="right"))
        last = int(np.searchsorted(self.offsets[:, 0], end, side="left")) - 1
        return (first, last) if first <= last else None


def windows(num_tokens: int, max_tokens: int, overlap: int) -> list[tuple[int, int]]:
    """Begin and end of windows of at most `max_tokens` tokens that cover a text; neighbours share `overlap` tokens.

    They never share more than half a window, which limits the number of windows to twice the smallest possible one.

    Raises:
        ConfigError: `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise ConfigError("max_length leaves no room for a token of the text; take a larger one.")
    shared = min(overlap, max_tokens // 2)
    begins = range(0, max(1, num_tokens - shared), max_tokens - shared)
    return [(begin, min(begin + max_tokens, num_tokens)) for begin in begins]


def best_windows(spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """For every token the index of the window with the most context on the token's narrower side.

    The beginning and the end of the text do not limit the context. Of equal windows the first one is used.
    """
    num_tokens = spans[-1][1]
    best, best_context = np.zeros(num_tokens, dtype=np.int64), np.full(num_tokens, -1, dtype=np.int64)
    for number, (begin, end) in enumerate(spans):
        positions = np.arange(begin, end)
        left = positions - begin if begin else np.full(end - begin, num_tokens)
        right = end - 1 - positions if end < num_tokens else np.full(end - begin, num_tokens)
        context = np.minimum(left, right)
        better = context > best_context[begin:end]
        best[begin:end][better] = number
        best_context[begin:end][better] = context[better]
    return best


def _offsets(text: str, offsets: Sequence[tuple[int, int]]) -> Offsets:
    """The tokenizer's offsets without white space, with bytes mapped to their characters, and with combining marks."""
    trimmed: list[list[int]] = []
    for (begin, end), group in groupby(offsets):
        covered = text[begin:end]
        num_tokens = len(list(group))
        if num_tokens == len(covered.encode()):  # a run of unknown characters, with a token for each byte
            for index, character in enumerate(covered, begin):
                trimmed += [[index + character.isspace(), index + 1]] * len(character.encode())
            continue
        stop = begin + len(covered.rstrip())
        start = end - len(covered.lstrip())
        trimmed += [[start, max(start, stop)] for _ in range(num_tokens)]
    for number, (_, end) in enumerate(trimmed):
        following = trimmed[number + 1][0] if number + 1 < len(trimmed) else len(text)
        if end < following and (between := text[end:following].rstrip()) and not between[0].isspace():
            stretched = end + len(between)  # the offsets of a letter and its mark, composed into one, lack the mark
            for other in range(number, -1, -1):
                if trimmed[other][1] != end:
                    break
                trimmed[other] = [trimmed[other][0], stretched]
    # composing may change the order of marks, but binary search needs both columns to rise
    return np.maximum.accumulate(np.array(trimmed, dtype=np.int64).reshape(-1, 2), axis=0)
