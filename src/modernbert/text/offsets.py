"""A text as tokens that know their characters, and windows over texts that are too long."""

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

    `offsets` (tokens, 2) are the characters that a token stands for, without white space around them. Several tokens
    of one character (bytes of an emoji) have the same offsets; a token of white space alone has an empty one.
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


def windows(num_tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Begin and end of windows of at most `room` tokens that cover all; neighbours share `stride` tokens.

    They never share more than half a window, so that their number stays within twice what is needed.

    Raises:
        ConfigError: there is no room for a token.
    """
    if room < 1:
        raise ConfigError("max_length leaves no room for a token of the text; take a larger one.")
    shared = min(stride, room // 2)
    return [(begin, min(begin + room, num_tokens)) for begin in range(0, max(1, num_tokens - shared), room - shared)]


def best_windows(cut: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """For every token the number of the window in which it sees the most on its narrower side.

    Where a window ends with the text nothing is hidden; of equal ones the first is taken.
    """
    num_tokens = cut[-1][1]
    best, seen = np.zeros(num_tokens, dtype=np.int64), np.full(num_tokens, -1, dtype=np.int64)
    for number, (begin, end) in enumerate(cut):
        places = np.arange(begin, end)
        left = places - begin if begin else np.full(end - begin, num_tokens)
        right = end - 1 - places if end < num_tokens else np.full(end - begin, num_tokens)
        context = np.minimum(left, right)
        better = context > seen[begin:end]
        best[begin:end][better] = number
        seen[begin:end][better] = context[better]
    return best


def _offsets(text: str, given: Sequence[tuple[int, int]]) -> Offsets:
    """The tokenizer's offsets: white space off, runs of bytes laid upon their characters, composed marks included."""
    trimmed: list[list[int]] = []
    for (begin, end), same in groupby(given):
        piece = text[begin:end]
        num_tokens = len(list(same))
        if num_tokens == len(piece.encode()):  # unknown characters in a row, a token for each byte
            for place, character in enumerate(piece, begin):
                trimmed += [[place + character.isspace(), place + 1]] * len(character.encode())
            continue
        stop = begin + len(piece.rstrip())
        start = end - len(piece.lstrip())
        trimmed += [[start, max(start, stop)] for _ in range(num_tokens)]
    for number, (_, end) in enumerate(trimmed):
        following = trimmed[number + 1][0] if number + 1 < len(trimmed) else len(text)
        if end < following and (between := text[end:following].rstrip()) and not between[0].isspace():
            stretched = end + len(between)  # of a letter and its mark, composed into one, only the letter was told
            for other in range(number, -1, -1):
                if trimmed[other][1] != end:
                    break
                trimmed[other] = [trimmed[other][0], stretched]
    # composing may change the order of marks; a search needs both columns to rise
    return np.maximum.accumulate(np.array(trimmed, dtype=np.int64).reshape(-1, 2), axis=0)
