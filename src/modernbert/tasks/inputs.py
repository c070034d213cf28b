"""Checks of the texts that a caller passes, before a tokenizer reads them."""

import math
from collections.abc import Iterable, Mapping, Set
from numbers import Integral

from modernbert.errors import DataError


def as_list(texts: object) -> list[object]:
    """Any sequence of texts (list, tuple, array, series, ...) as a list.

    Raises:
        DataError: the value is not a sequence, such as a set, which has no order, or a table, which has columns.
    """
    if hasattr(texts, "columns"):
        raise DataError("A table should be a list of texts; give one of its columns.")
    alone = isinstance(texts, str | bytes | Mapping | Set) or getattr(texts, "ndim", 1) == 0
    if alone or not isinstance(texts, Iterable):
        raise DataError(f"{_short_repr(texts)} should be a text, or a list of texts.")
    return list(texts)


def check_count(count: object, name: str, result: str) -> int:
    """The number of results to return. For messages: `name` is the argument, `result` is what one result is called.

    Raises:
        DataError: the number is not a whole number above 0.
    """
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise DataError(f"{name} is {_short_repr(count)} and should be a whole number.")
    if count < 1:
        raise DataError(f"{name} is {count}; ask for at least one {result}.")
    return int(count)


def check_text(text: object, name: str) -> str:
    """The text, if it is valid. `name` identifies it in messages, as in "Text 3".

    Raises:
        DataError: the text is empty or not a text.
    """
    if not isinstance(text, str):
        raise DataError(f"{name} is {_short_repr(text)} and should be a text; replace it, or leave it out.")
    if not text.strip():
        raise DataError(f"{name} is empty; leave it out.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # no tokenizer accepts it
        raise DataError(f"{name} holds an unpaired surrogate ({text[:60]!a}); write it again.") from None
    return str(text)


def check_texts(texts: object, name: str) -> list[str]:
    """A list of texts, if they are valid. `name` is what one of them is called in messages.

    Raises:
        DataError: a text is empty or not a text.
    """
    return [check_text(text, f"{name} {number}") for number, text in enumerate(as_list(texts), 1)]


def _short_repr(value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "not a number (NaN, an empty cell of a table)"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
