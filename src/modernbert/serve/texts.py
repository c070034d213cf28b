"""Texts of a request as token ids, truncated as requested."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from tokenizers import Encoding, Tokenizer

from modernbert.errors import DataError
from modernbert.serve.failures import EmptyInputError, InvalidRequestError, TokenizerError
from modernbert.serve.items import Ids
from modernbert.tasks import inputs
from modernbert.text.framing import Frame, encodings, longest_first

Text = str | tuple[str, str] | list[int]  # a text, a pair of texts, or token ids
Side = Literal["right", "left"]  # the side on which a text is truncated


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    *,
    max_length: int,
    truncate: bool,
    side: Side = "right",
    prompt: str = "",
) -> list[Ids]:
    """`[CLS] text [SEP]`, `[CLS] text [SEP] pair [SEP]`, or the given ids, of at most `max_length` tokens.

    The longer text of a pair is truncated first. The prompt is put before a text, and before the first text of a pair.

    Raises:
        InvalidRequestError: a text is longer, and `truncate` is false.
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
            encoded.append(np.array(_truncated(ids, max_length, side), dtype=np.int32))
            continue
        parts = [next(found).ids for _ in _parts(text)]
        length = frame.content_length(max_length, len(parts))
        _check_length(sum(map(len, parts)) + max_length - length, max_length, truncate)
        lengths = (length,) if len(parts) == 1 else longest_first(len(parts[0]), len(parts[1]), length)
        encoded.append(frame.ids(*(_truncated(part, kept, side) for part, kept in zip(parts, lengths, strict=True))))
    return encoded


def check_text(text: str) -> None:
    """Check that a tokenizer can encode a text.

    Raises:
        EmptyInputError: it is empty.
        TokenizerError: it holds an unpaired surrogate.
    """
    if not text:
        raise EmptyInputError("`inputs` cannot be empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError("the text holds an unpaired surrogate, which is not Unicode") from None


def check_words(text: str, name: str) -> None:
    """Check that a text has a character that is not white space.

    Raises:
        EmptyInputError: it has none.
        TokenizerError: it holds an unpaired surrogate.
    """
    check_text(text)
    try:
        inputs.check_text(text, name)
    except DataError as error:
        raise EmptyInputError(str(error)) from None


def tokens_of(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> Encoding:
    """The tokens of a text with their offsets, for `/tokenize`. Special tokens written in the text are plain text."""
    check_text(text)
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def decode(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool) -> str:
    """The text of ids.

    Raises:
        EmptyInputError: the list is empty.
        TokenizerError: an id is not in the vocabulary.
    """
    return tokenizer.decode(_checked_ids(tokenizer, ids, "`input_ids`"), skip_special_tokens=skip_special_tokens)


def count_characters(texts: Sequence[Text]) -> int:
    """The value of the header `x-compute-characters`."""
    return sum(0 if isinstance(text, list) else sum(map(len, _parts(text))) for text in texts)


def _parts(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _truncated(ids: list[int], length: int, side: Side) -> list[int]:
    if len(ids) <= length:
        return ids
    return ids[:length] if side == "right" else ids[len(ids) - length :]


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
