"""Texts and pairs as token ids with [CLS] and [SEP], cut to what a model reads: the only place that adds these two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from modernbert.errors import ConfigError
from modernbert.text.tokenizer import SpecialTokens

Ids = npt.NDArray[np.int32]

_TEXTS_PER_CALL = 1024  # of the tokenizer: encodings are large until their ids are extracted

FRAME_TOKENS = 2  # [CLS] and [SEP], around a text that is read alone


@dataclass(frozen=True)
class Frame:
    """The special tokens around the texts of one sequence: [CLS] before the first one, [SEP] after each."""

    cls_id: int
    sep_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Frame":
        """The frame of a tokenizer."""
        return cls(*special_ids(tokenizer))

    @staticmethod
    def content_length(max_length: int, num_texts: int = 1) -> int:
        """The number of tokens that `num_texts` texts may have in a sequence of `max_length`."""
        return max_length - 1 - num_texts

    def parts(self, *texts: npt.ArrayLike) -> list[npt.NDArray[np.integer]]:
        """The ids of texts and of the special tokens around them, to be concatenated."""
        parts = [np.array([self.cls_id])]
        for text in texts:
            parts += [np.asarray(text), np.array([self.sep_id])]
        return parts

    def ids(self, *texts: npt.ArrayLike) -> Ids:
        """`[CLS] text [SEP]`, or `[CLS] text [SEP] other [SEP]` and so on."""
        return np.concatenate(self.parts(*texts), dtype=np.int32, casting="unsafe")


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Ids of each text with [CLS] and [SEP], and the number of texts that were truncated."""

    ids: list[Ids]
    truncated: int


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None] | None = None, *, max_length: int
) -> EncodedTexts:
    """`[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]` where there is a pair, of at most `max_length` tokens.

    A text that is too long is truncated at its end; in a pair, the longer text until both are equally long. The ids are
    those that the tokenizers of `transformers` return with truncation.

    Raises:
        ConfigError: `max_length` leaves no room for a token of each text.
    """
    frame = Frame.of(tokenizer)
    seconds = [None] * len(texts) if pairs is None else pairs
    if frame.content_length(max_length, 1 + any(pair is not None for pair in seconds)) < 2:
        raise ConfigError(f"A max_length of {max_length} tokens leaves no room for the texts; give at least 8.")
    ids: list[Ids] = []
    truncated = 0
    first_ids = _ids(tokenizer, texts)
    second_ids = _ids(tokenizer, [pair for pair in seconds if pair is not None])
    for first, pair in zip(first_ids, seconds, strict=True):
        if pair is None:
            kept = min(len(first), frame.content_length(max_length))
            cut = kept < len(first)
            ids.append(frame.ids(first[:kept]))
        else:
            second = next(second_ids)
            kept, kept_second = longest_first(len(first), len(second), frame.content_length(max_length, 2))
            cut = kept < len(first) or kept_second < len(second)
            ids.append(frame.ids(first[:kept], second[:kept_second]))
        truncated += cut
    return EncodedTexts(ids, truncated)


def longest_first(first: int, second: int, most: int) -> tuple[int, int]:
    """The lengths of two texts after truncation to `most` tokens, the longer one first; it keeps an odd token."""
    if first + second <= most:
        return first, second
    shorter = min(first, second, most // 2)
    return (shorter, most - shorter) if first <= second else (most - shorter, shorter)


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of [CLS] and [SEP]."""
    names = SpecialTokens.of(tokenizer)
    cls_id, sep_id = tokenizer.token_to_id(names.cls), tokenizer.token_to_id(names.sep)
    assert cls_id is not None
    assert sep_id is not None, "SpecialTokens found it in this tokenizer"
    return cls_id, sep_id


def encodings(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Encoding]:
    """Tokens of each text with their offsets in characters, without special tokens.

    [SEP] or [MASK] written in a text is text, as in the shards of a corpus.
    """
    tokenizer.encode_special_tokens = True
    for begin in range(0, len(texts), _TEXTS_PER_CALL):
        yield from tokenizer.encode_batch(list(texts[begin : begin + _TEXTS_PER_CALL]), add_special_tokens=False)


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    tokenizer.encode_special_tokens = True
    for begin in range(0, len(texts), _TEXTS_PER_CALL):
        for encoding in tokenizer.encode_batch_fast(
            list(texts[begin : begin + _TEXTS_PER_CALL]), add_special_tokens=False
        ):
            yield encoding.ids
