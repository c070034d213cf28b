"""Sentences of CoNLL files: a line for each word, in columns, and an empty line behind each sentence."""

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from modernbert.text.opening import UnreadableError, read_lines
from modernbert.text.record import Origin, Record, RejectedRecord, Source

logger = logging.getLogger(__name__)

_LEADING_SENTENCES = 50  # they decide whether the first column counts
_RANGE = re.compile(r"\d+[-.]\d+")  # words written as one, and words that are not written (CoNLL-U)

Rows = list[tuple[int, list[str]]]  # of a sentence: the number of each line, and its columns


def is_tag(text: str) -> bool:
    """Whether a text is a tag of a word: O, or B-NAME and the like (IOB, BIOES, BILOU, BMES)."""
    return text == "O" or (text[:2] in ("B-", "I-", "M-", "E-", "L-", "S-", "U-") and len(text) > 2)


def _read_sentences(path: Path, source: Source, names: list[str]) -> Iterator[Rows]:
    """The sentences of columns, without markers and comments; `names` takes what the file itself calls its columns.

    Unless told by what they begin, comments are lines before a sentence that begin with # and do not end with a tag.
    """
    rows: Rows = []
    noticed = False
    comments = source.comments
    for number, line in read_lines(path, source.encoding):
        text = line.strip(" \t\r\n")
        columns = re.split(r"[ \t]+", text)
        if not text.strip() or columns[0] == "-DOCSTART-":
            if rows:
                yield rows
            rows = []
            continue
        if re.search(r"\r[^\r]", text):
            sentence = f"{path}: its lines end with a carriage return alone (CR); save it with line feeds (LF)."
            raise UnreadableError("carriage returns", sentence, f"{path}:{number}")
        told = comments is not None and line.startswith(comments)
        seen = comments is None and not rows and text.startswith("#") and len(columns) > 1 and not is_tag(columns[-1])
        if told or seen:
            if not names and (found := re.fullmatch(r"#\s*global\.columns\s*=\s*(.*)", text)):
                names += found[1].split()
            if seen and not noticed:
                logger.info("%s:%d begins with # and ends with no tag: lines like it are comments.", path, number)
                noticed = True
            continue
        rows.append((number, columns))
    if rows:
        yield rows


def _counts_words(sentences: Sequence[Rows]) -> bool:
    """Whether the first of at least three columns counts 1, 2, 3 in all of these sentences."""
    evident = False
    for rows in sentences:
        if any(len(columns) < 3 for _, columns in rows):
            return False
        numbers = [columns[0] for _, columns in rows if not _RANGE.fullmatch(columns[0])]
        if numbers != [str(number) for number in range(1, len(numbers) + 1)]:
            return False
        evident = evident or len(numbers) > 1
    return evident


def read_conll(path: Path, source: Source) -> Iterator[Record | RejectedRecord]:
    """Sentences between empty lines; the word is the first column, the tag the last. -DOCSTART- lines are left out.

    Every column is there by its number too, from "1", and by its name where `columns` or a line `# global.columns`
    names it. Where the first column counts the words, the word is the second, and the tag the only column of tags.
    """
    names: list[str] = list(source.columns or ())
    sentences = _read_sentences(path, source, names)
    beginning = list(islice(sentences, _LEADING_SENTENCES))
    counted = _counts_words(beginning)
    if counted:
        logger.info("%s: the first column counts the words, so the second one is the word.", path)
    for rows in chain(beginning, sentences):
        if counted:
            rows = [(number, columns) for number, columns in rows if not _RANGE.fullmatch(columns[0])]
        untagged = next(((number, columns[0]) for number, columns in rows if len(columns) == 1), None)
        if untagged is not None:
            number, word = untagged
            message = f"the word {word!r} has no tag; give the word, a tab or a space, and its tag."
            yield RejectedRecord("no tag", message, Origin(str(path), number))
        elif rows:
            lines = [number for number, _ in rows]
            width = min(len(columns) for _, columns in rows)
            cells = [[columns[place] for _, columns in rows] for place in range(width)]
            values: dict[str, Any] = {"words": cells[1 if counted else 0], "lines": lines}
            last = [columns[-1] for _, columns in rows]
            tagged = [column for column in cells[2:] if all(map(is_tag, column))]
            if not counted or len(tagged) < 2:
                values["tags"] = tagged[0] if counted and tagged else last
            values |= {str(place): column for place, column in enumerate(cells, 1)}
            values |= dict(zip(names, cells, strict=False))
            yield Record(values, Origin(str(path), lines[0]))
