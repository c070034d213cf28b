"""Split texts into the units that get one tag each.

A grapheme cluster (a letter with its combining marks, an emoji sequence) is never split: Unicode Standard Annex 29, as
the package `regex` implements it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

WordOffsets = tuple[tuple[int, int], ...]  # begin and end of each word or unit, in characters
Units = Literal["tokens", "words", "characters", "whole words"]

# Scripts that are written without spaces, and Hangul, whose particles follow a name without one.
_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Yi}"
    r"\p{Javanese}\p{Balinese}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Viet}ーｰ々〆"
)
_CLUSTER = regex.compile(r"\X")
_APART = regex.compile(r"\p{GCB=Other}{2}")  # a cluster always ends between two of these characters
_HALF_FLAGS = regex.compile(r"(?r)\p{Regional_Indicator}*")  # backwards from a place
_UNSPACED_CLUSTER = regex.compile(rf"[{_UNSPACED}]")
_WORD_CLUSTER = regex.compile(r"[\p{L}\p{M}\p{N}]")
_BOTH = {"letters": regex.compile(r"[\p{L}\p{M}]{2}"), "digits": regex.compile(r"\p{N}{2}")}
_ABBREVIATED = regex.compile(r"\p{Lu}\p{Lu}\p{Ll}")
_CHUNK = regex.compile(r"\S+")
_OPENS = regex.compile(r"[\p{Ps}\p{Pi}\p{Pf}\"'¿¡]")
_CLOSES = regex.compile(r"[\p{Pe}\p{Pi}\p{Pf}\"',;:!?.…。、]")
_ABBREVIATION = regex.compile(r"(?:\p{L}\p{M}*\.){2,}")


@dataclass(frozen=True)
class WordRule:
    """How texts are split into units. The folder of a model keeps it, so that training and prediction split alike.

    - `words`: runs of letters and digits. Any other character, and each character of a script without spaces, is one.
    - `characters`: every character. `words` and `characters` leave out white space and `joined_by`.
    - `whole words`: the text between spaces, without the punctuation around it. For models that were trained on the
      first token of each word, in an unknown definition of words.
    - `tokens`: the smallest parts of the text that end at the end of a token.
    """

    units: Units
    joined_by: str = " "

    @classmethod
    def of_words(cls, joined_by: str) -> "WordRule":
        """The rule for data with words, which are joined by a text or (empty) by nothing."""
        return cls("words" if joined_by else "characters", joined_by)

    def split(self, text: str) -> WordOffsets | None:
        """The units of a text; None if its tokens decide."""
        if self.units == "tokens":
            return None
        if self.units == "whole words":
            return _whole_words(text)
        return tuple(_split(text, self.joined_by, by_character=self.units == "characters"))


def join(words: Sequence[str], joined_by: str) -> tuple[str, WordOffsets]:
    """The text of some words, and their offsets in it."""
    offsets, begin = [], 0
    for word in words:
        offsets.append((begin, begin + len(word)))
        begin += len(word) + len(joined_by)
    return joined_by.join(words), tuple(offsets)


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """The grapheme clusters of a text in order."""
    return (match.span() for match in _CLUSTER.finditer(text))


def splits_cluster(text: str, position: int) -> bool:
    """Whether a split at a position would separate a letter from its combining marks, or an emoji sequence."""
    if not 0 < position < len(text) or _APART.match(text, position - 1):
        return False
    begin = max(0, position - 64)  # clusters are shorter, so a search from there finds their ends
    begin -= len(_HALF_FLAGS.match(text, 0, begin)[0])  # except in a row of flags, of two characters each
    return position - begin not in {one for one, _ in clusters(text[begin : position + 1])}


def widen_to_clusters(text: str, begin: int, end: int) -> tuple[int, int]:
    """A span, widened to the grapheme clusters that it begins or ends in, but not over white space."""
    while splits_cluster(text, begin) and not text[begin - 1].isspace():
        begin -= 1
    while splits_cluster(text, end) and not text[end].isspace():
        end += 1
    return begin, end


def inside_word(text: str, position: int) -> bool:
    """Whether a position is between two letters, or two digits, of a script that is written with spaces.

    A word may end between a letter and a digit, and after an abbreviation in capitals (the FC of "FCvs").
    """
    if not 0 < position < len(text) or any(_UNSPACED_CLUSTER.match(text, at) for at in (position - 1, position)):
        return False
    if position >= 2 and _ABBREVIATED.match(text, position - 2):
        return False
    return any(_BOTH[kind].match(text, position - 1) is not None for kind in ("letters", "digits"))


def widen_to_words(text: str, begin: int, end: int) -> tuple[int, int]:
    """A span, widened to the whole words that it begins or ends in."""
    while inside_word(text, begin):
        begin -= 1
    while inside_word(text, end):
        end += 1
    return begin, end


def _split(text: str, joined_by: str, by_character: bool) -> Iterator[tuple[int, int]]:
    separators = _separators(text, joined_by)
    word_begin = None  # begin of the current word
    for begin, end in clusters(text):
        blank = text[begin:end].isspace() or begin in separators
        alone = blank or by_character or _UNSPACED_CLUSTER.match(text, begin)
        in_word = not alone and _WORD_CLUSTER.match(text, begin)
        if word_begin is not None and not in_word:
            yield word_begin, begin
            word_begin = None
        if in_word and word_begin is None:
            word_begin = begin
        elif not in_word and not blank:
            yield begin + len(text[begin:end]) - len(text[begin:end].lstrip()), end
    if word_begin is not None:
        yield word_begin, len(text)


def _separators(text: str, joined_by: str) -> set[int]:
    """The positions of the separators between words, unless these are white space."""
    if not joined_by.strip():
        return set()
    return {at for match in regex.finditer(regex.escape(joined_by), text) for at in range(*match.span())}


def _whole_words(text: str) -> WordOffsets:
    words: list[tuple[int, int]] = []
    for chunk in _CHUNK.finditer(text):
        begin, end = chunk.span()
        while begin < end - 1 and _OPENS.match(text, begin) and not splits_cluster(text, begin + 1):
            words.append((begin, begin + 1))
            begin += 1
        trailing: list[tuple[int, int]] = []
        while end > begin + 1 and _CLOSES.match(text, end - 1) and not _ABBREVIATION.fullmatch(text, begin, end):
            trailing.append((end - 1, end))
            end -= 1
        words += _runs(text, begin, end)
        words += reversed(trailing)
    return tuple(words)


def _runs(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """A text without spaces as one unit, but each character of a script without spaces as its own unit."""
    start = begin
    for first, last in clusters(text[begin:end]):
        if _UNSPACED_CLUSTER.match(text, begin + first):
            if start < begin + first:
                yield start, begin + first
            yield begin + first, begin + last
            start = begin + last
    if start < end:
        yield start, end
