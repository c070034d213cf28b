"""Text in, results out. Batches and packs by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

import torch
from tokenizers import Tokenizer

from modernbert.data import Vocabulary, load_tokenizer
from modernbert.errors import DataError
from modernbert.model import MaskedLM
from modernbert.packed import Sequences
from modernbert.runtime import select_device

_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Candidate:
    """One word for one [MASK]. `text` is the whole input with the word in its place and other masks as they are."""

    token: str
    token_id: int
    probability: float
    text: str


Fillings = list[list[Candidate]]  # for each [MASK] of a text, its candidates, best first


class FillMask:
    """The words that a masked language model puts in the place of [MASK]."""

    def __init__(self, model: MaskedLM, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.of(tokenizer)
        self._special = torch.from_numpy(self.vocabulary.special)[: model.config.vocab_size]

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Load model and tokenizer of a folder or a hub id.

        Raises:
            CheckpointError: there is no such model.
            DataError: it has no tokenizer.
        """
        model = MaskedLM.from_pretrained(
            source, device=select_device(device), dtype=dtype, revision=revision, token=token
        )
        assert model.tokenizer_source is not None
        return cls(model, load_tokenizer(model.tokenizer_source))

    @overload
    def __call__(self, texts: str, top_k: int = 5) -> Fillings: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[str], top_k: int = 5) -> list[Fillings]: ...
    @torch.inference_mode()
    def __call__(self, texts: str | Sequence[str], top_k: int = 5) -> Fillings | list[Fillings]:
        """For each [MASK] of a text its `top_k` likeliest words with their probabilities; a list for a list of texts.

        Special tokens are no candidates; the probabilities are those of the whole vocabulary.

        Raises:
            DataError: a text has no [MASK] or is longer than the model can read, or `top_k` is not above 0.
        """
        if isinstance(texts, str):
            return self([texts], top_k)[0]
        if top_k < 1:
            raise DataError(f"top_k is {top_k}; ask for at least one candidate.")
        encoded = [self._encode(text) for text in texts]
        results: list[Fillings] = []
        for chunk in _chunks(encoded, _TOKENS_AT_ONCE):
            results += self._fill(chunk, top_k)
        return results

    def _encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text).ids
        if self.vocabulary.mask_id not in ids:
            raise DataError(f"There is no [MASK] in {_shortened(text)!r}; write [MASK] where a word is to be found.")
        longest = self.model.config.max_position_embeddings
        if len(ids) > longest:
            raise DataError(f"{_shortened(text)!r} has {len(ids)} tokens, and the model reads {longest}; shorten it.")
        return list(ids)

    def _fill(self, chunk: list[list[int]], top_k: int) -> list[Fillings]:
        device = next(self.model.parameters()).device
        tokens = torch.tensor([index for ids in chunk for index in ids])
        masked = tokens == self.vocabulary.mask_id
        sequences = Sequences.from_lengths(map(len, chunk))
        logits = self.model.logits_at(tokens.to(device), sequences.to(device), masked.to(device)).float().cpu()
        best = logits.softmax(-1).masked_fill(self._special, 0).topk(min(top_k, int((~self._special).sum())))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[self._candidates(ids, place, *next(rows)) for place in self._masks(ids)] for ids in chunk]

    def _masks(self, ids: list[int]) -> list[int]:
        return [place for place, index in enumerate(ids) if index == self.vocabulary.mask_id]

    def _candidates(self, ids: list[int], place: int, found: list[int], probabilities: list[float]) -> list[Candidate]:
        return [
            Candidate(
                token=self.tokenizer.decode([index]),
                token_id=index,
                probability=probability,
                text=self._decode([*ids[:place], index, *ids[place + 1 :]]),
            )
            for index, probability in zip(found, probabilities, strict=True)
        ]

    def _decode(self, ids: list[int]) -> str:
        """The text of some ids with its masks, which had swallowed the space before them, but not [CLS] and [SEP]."""
        return self.tokenizer.decode(ids[1:-1], skip_special_tokens=False).replace("[MASK]", " [MASK]").strip()


def _chunks(encoded: list[list[int]], tokens: int) -> list[list[list[int]]]:
    chunks: list[list[list[int]]] = []
    room = 0
    for ids in encoded:
        if not chunks or len(ids) > room:
            chunks.append([])
            room = tokens
        chunks[-1].append(ids)
        room -= len(ids)
    return chunks


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
