"""Texts of a request as token ids, cut at the side and to the length that was asked for."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from tokenizers import Encoding, Tokenizer

from modernbert.errors import DataError
from modernbert.serve.failures import EmptyInputError, InvalidRequestError, TokenizerError
from modernbert.serve.items import Ids
from modernbert.tasks import inputs
from modernbert.text.framing import Frame, encodings, longest_first

Text = str | tuple[str, str] | list[int]  # a text, a pair of texts, or ids that are taken as they are
Side = Literal["right", "left"]  # of a text that is too long, what is cut off


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    *,
    max_length: int,
    truncate: bool,
    side: Side = "right",
    prompt: str = "",
) -> list[Ids]:
    """`[CLS] text [SEP]`, `[CLS] text [SEP] pair [SEP]`, or the ids that were given, of at most `max_length` tokens.

    Of a pair the longer text is cut first. The prompt stands before a text, and before the first one of a pair.

    Raises:
        InvalidRequestError: a text is longer, and `truncate` is off.
        EmptyInputError: a text is empty.
        TokenizerError: a text is not valid Unicode, or an id is not in the vocabulary.
    """
    frame = Frame.of(tokenizer)
    strings = []
    for text in texts:
        if not isinstance(text, list):
            check_text("".join(_parts(text)))
            first, *second = _parts(text)
            strings += [prompt + first, *second]
    found = encodings(tokenizer, strings)
    encoded: list[Ids] = []
    for text in texts:
        if isinstance(text, list):
            ids = _checked_ids(tokenizer, text)
            _check_length(len(ids), max_length, truncate)
            encoded.append(np.array(_kept(ids, max_length, side), dtype=np.int32))
            continue
        parts = [next(found).ids for _ in _parts(text)]
        room = frame.content_length(max_length, len(parts))
        _check_length(sum(map(len, parts)) + max_length - room, max_length, truncate)
        rooms = (room,) if len(parts) == 1 else longest_first(len(parts[0]), len(parts[1]), room)
        encoded.append(frame.ids(*(_kept(part, kept, side) for part, kept in zip(parts, rooms, strict=True))))
    return encoded


def check_text(text: str) -> None:
    """Refuse what is not a text that a tokenizer takes.

    Raises:
        EmptyInputError: it has no character.
        TokenizerError: it holds an unpaired surrogate.
    """
    if not text:
        raise EmptyInputError("`inputs` cannot be empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError("the text holds an unpaired surrogate, which is not Unicode") from None


def check_words(text: str, name: str) -> None:
    """Refuse a text without any character but white space, in which nothing can be found.

    Raises:
        EmptyInputError: it is such a text.
        TokenizerError: it holds an unpaired surrogate.
    """
    check_text(text)
    try:
        inputs.check_text(text, name)
    except DataError as error:
        raise EmptyInputError(str(error)) from None


def tokens_of(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> Encoding:
    """The tokens of a text with their places, for `/tokenize`. Special tokens that are written in it are text."""
    check_text(text)
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def decode(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool) -> str:
    """The text of ids.

    Raises:
        EmptyInputError: there are none.
        TokenizerError: one is not in the vocabulary.
    """
    return tokenizer.decode(_checked_ids(tokenizer, ids, "`input_ids`"), skip_special_tokens=skip_special_tokens)


def count_characters(texts: Sequence[Text]) -> int:
    """What `x-compute-characters` counts."""
    return sum(0 if isinstance(text, list) else sum(map(len, _parts(text))) for text in texts)


def _parts(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _kept(ids: list[int], room: int, side: Side) -> list[int]:
    if len(ids) <= room:
        return ids
    return ids[:room] if side == "right" else ids[len(ids) - room :]


def _check_length(tokens: int, max_length: int, truncate: bool) -> None:
    if tokens > max_length and not truncate:
        raise InvalidRequestError(f"`inputs` must have less than {max_length} tokens. Given: {tokens}")


def _checked_ids(tokenizer: Tokenizer, ids: list[int], name: str = "`inputs`") -> list[int]:
    if not ids:
        raise EmptyInputError(f"{name} cannot be empty")
    for index in ids:
        if not 0 <= index < 1 << 31 or tokenizer.id_to_token(index) is None:
            raise TokenizerError(f"there is no token {index}")
    return ids
