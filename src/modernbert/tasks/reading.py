"""Labelled examples from files of every usual format; what is wrong is told with file and line.

`Source` says where the data lies, the functions which columns hold what. Each gives `Examples`: read as they are asked
for, the same ones every time.
"""

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, Literal, SupportsFloat, TypeVar

from modernbert.errors import DataError
from modernbert.tasks.reading_questions import question_example
from modernbert.tasks.reading_spans import marked_example, tagged_example
from modernbert.text.examples import ChoiceExample, QuestionExample, SpanExample, TextExample
from modernbert.text.records import Bad, Format, Record, Source, missing_column, read_records

__all__ = [
    "Examples", "Format", "Kind", "Source", "read_choices", "read_questions", "read_spans", "read_texts_with_labels",
]  # fmt: skip

Kind = Literal["class", "classes", "number"]
T = TypeVar("T", TextExample, SpanExample, QuestionExample, ChoiceExample)


class Examples(Generic[T]):
    """The examples of a source. Each loop over them reads the source anew.

    The first one that is bad is an error, unless `skip_bad`: then it is left out, and `skipped` counts the reasons of
    the last loop.

    Raises, while it is read:
        DataError: an example is bad, none is good, or the source cannot be read.
    """

    def __init__(self, source: Source, make: Callable[[Record], T | Bad], skip_bad: bool) -> None:
        self.source = source
        self.skipped: Counter[str] = Counter()
        self._make: Callable[[Record], T | Bad] = make
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[T]:
        self.skipped = Counter()
        empty, first = True, None
        for record in read_records(self.source):
            found = record if isinstance(record, Bad) else self._make(record)
            if not isinstance(found, Bad):
                empty = False
                yield found
            elif self._skip_bad:
                first = first or found
                self.skipped[found.reason] += 1
            else:
                raise found.error()
        if empty:
            because = f"; the first is {first.origin}: {first.sentence}" if first else "; it is empty."
            raise DataError(f"{self.source.path} holds no example that can be used{because}")


def read_texts_with_labels(
    source: Source | str | Path,
    *,
    text: str = "text",
    pair: str | None = None,
    label: str | Sequence[str] | None = "label",
    kind: Kind = "class",
    labels: Collection[str] | None = None,
    separator: str = ",",
    skip_bad: bool = False,
) -> Examples[TextExample]:
    """Texts, or pairs of texts, and what is to be predicted of them. The names are those of columns.

    `class` is one label, as it is written (a number too); `classes` is a list of them, also written as a text
    (`['red', 'blue']`), or a text cut at `separator`, or with several columns named the names of those that hold 1;
    `number` is a finite number. Without `label` nothing is read of it, for prediction. `labels` are the only ones
    allowed.
    """

    def make(record: Record) -> TextExample | Bad:
        texts = [_text(record, column) for column in (text, pair) if column is not None]
        for found in texts:
            if isinstance(found, Bad):
                return found
        wanted = None if label is None else _label(record, label, kind, separator)
        if isinstance(wanted, Bad):
            return wanted
        for one in wanted if isinstance(wanted, tuple) else (wanted,):
            if labels is not None and isinstance(one, str) and one not in labels:
                return _unknown_label(record, one, labels)
        first, *rest = (str(found) for found in texts)
        return TextExample(first, rest[0] if rest else None, wanted, record.origin)

    return Examples(_source(source), make, skip_bad)


def read_spans(
    source: Source | str | Path,
    *,
    text: str = "text",
    spans: str = "entities",
    words: str | None = None,
    tags: str | None = None,
    joined_by: str = " ",
    labels: Collection[str] | None = None,
    check: Callable[[SpanExample], Bad | None] | None = None,
    skip_bad: bool = False,
) -> Examples[SpanExample]:
    """Texts with labelled spans.

    Either a column `text` and a column `spans`, a list of [begin, end, label] or of objects with those names (also
    `start`, `start_offset`, `end_offset`, `span`, `type`; if they tell the text of the span, as `text` or `name`, it is
    compared). Or columns `words` and `tags` (IOB, IOB2, BIOES), which CoNLL files have; the text is then the words
    `joined_by` something. Offsets count characters. `labels` are the only ones allowed; `check` may refuse an example.
    White space at the ends of a span is no part of it.
    """

    def make(record: Record) -> SpanExample | Bad:
        if words is not None or (text not in record.values and "words" in record.values):
            found = tagged_example(record, words or "words", tags or "tags", joined_by)
        else:
            content = _text(record, text)
            found = content if isinstance(content, Bad) else marked_example(record, content, spans)
        if isinstance(found, SpanExample) and labels is not None:
            for span in found.spans:
                if span.label not in labels:
                    return _unknown_label(record, span.label, labels)
        if isinstance(found, SpanExample) and check is not None and (bad := check(found)):
            return bad
        return found

    return Examples(_source(source), make, skip_bad)


def read_questions(
    source: Source | str | Path,
    *,
    question: str = "question",
    context: str = "context",
    answers: str | None = "answers",
    identifier: str | None = "id",
    skip_bad: bool = False,
) -> Examples[QuestionExample]:
    """Questions about contexts, with every accepted answer; SQuAD files have these columns.

    `answers` holds a list of {"text", "answer_start"} or one {"text": [...], "answer_start": [...]}; an empty one means
    that the context does not tell. Without `answers` nothing is read of them, for prediction. Without `identifier`,
    or where it is `id` and there is no such column, the place of a question is its name.
    """

    def make(record: Record) -> QuestionExample | Bad:
        asked, told = _text(record, question), _text(record, context)
        for found in (asked, told):
            if isinstance(found, Bad):
                return found
        if identifier is not None and identifier != "id" and identifier not in record.values:
            return missing_column(record, identifier)
        name = str(record.origin if identifier is None else record.values.get(identifier, record.origin))
        return question_example(record, name, str(asked), str(told), answers)

    return Examples(_source(source), make, skip_bad)


def read_choices(
    source: Source | str | Path,
    *,
    question: str = "question",
    choices: str | Sequence[str] = "choices",
    label: str | None = "label",
    skip_bad: bool = False,
) -> Examples[ChoiceExample]:
    """Questions with possible answers. `choices` is one column that holds a list, or several columns.

    `label` is the number of the right one, from 0, or its text, or, where the list comes as {"text", "label"}, its
    name. Without it nothing is read of it, for prediction.
    """

    def make(record: Record) -> ChoiceExample | Bad:
        asked = _text(record, question)
        if isinstance(asked, Bad):
            return asked
        names: list[str] = []
        if isinstance(choices, str):
            if choices not in record.values:
                return missing_column(record, choices)
            offered: Any = record.values[choices]
            if isinstance(offered, dict) and isinstance(offered.get("label"), list):
                offered, names = offered.get("text"), [str(name) for name in offered["label"]]
        else:
            offered = [_text(record, column) for column in choices]
            for found in offered:
                if isinstance(found, Bad):
                    return found
        if not isinstance(offered, list) or len(offered) < 2 or not all(isinstance(one, str) for one in offered):
            return Bad("no choices", "there must be a list of at least two choices, all texts.", record.origin)
        if not all(one.strip() for one in offered):
            return Bad("empty text", "a choice is empty; give it a text, or leave the example out.", record.origin)
        if label is None:
            return ChoiceExample(asked, tuple(offered), None, record.origin)
        if label not in record.values:
            return missing_column(record, label)
        right = _right_choice(record.values[label], offered, names)
        if right is None:
            sentence = (
                f"{label} is {record.values[label]!r}; give the number of the right choice, from 0 to "
                f"{len(offered) - 1}, or its text."
            )
            return Bad("label outside the choices", sentence, record.origin)
        return ChoiceExample(asked, tuple(offered), right, record.origin)

    return Examples(_source(source), make, skip_bad)


def _unknown_label(record: Record, label: str, labels: Collection[str]) -> Bad:
    known = ", ".join(sorted(labels))
    return Bad("unknown label", f"the label {label!r} is none of {known}; mend it or add it.", record.origin)


def _source(source: Source | str | Path) -> Source:
    return source if isinstance(source, Source) else Source(path=str(source))


def _text(record: Record, column: str) -> str | Bad:
    if column not in record.values:
        return missing_column(record, column)
    value = record.values[column]
    if not isinstance(value, str):
        return Bad("no text", f"{column} is {value!r} and should be a text.", record.origin)
    if not value.strip():
        return Bad("empty text", f"{column} is empty; give it a text, or leave the example out.", record.origin)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # JSON can say "\\ud83d" alone, and no tokenizer takes it
        return Bad("half a surrogate pair", f"{column} holds half a surrogate pair; write it again.", record.origin)
    return value


def _label(
    record: Record, column: str | Sequence[str], kind: Kind, separator: str
) -> str | tuple[str, ...] | float | Bad:
    if not isinstance(column, str):
        return _columns_that_hold(record, column)
    if column not in record.values:
        return missing_column(record, column)
    value = record.values[column]
    if kind == "number":
        return _number(value, column, record)
    if kind == "class":
        remedy = '; numbers are learned with task = "regress"' if isinstance(value, float) else ""
        found = _class(value)
        return found or Bad("no label", f"{column} is {value!r} and should be a label{remedy}.", record.origin)
    pieces = _pieces(value, separator) if isinstance(value, str) else value
    if not isinstance(pieces, list):
        return Bad("no label", f"{column} is {value!r} and should be a list of labels.", record.origin)
    several = [_class(piece) for piece in pieces]
    if isinstance(value, list) and None in several:
        return Bad("no label", f"{column} is {value!r} and should be a list of labels.", record.origin)
    if len(several) > len(set(several)) and set(several) <= {"0", "1", "true", "false"}:
        sentence = (
            f"{column} is {value!r}, which seems to say for each label whether it is there; give the names of those "
            "that are, or a column of 0 and 1 for each label and their names in data.label."
        )
        return Bad("zeros and ones for labels", sentence, record.origin)
    return tuple(dict.fromkeys(one for one in several if one))


def _pieces(value: str, separator: str) -> list[Any]:
    """The labels that a text names: a list as Python, JSON or NumPy writes it, or what stands between separators."""
    text = value.strip()
    if len(text) < 2 or text[0] + text[-1] not in ("[]", "()", "{}"):
        return value.split(separator)
    if re.fullmatch(r"[\d\s.]+", text[1:-1]):  # NumPy writes no commas
        return text[1:-1].split()
    between = re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", text[1:-1])
    try:
        return list(ast.literal_eval(f"[{between}]"))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text[1:-1].split(separator) if text[0] == "[" else value.split(separator)


def _columns_that_hold(record: Record, columns: Sequence[str]) -> tuple[str, ...] | Bad:
    held = []
    for column in columns:
        if column not in record.values:
            return missing_column(record, column)
        value = _class(record.values[column])
        if value not in ("0", "1", "false", "true"):
            sentence = f"{column} is {record.values[column]!r} and should be 0 or 1."
            return Bad("neither 0 nor 1", sentence, record.origin)
        if value in ("1", "true"):
            held.append(column)
    return tuple(held)


def _class(value: object) -> str | None:
    """A label as text: a whole number without its point, as tables that know no other kind of number write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value).strip() or None if isinstance(value, str | int) else None


def _number(value: object, column: str, record: Record) -> float | Bad:
    number = math.nan
    if isinstance(value, str | SupportsFloat) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if math.isfinite(number):
        return number
    return Bad("not a number", f"{column} is {value!r} and should be a finite number.", record.origin)


def _right_choice(value: Any, offered: Sequence[str], names: Sequence[str]) -> int | None:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, str) and value in offered:
        return offered.index(value)
    written = _class(value)
    number = int(written) if written is not None and written.isdecimal() else -1
    return number if 0 <= number < len(offered) else None
