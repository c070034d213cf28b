"""Checks that what a caller gives as texts is text, before a tokenizer reads it."""

import math
from collections.abc import Iterable, Mapping, Set
from numbers import Integral

from modernbert.errors import DataError


def listed(texts: object) -> list[object]:
    """Any sequence of texts (list, tuple, array, series, ...) as a list.

    Raises:
        DataError: it is not a sequence: a set has no order, and a table has columns.
    """
    if hasattr(texts, "columns"):
        raise DataError("A table should be a list of texts; give one of its columns.")
    alone = isinstance(texts, str | bytes | Mapping | Set) or getattr(texts, "ndim", 1) == 0
    if alone or not isinstance(texts, Iterable):
        raise DataError(f"{_shown(texts)} should be a text, or a list of texts.")
    return list(texts)


def checked_count(count: object, name: str, of: str) -> int:
    """A number of results to give; `name` is that of the argument, `of` what one of the results is called.

    Raises:
        DataError: it is not a whole number above 0.
    """
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise DataError(f"{name} is {_shown(count)} and should be a whole number.")
    if count < 1:
        raise DataError(f"{name} is {count}; ask for at least one {of}.")
    return int(count)


def checked(text: object, name: str) -> str:
    """The text itself.

    Raises:
        DataError: it is empty or not a text; `name` says which one, as in "Text 3".
    """
    if not isinstance(text, str):
        raise DataError(f"{name} is {_shown(text)} and should be a text; replace it, or leave it out.")
    if not text.strip():
        raise DataError(f"{name} is empty; leave it out.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # no tokenizer takes it
        raise DataError(f"{name} holds an unpaired surrogate ({text[:60]!a}); write it again.") from None
    return str(text)


def checked_list(texts: object, name: str) -> list[str]:
    """A list of texts; `name` is what one of them is called in messages.

    Raises:
        DataError: one of them is empty or not a text.
    """
    return [checked(text, f"{name} {number}") for number, text in enumerate(listed(texts), 1)]


def _shown(value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "not a number (NaN, an empty cell of a table)"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
