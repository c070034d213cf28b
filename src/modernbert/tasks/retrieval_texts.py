"""Token ids of queries and documents: prompts, lengths, pairs, and query expansion with [MASK]."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import DataError
from modernbert.model.retrieval_settings import Expansion, MultiVectorSettings, RetrievalSettings, Role
from modernbert.text.framing import FRAME_TOKENS, EncodedTexts, Ids, encode_texts, special_ids
from modernbert.text.tokenizer import SpecialTokens, with_prompt_special_tokens
from modernbert.text.words import splits_cluster


@dataclass(frozen=True, eq=False)
class EncodedQueries:
    """Ids of each query, its length before the expansion with [MASK], and the number of truncated queries."""

    ids: list[Ids]
    unexpanded_lengths: list[int]
    truncated: int


class RetrievalTokenizer:
    """The same ids as sentence-transformers gives the model, for prediction and for training.

    A prompt precedes the text and is tokenized with it. A special token written in a prompt is special; in a text it is
    text.

    Raises:
        DataError: the tokenizer does not put exactly [CLS] and [SEP] around a text.
    """

    def __init__(self, tokenizer: Tokenizer, settings: RetrievalSettings, max_length: int) -> None:
        self.cls_id, self.sep_id = special_ids(tokenizer)
        framed = tokenizer.encode("a").ids
        if framed[:1] != [self.cls_id] or framed[-1:] != [self.sep_id]:
            raise DataError(
                "The tokenizer of this model does not put one special token before a text and one after it; other "
                "formats are not supported."
            )
        self.max_length = max_length
        self._tokenizer, self._lower = tokenizer, settings.lower_case
        self._tokenizer_for = lru_cache(maxsize=16)(self._derive)

    def _derive(self, prompt: str) -> Tokenizer:
        return with_prompt_special_tokens(self._tokenizer, prompt, lower_case=self._lower)

    def encode(self, texts: Sequence[str], prompt: str = "", max_length: int | None = None) -> EncodedTexts:
        """`[CLS] prompt text [SEP]` of each text, of at most `max_length` tokens."""
        return encode_texts(
            self._tokenizer_for(prompt), [prompt + text for text in texts], max_length=max_length or self.max_length
        )

    def encode_unframed(self, texts: Sequence[str], prompt: str = "", max_length: int | None = None) -> EncodedTexts:
        """`prompt text` of each text without [CLS] and [SEP], of at most `max_length` tokens."""
        encoded = self.encode(texts, prompt, FRAME_TOKENS + (max_length or self.max_length))
        return EncodedTexts([ids[1:-1] for ids in encoded.ids], encoded.truncated)

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], prompt: str = "") -> EncodedTexts:
        """`[CLS] prompt query [SEP] document [SEP]` of each pair; if it is too long, the longer text is truncated."""
        firsts, seconds = [prompt + first for first, _ in pairs], [second for _, second in pairs]
        return encode_texts(self._tokenizer_for(prompt), firsts, seconds, max_length=self.max_length)

    def prompt_tokens(self, prompt: str) -> int:
        """The number of tokens before the text: [CLS] and those of the prompt."""
        return len(self.encode([prompt]).ids[0]) - 1 if prompt else 0

    def encode_queries(self, texts: Sequence[str], prompt: str, settings: MultiVectorSettings) -> EncodedQueries:
        """Queries of late interaction, expanded with [MASK] if the model does so."""
        expansion = settings.expansion
        if expansion is None:
            encoded = self.encode(texts, prompt, settings.query_length)
            return EncodedQueries(encoded.ids, [len(ids) for ids in encoded.ids], encoded.truncated)
        max_length = (
            expansion.length if expansion.fixed else max(settings.query_length or self.max_length, expansion.length)
        )
        encoded = self.encode(texts, prompt, max_length)
        mask_id = self._expansion_id(expansion)
        expanded = [
            np.append(ids, np.full(max(0, expansion.length - len(ids)), mask_id, ids.dtype)) for ids in encoded.ids
        ]
        return EncodedQueries(expanded, [len(ids) for ids in encoded.ids], encoded.truncated)

    def _expansion_id(self, expansion: Expansion) -> int:
        token = expansion.token or SpecialTokens.of(self._tokenizer).mask
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise DataError(f"Queries are expanded with {token!r}, which the tokenizer does not have.")
        return index

    def skipped(self, settings: MultiVectorSettings, role: Role) -> Tensor:
        """The ids of tokens whose vectors are not scored for a role."""
        if role not in settings.skip_roles:
            return torch.empty(0, dtype=torch.int64)
        ids = {self._tokenizer.token_to_id(word) for word in settings.skip_words}
        return torch.tensor(sorted(index for index in ids if index is not None), dtype=torch.int64)

    def windows(self, text: str, prompt: str, overlap: int, max_length: int | None = None) -> list[str]:
        """Split a text into chunks that fit with the prompt; neighbours share about `overlap` tokens.

        No chunk begins or ends inside a grapheme cluster, unless that has more tokens than fit.
        """
        tokenizer = self._tokenizer_for("")
        encoding = tokenizer.encode(text, add_special_tokens=False)
        spans = encoding.offsets
        size = (max_length or self.max_length) - 2 - max(0, self.prompt_tokens(prompt) - 1)
        if len(spans) <= size:
            return [text]
        overlap = min(overlap, size - 1)
        parts: list[str] = []
        begin, end = 0, _whole_before(text, spans, size, 0)
        while end < len(spans):
            parts.append(_covered(text, spans[begin:end]))
            begin = max(begin + 1, _whole_before(text, spans, end - overlap, begin))
            end = _whole_before(text, spans, begin + size, end)
        return [*parts, _covered(text, spans[begin:])]


def _covered(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """What tokens stand for. Of a letter and its marks, composed into one, an offset may tell the letter alone."""
    begin, end = spans[0][0], spans[-1][1]
    while splits_cluster(text, end):
        end += 1
    return text[begin:end]


def _whole_before(text: str, spans: Sequence[tuple[int, int]], token: int, lowest: int) -> int:
    """The last token up to `token` that begins a grapheme cluster; `token` itself if there is none above `lowest`."""
    if token >= len(spans):
        return len(spans)
    found = token
    while found > lowest and (spans[found - 1][1] > spans[found][0] or splits_cluster(text, spans[found][0])):
        found -= 1
    return found if found > lowest else token


def query_token_mask(unexpanded_lengths: Sequence[int], lengths: Sequence[int]) -> Bool[Tensor, "tokens"]:
    """True at the tokens of packed queries, false at the [MASK] tokens of their expansion."""
    assert len(unexpanded_lengths) == len(lengths)
    flags = np.zeros(sum(lengths), dtype=np.bool_)
    for (begin, _), count in zip(pairwise([0, *np.cumsum(lengths)]), unexpanded_lengths, strict=True):
        flags[begin : begin + count] = True
    return torch.from_numpy(flags)
