"""Predict the words in place of [MASK] (`fill-mask`). This task needs no fine-tuning."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from tokenizers import Tokenizer

from modernbert.errors import DataError
from modernbert.model import MaskedLM
from modernbert.model.packaged import packaged_model
from modernbert.packed import Sequences, to_device
from modernbert.stream.batching import batches_within
from modernbert.tasks.inputs import check_count, check_texts
from modernbert.tasks.outputs import check_finite, default_tokens_at_once, shortened
from modernbert.tasks.predictor import Predictor
from modernbert.text.framing import Frame, Ids
from modernbert.text.tokenizer import SpecialTokens, Vocabulary


@dataclass(frozen=True)
class Candidate:
    """A word for one [MASK]. `text` is the input with the word in place of this [MASK]."""

    token: str
    token_id: int
    probability: float
    text: str


@dataclass(frozen=True, eq=False)
class MaskedText:
    """A text with its ids, and the offsets of its [MASK]s in characters."""

    text: str
    ids: Ids
    masks: list[tuple[int, int]]


Fillings = list[list[Candidate]]  # for each [MASK] of a text, its candidates, best first


class FillMask(Predictor[MaskedLM]):
    """Predicts the words in place of [MASK]. Texts longer than `max_length` tokens are refused."""

    kind = MaskedLM

    def __init__(self, model: MaskedLM, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        super().__init__(model, tokenizer, max_length)
        self.vocabulary = Vocabulary.of(tokenizer)
        self.mask = SpecialTokens.of(tokenizer).mask
        self._frame = Frame(self.vocabulary.cls_id, self.vocabulary.sep_id)
        self._encoder = _only_mask_is_special(tokenizer, self.vocabulary.mask_id)
        self._special = torch.ones(model.config.vocab_size, dtype=torch.bool)  # and ids without a token
        known = torch.from_numpy(self.vocabulary.special)[: model.config.vocab_size]
        self._special[: len(known)] = known

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        max_length: int | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
        int8: bool = False,
    ) -> Self:
        """Load a model like other predictors; without a source, the model in this package.

        Raises:
            CheckpointError: there is no such model, or this installation has no model.
        """
        return super().from_pretrained(
            packaged_model() if source is None else source,
            max_length=max_length, device=device, dtype=dtype, revision=revision, token=token, int8=int8,
        )  # fmt: skip

    @overload
    def __call__(self, texts: str, top_k: int = 5) -> Fillings: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[str], top_k: int = 5) -> list[Fillings]: ...
    @torch.inference_mode()
    def __call__(self, texts: str | Sequence[str], top_k: int = 5) -> Fillings | list[Fillings]:
        """For each [MASK] of a text its `top_k` most probable words; for a list of texts, a list of results.

        Special tokens are not candidates; probabilities are over the whole vocabulary. Only [MASK] is a special token
        in the texts; [SEP] and others are text.

        Raises:
            DataError: a text has no [MASK] or is longer than the model can read, or `top_k` is not above 0.
        """
        if isinstance(texts, str):
            return self([texts], top_k)[0]
        top_k = check_count(top_k, "top_k", "candidate")
        results: list[Fillings] = []
        encoded = [self.encode(text) for text in check_texts(texts, "Text")]
        lengths = [len(one.ids) for one in encoded]
        for batch in batches_within(
            range(len(encoded)), lengths, default_tokens_at_once(next(self.model.parameters()).device)
        ):
            results += self.fill([encoded[index] for index in batch], top_k)
        return results

    def encode(self, text: str) -> MaskedText:
        """The tokens of a text, and the offsets of its [MASK]s.

        Raises:
            DataError: the text has no [MASK], or is longer than the model can read.
        """
        encoding = self._encoder.encode(text, add_special_tokens=False)
        offsets = zip(encoding.ids, encoding.offsets, strict=True)
        masks = [offset for index, offset in offsets if index == self.vocabulary.mask_id]
        if not masks:
            raise DataError(f"There is no {self.mask} in {shortened(text)!r}; write {self.mask} in place of a word.")
        ids = self._frame.ids(encoding.ids)
        if len(ids) > self.max_length:
            raise DataError(
                f"{shortened(text)!r} has {len(ids)} tokens, and the model reads {self.max_length}; shorten it."
            )
        return MaskedText(text, ids, masks)

    @torch.inference_mode()
    def fill(self, chunk: list[MaskedText], top_k: int) -> list[Fillings]:
        """The candidates of each text; all are computed as one batch."""
        device = next(self.model.parameters()).device
        tokens = torch.from_numpy(np.concatenate([one.ids for one in chunk]))
        masked = tokens == self.vocabulary.mask_id
        sequences = Sequences.from_lengths((len(one.ids) for one in chunk), device)
        logits = self.model.logits_at(to_device(tokens, device), sequences, to_device(masked, device)).float().cpu()
        check_finite(logits)
        best = logits.softmax(-1).masked_fill(self._special, 0).topk(min(top_k, int((~self._special).sum())))
        candidates = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[self._candidates(one.text, offset, *next(candidates)) for offset in one.masks] for one in chunk]

    def _candidates(
        self, text: str, offset: tuple[int, int], ids: list[int], probabilities: list[float]
    ) -> list[Candidate]:
        tokens = [self.tokenizer.decode([index]) for index in ids]
        begin, end = offset  # of [MASK] with the white space around it, which stays
        space_before, _, space_after = text[begin:end].partition(self.mask)
        return [
            Candidate(
                token,
                index,
                probability,
                text[:begin] + space_before + (token.lstrip(" ") if space_before else token) + space_after + text[end:],
            )
            for token, index, probability in zip(tokens, ids, probabilities, strict=True)
        ]


def _only_mask_is_special(tokenizer: Tokenizer, mask_id: int) -> Tokenizer:
    """A copy of a tokenizer in which other special tokens, written in a text, are text."""
    values = json.loads(tokenizer.to_str())
    for token in values["added_tokens"]:
        if token["id"] == mask_id:
            token["special"] = False
    changed = Tokenizer.from_str(json.dumps(values))
    changed.encode_special_tokens = True
    return changed
