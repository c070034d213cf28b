"""Sentences of CoNLL files: a line for each word, in columns, and an empty line behind each sentence."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from modernbert.text.examples import is_tag
from modernbert.text.opening import UnreadableError, read_lines

logger = logging.getLogger(__name__)

LOOKED_AT = 50  # sentences that tell whether the first column counts
RANGE = re.compile(r"\d+[-.]\d+")  # words written as one, and words that are not written (CoNLL-U)

Rows = list[tuple[int, list[str]]]  # of a sentence: the number of each line, and its columns


def read_sentences(path: Path, comments: str | None, names: list[str]) -> Iterator[Rows]:
    """The sentences of columns, without markers and comments; `names` takes what the file itself calls its columns.

    Unless told by what they begin, comments are lines before a sentence that begin with # and do not end with a tag.
    """
    rows: Rows = []
    noticed = False
    for number, line in read_lines(path):
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


def counts_words(sentences: Sequence[Rows]) -> bool:
    """Whether the first of at least three columns counts 1, 2, 3 in all of these sentences."""
    evident = False
    for rows in sentences:
        if any(len(columns) < 3 for _, columns in rows):
            return False
        numbers = [columns[0] for _, columns in rows if not RANGE.fullmatch(columns[0])]
        if numbers != [str(number) for number in range(1, len(numbers) + 1)]:
            return False
        evident = evident or len(numbers) > 1
    return evident
