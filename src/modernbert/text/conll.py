"""Sentences of CoNLL files: a line of columns for each word, and an empty line after each sentence."""

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from modernbert.text.opening import UnreadableError, read_lines
from modernbert.text.record import Origin, Record, RejectedRecord, Source

logger = logging.getLogger(__name__)

_LEADING_SENTENCES = 50  # in which the first column is checked for word numbers
_RANGE = re.compile(r"\d+[-.]\d+")  # words written as one, and words that are not written (CoNLL-U)

Lines = list[tuple[int, list[str]]]  # of a sentence: the number of each line, and its columns


def is_tag(text: str) -> bool:
    """Whether a text is a tag of a word: O, or B-NAME and the like (IOB, BIOES, BILOU, BMES)."""
    return text == "O" or (text[:2] in ("B-", "I-", "M-", "E-", "L-", "S-", "U-") and len(text) > 2)


def _read_sentences(path: Path, source: Source, names: list[str]) -> Iterator[Lines]:
    """The sentences of a file, without document markers and comments. Column names that the file gives go to `names`.

    Unless `source.comments` is set, comments are lines before a sentence that begin with # and do not end with a tag.
    """
    lines: Lines = []
    logged = False
    comments = source.comments
    for number, line in read_lines(path, source.encoding):
        text = line.strip(" \t\r\n")
        columns = re.split(r"[ \t]+", text)
        if not text.strip() or columns[0] == "-DOCSTART-":
            if lines:
                yield lines
            lines = []
            continue
        if re.search(r"\r[^\r]", text):
            sentence = f"{path}: its lines end with a carriage return (CR) without a line feed; save it with LF."
            raise UnreadableError("carriage returns", sentence, f"{path}:{number}")
        configured = comments is not None and line.startswith(comments)
        detected = (
            comments is None and not lines and text.startswith("#") and len(columns) > 1 and not is_tag(columns[-1])
        )
        if configured or detected:
            if not names and (found := re.fullmatch(r"#\s*global\.columns\s*=\s*(.*)", text)):
                names += found[1].split()
            if detected and not logged:
                logger.info("%s:%d begins with # and does not end with a tag; such lines are comments.", path, number)
                logged = True
            continue
        lines.append((number, columns))
    if lines:
        yield lines


def _first_column_has_numbers(sentences: Sequence[Lines]) -> bool:
    """Whether the first of at least three columns numbers the words 1, 2, 3 ... in all of these sentences."""
    several_words = False
    for lines in sentences:
        if any(len(columns) < 3 for _, columns in lines):
            return False
        numbers = [columns[0] for _, columns in lines if not _RANGE.fullmatch(columns[0])]
        if numbers != [str(number) for number in range(1, len(numbers) + 1)]:
            return False
        several_words = several_words or len(numbers) > 1
    return several_words


def read_conll(path: Path, source: Source) -> Iterator[Record | RejectedRecord]:
    """Sentences between empty lines; the word is the first column, the tag the last. -DOCSTART- lines are left out.

    A record also has every column by its number, from "1", and by its name if `columns` or a line `# global.columns`
    names it. If the first column numbers the words, the word is the second column, and the tag the only column of tags.
    """
    names: list[str] = list(source.columns or ())
    sentences = _read_sentences(path, source, names)
    leading = list(islice(sentences, _LEADING_SENTENCES))
    numbered = _first_column_has_numbers(leading)
    if numbered:
        logger.info("%s: the first column numbers the words, so the second column is the word.", path)
    for words in chain(leading, sentences):
        if numbered:
            words = [(number, columns) for number, columns in words if not _RANGE.fullmatch(columns[0])]
        untagged = next(((number, columns[0]) for number, columns in words if len(columns) == 1), None)
        if untagged is not None:
            number, word = untagged
            message = f"the word {word!r} has no tag; give the word, a tab or a space, and its tag."
            yield RejectedRecord("no tag", message, Origin(str(path), number))
        elif words:
            lines = [number for number, _ in words]
            width = min(len(columns) for _, columns in words)
            cells = [[columns[index] for _, columns in words] for index in range(width)]
            values: dict[str, Any] = {"words": cells[1 if numbered else 0], "lines": lines}
            last = [columns[-1] for _, columns in words]
            tagged = [column for column in cells[2:] if all(map(is_tag, column))]
            if not numbered or len(tagged) < 2:
                values["tags"] = tagged[0] if numbered and tagged else last
            values |= {str(index): column for index, column in enumerate(cells, 1)}
            values |= dict(zip(names, cells, strict=False))
            yield Record(values, Origin(str(path), lines[0]))
