"""Texts and pairs as token ids with [CLS] and [SEP], cut to what a model reads: the only place that adds these two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from modernbert.errors import ConfigError
from modernbert.text.tokenizer import SpecialTokens

Ids = npt.NDArray[np.int32]

_AT_ONCE = 1024  # texts that are tokenised together: encodings are large until their ids are taken


FRAME_TOKENS = 2  # [CLS] and [SEP], around a text that is read alone


@dataclass(frozen=True)
class Frame:
    """The special tokens around the texts of one sequence: [CLS] before the first one, [SEP] behind each."""

    cls_id: int
    sep_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Frame":
        """The frame of a tokenizer."""
        return cls(*special_ids(tokenizer))

    @staticmethod
    def room(max_length: int, num_texts: int = 1) -> int:
        """How many tokens of `num_texts` texts fit into a sequence of `max_length`."""
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
    """Ids of each text with [CLS] and [SEP], and how many texts were cut to fit."""

    ids: list[Ids]
    truncated: int


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None] | None = None, *, max_length: int
) -> EncodedTexts:
    """`[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]` where there is a pair, of at most `max_length` tokens.

    A text that is too long loses its end; of a pair the longer one does, until both are equally long: the same ids as
    the tokenizers of `transformers` give with truncation.

    Raises:
        ConfigError: `max_length` leaves no room for a token of each text.
    """
    frame = Frame.of(tokenizer)
    seconds = [None] * len(texts) if pairs is None else pairs
    if frame.room(max_length, 1 + any(pair is not None for pair in seconds)) < 2:
        raise ConfigError(f"A max_length of {max_length} tokens leaves no room for the texts; give at least 8.")
    ids: list[Ids] = []
    truncated = 0
    whole = _ids(tokenizer, texts)
    of_pairs = _ids(tokenizer, [pair for pair in seconds if pair is not None])
    for first, pair in zip(whole, seconds, strict=True):
        if pair is None:
            kept = first[: frame.room(max_length)]
            cut = len(kept) < len(first)
            ids.append(frame.ids(kept))
        else:
            second = next(of_pairs)
            one, other = longest_first(len(first), len(second), frame.room(max_length, 2))
            cut = one < len(first) or other < len(second)
            ids.append(frame.ids(first[:one], second[:other]))
        truncated += cut
    return EncodedTexts(ids, truncated)


def longest_first(one: int, other: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts are kept, the longer one being cut first. An odd last place goes to the longer."""
    if one + other <= room:
        return one, other
    shorter = min(one, other, room // 2)
    return (shorter, room - shorter) if one <= other else (room - shorter, shorter)


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of [CLS] and [SEP]."""
    names = SpecialTokens.of(tokenizer)
    cls_id, sep_id = tokenizer.token_to_id(names.cls), tokenizer.token_to_id(names.sep)
    assert cls_id is not None
    assert sep_id is not None, "it was found in this tokenizer"
    return cls_id, sep_id


def encodings(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Encoding]:
    """Tokens of each text with their offsets in characters, without special tokens around them or in them.

    [SEP] or [MASK] that is written in a text is text, as it is in the shards of a corpus.
    """
    tokenizer.encode_special_tokens = True
    for begin in range(0, len(texts), _AT_ONCE):
        yield from tokenizer.encode_batch(list(texts[begin : begin + _AT_ONCE]), add_special_tokens=False)


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    tokenizer.encode_special_tokens = True
    for begin in range(0, len(texts), _AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(list(texts[begin : begin + _AT_ONCE]), add_special_tokens=False):
            yield encoding.ids
