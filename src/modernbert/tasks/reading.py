"""Read labelled data for any task: examples from records, and columns with texts."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from modernbert.config import Config
from modernbert.errors import ConfigError, DataError
from modernbert.text.records import Record, RejectedRecord, Source, missing_column, read_records

T = TypeVar("T")


class Columns(Config):
    """The names of the columns that a task reads: keys of `[data]` in a recipe. Every task has its own subclass."""


class Examples(Generic[T]):
    """The examples of a source, read lazily; each iteration reads the source again.

    A record that is not a valid example is an error. With `skip_bad` it is left out, and `skipped` counts the reasons
    of the last iteration.

    Raises, during iteration:
        DataError: an example is not valid, no example is valid, or the source cannot be read.
    """

    def __init__(
        self, source: Source | str | Path, make: Callable[[Record], T | RejectedRecord], skip_bad: bool
    ) -> None:
        self.source = source if isinstance(source, Source) else Source(path=str(source))
        self.skipped: Counter[str] = Counter()
        self._make: Callable[[Record], T | RejectedRecord] = make
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[T]:
        self.skipped = Counter()
        empty, first = True, None
        for record in read_records(self.source):
            example = record if isinstance(record, RejectedRecord) else self._make(record)
            if not isinstance(example, RejectedRecord):
                empty = False
                yield example
            elif self._skip_bad:
                first = first or example
                self.skipped[example.reason] += 1
            else:
                raise example.error()
        if empty:
            reason = f"; the first is {first.origin}: {first.sentence}" if first else "; it is empty."
            raise DataError(f"{self.source.path} holds no example that can be used{reason}")


def text_in(record: Record, column: str) -> str | RejectedRecord:
    """The text in a column, which must not be empty."""
    if column not in record.values:
        return missing_column(record, column)
    value = record.values[column]
    if not isinstance(value, str):
        return RejectedRecord("not a text", f"{column} is {value!r} and should be a text.", record.origin)
    if not value.strip():
        sentence = f"{column} is empty; give it a text, or leave the example out."
        return RejectedRecord("empty text", sentence, record.origin)
    if not is_unicode(value):
        sentence = f"{column} holds an unpaired surrogate; write it again."
        return RejectedRecord("unpaired surrogate", sentence, record.origin)
    return value


def is_unicode(text: str) -> bool:
    """Whether a text has no unpaired surrogate.

    JSON may hold "\\ud83d" alone, which no tokenizer accepts and UTF-8 cannot encode.
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


def label_text(value: object) -> str | None:
    """A label as text, or None if the value is not a label. A whole number has no decimal point.

    Letters are composed (Unicode NFC): "é" is one label, whether a file has it as one code point or as two.
    """
    if isinstance(value, str) and not is_unicode(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return composed(str(value).strip()) or None if isinstance(value, str | int) else None


def composed(text: str) -> str:
    """A text in the Unicode normal form NFC, in which labels are compared."""
    return unicodedata.normalize("NFC", text)


def known_labels(labels: Iterable[str]) -> dict[str, str]:
    """The labels of a model by their composed form, as in the data; older models may have labels in another form.

    Raises:
        ConfigError: two labels have the same composed form, so those of the data are ambiguous.
    """
    labels_by_form: dict[str, str] = {}
    for label in labels:
        if (other := labels_by_form.setdefault(composed(label), label)) != label:
            raise ConfigError(
                f"The model has two labels {label!r}, {other!a} and {label!a}, which differ only in how "
                "Unicode writes their letters; train the model again to merge them."
            )
    return labels_by_form


def unknown_label(record: Record, label: str, labels: Collection[str]) -> RejectedRecord:
    """The rejection of a record whose label is not one of the training labels."""
    known = ", ".join(sorted(labels))
    sentence = f"the label {label!r} is not one of {known}; correct it, or add it."
    return RejectedRecord("unknown label", sentence, record.origin)
