"""Labelled examples: what a task's files hold, whatever their format, before any tokenizer has seen them.

Offsets count characters (Unicode code points), the end is exclusive: `text[begin:end]`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where an example stands, for messages about it: a file and a line, or a row."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class TextExample:
    """A text, or a pair of texts, with a class, several classes, a number, or nothing to be predicted yet."""

    text: str
    pair: str | None
    label: str | tuple[str, ...] | float | None
    origin: Origin


@dataclass(frozen=True)
class Span:
    """A piece of a text with a label."""

    begin: int
    end: int
    label: str


def is_tag(text: str) -> bool:
    """Whether a text is a tag of a word: O, or B-NAME and the like (IOB, BIOES, BILOU, BMES)."""
    return text == "O" or (text[:2] in ("B-", "I-", "M-", "E-", "L-", "S-", "U-") and len(text) > 2)


@dataclass(frozen=True)
class SpanExample:
    """A text and the spans in it, in order and not overlapping.

    `words` are the pieces that get one tag each: those that the file itself cuts the text into (CoNLL), or those of a
    `WordRule`; None where spans are all that is known.
    """

    text: str
    spans: tuple[Span, ...]
    words: tuple[tuple[int, int], ...] | None
    origin: Origin


@dataclass(frozen=True)
class Answer:
    """An accepted answer: its text, and where it begins in the context."""

    text: str
    begin: int


@dataclass(frozen=True)
class QuestionExample:
    """A question about a context, with every accepted answer; none means that the context does not tell."""

    identifier: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    origin: Origin


@dataclass(frozen=True)
class ChoiceExample:
    """A question and its possible answers, of which number `label` is right (None: not known)."""

    question: str
    choices: tuple[str, ...]
    label: int | None
    origin: Origin
