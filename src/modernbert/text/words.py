"""Where a text may be cut into the pieces that get one tag each.

A grapheme cluster (a letter with its combining marks, an emoji sequence) is never parted: Unicode Standard Annex 29, as
the package `regex` implements it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

Places = tuple[tuple[int, int], ...]
Units = Literal["tokens", "words", "characters", "whole words"]

# Scripts that are written without spaces, and Hangul, whose particles follow a name without one.
_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Yi}"
    r"\p{Javanese}\p{Balinese}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Viet}ーｰ々〆"
)
_CLUSTER = regex.compile(r"\X")
_APART = regex.compile(r"\p{GCB=Other}{2}")  # between two such characters a cluster always ends
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
    """How texts are cut into units. It is kept in the folder of a model, so that training and prediction cut alike.

    - `words`: runs of letters and digits; every other character, and every character of a script without spaces, alone.
    - `characters`: every character. Both leave out white space, and cut where `joined_by` stands.
    - `whole words`: what stands between spaces, without the marks around it, for models of which only the first token
      of each word was trained and nobody knows how the words were made.
    - `tokens`: the smallest pieces that end where tokens end.
    """

    units: Units
    joined_by: str = " "

    @classmethod
    def of_words(cls, joined_by: str) -> "WordRule":
        """The rule for data whose words are given, joined by something or by nothing."""
        return cls("words" if joined_by else "characters", joined_by)

    def cut(self, text: str) -> Places | None:
        """The units of a text; None where its tokens decide."""
        if self.units == "tokens":
            return None
        if self.units == "whole words":
            return _whole_words(text)
        return tuple(_pieces(text, self.joined_by, alone=self.units == "characters"))


def join(words: Sequence[str], joined_by: str) -> tuple[str, Places]:
    """The text of some words, and where they stand in it."""
    places, begin = [], 0
    for word in words:
        places.append((begin, begin + len(word)))
        begin += len(word) + len(joined_by)
    return joined_by.join(words), tuple(places)


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """The grapheme clusters of a text in order."""
    return (match.span() for match in _CLUSTER.finditer(text))


def parts_cluster(text: str, place: int) -> bool:
    """Whether a cut at a place would part a letter from its marks."""
    if not 0 < place < len(text) or _APART.match(text, place - 1):
        return False
    begin = max(0, place - 64)  # clusters are shorter: a search from there finds their ends again
    return place - begin not in {one for one, _ in clusters(text[begin : place + 1])}


def inside_word(text: str, place: int) -> bool:
    """Whether a place is between two letters, or two digits, of a script that is written with spaces.

    Between a letter and a digit, and behind an abbreviation in capitals (the FC of "FCvs"), a word may well end.
    """
    if not 0 < place < len(text) or any(_UNSPACED_CLUSTER.match(text, at) for at in (place - 1, place)):
        return False
    if place >= 2 and _ABBREVIATED.match(text, place - 2):
        return False
    return any(_BOTH[kind].match(text, place - 1) is not None for kind in ("letters", "digits"))


def word_around(text: str, begin: int, end: int) -> tuple[int, int]:
    """The stretch widened to the letters and digits that it cuts."""
    while inside_word(text, begin):
        begin -= 1
    while inside_word(text, end):
        end += 1
    return begin, end


def _pieces(text: str, joined_by: str, alone: bool) -> Iterator[tuple[int, int]]:
    joints = _joints(text, joined_by)
    word = None  # where the one that goes on has begun
    for begin, end in clusters(text):
        blank = text[begin:end].isspace() or begin in joints
        goes_on = not (blank or alone or _UNSPACED_CLUSTER.match(text, begin)) and _WORD_CLUSTER.match(text, begin)
        if word is not None and not goes_on:
            yield word, begin
            word = None
        if goes_on and word is None:
            word = begin
        elif not goes_on and not blank:
            yield begin + len(text[begin:end]) - len(text[begin:end].lstrip()), end
    if word is not None:
        yield word, len(text)


def _joints(text: str, joined_by: str) -> set[int]:
    """The characters that stand between words, where it is not white space that does."""
    if not joined_by.strip():
        return set()
    return {at for match in regex.finditer(regex.escape(joined_by), text) for at in range(*match.span())}


def _whole_words(text: str) -> Places:
    found: list[tuple[int, int]] = []
    for chunk in _CHUNK.finditer(text):
        begin, end = chunk.span()
        while begin < end - 1 and _OPENS.match(text, begin):
            found.append((begin, begin + 1))
            begin += 1
        behind: list[tuple[int, int]] = []
        while end > begin + 1 and _CLOSES.match(text, end - 1) and not _ABBREVIATION.fullmatch(text, begin, end):
            behind.append((end - 1, end))
            end -= 1
        found += _runs(text, begin, end)
        found += reversed(behind)
    return tuple(found)


def _runs(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """A stretch without spaces as it is, but for characters of scripts that never have any."""
    start = begin
    for one, other in clusters(text[begin:end]):
        if _UNSPACED_CLUSTER.match(text, begin + one):
            if start < begin + one:
                yield start, begin + one
            yield begin + one, begin + other
            start = begin + other
    if start < end:
        yield start, end
