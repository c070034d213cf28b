"""Rerank documents: a score for each pair of a query and a document."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import ConfigError, DataError
from modernbert.model.retrieval import CrossEncoder
from modernbert.tasks.inputs import checked, checked_count, checked_list, listed
from modernbert.tasks.quantization import Vectors
from modernbert.tasks.retrieval import Combine, RetrievalPredictor, finite


class _Ranked(TypedDict):
    corpus_id: int  # the number of the document in the list, from 0
    score: float


class Ranked(_Ranked, total=False):
    """A document's place among those of a query, in sentence-transformers' form."""

    text: str


class Reranker(RetrievalPredictor[CrossEncoder]):
    """Scores of pairs of a query and a document, read together by the model.

    From folders of this package and of `CrossEncoder` (every version), and from any sequence classifier.
    """

    kind = CrossEncoder

    def predict(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        raw_scores: bool = False,
        chunk: Combine | bool = False,
        show_progress_bar: bool = False,
        tokens_at_once: int | None = None,
    ) -> Vectors:
        """The score of each pair (pairs,), or (pairs, labels) of a model with several labels.

        With `raw_scores` they are logits. Of a pair that is too long the longer text is cut, which is reported; with
        `chunk` the document is read in overlapping chunks, and the best or the mean of their scores counts.

        Raises:
            DataError: a text is empty or no text, or a pair is not one.
        """
        before = self._prompt(prompt, prompt_name, None)
        given = [_pair(number, pair) for number, pair in enumerate(listed(pairs), 1)]
        parts, owners = self._chunks(given, before) if chunk else (given, list(range(len(given))))
        scores = self._scores(parts, before, show_progress_bar, tokens_at_once)
        if not raw_scores:
            scores = self.model.activation(scores)
        if len(parts) > len(given):
            index = torch.tensor(owners).unsqueeze(1).expand_as(scores)
            how = "mean" if chunk == "mean" else "amax"
            scores = torch.zeros(len(given), scores.shape[1]).scatter_reduce(0, index, scores, how, include_self=False)
        return (scores.squeeze(-1) if scores.shape[-1] == 1 else scores).numpy()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[Ranked]:
        """The documents of a query from the best to the worst, or the best `top_k`: number in the list, and score.

        The options are those of `predict`.

        Raises:
            ConfigError: the model has several labels.
            DataError: a text is empty or no text, or `top_k` is not above 0.
        """
        top_k = None if top_k is None else checked_count(top_k, "top_k", "document")
        if len(self.model.config.labels) != 1:
            raise ConfigError(
                f"This model has {len(self.model.config.labels)} labels and does not rank; predict gives their scores."
            )
        checked(query, "The query")
        documents = checked_list(documents, "Document")
        scores = self.predict([(query, document) for document in documents], **options)
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        ranked: list[Ranked] = [{"corpus_id": number, "score": float(scores[number])} for number in order]
        if return_documents:
            for one in ranked:
                one["text"] = documents[one["corpus_id"]]
        return ranked

    @torch.inference_mode()
    def _scores(
        self, pairs: Sequence[tuple[str, str]], prompt: str, progress: bool, tokens_at_once: int | None
    ) -> Tensor:
        encoded = self.texts.encode_pairs(pairs, prompt)
        self._warn(encoded, self.max_length)
        found = torch.empty(len(pairs), len(self.model.config.labels))
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            found[batch] = finite(self.model(tokens, sequences))
        return found

    def _chunks(self, pairs: Sequence[tuple[str, str]], prompt: str) -> tuple[list[tuple[str, str]], list[int]]:
        parts: list[tuple[str, str]] = []
        owners: list[int] = []
        for number, (query, document) in enumerate(pairs):
            room = self.max_length - len(self.texts.encode([query], prompt).ids[0]) + 1
            if room < self.max_length // 4:
                raise DataError(f"Query {number + 1} leaves no room for a document; shorten it.")
            for part in self.texts.windows(document, "", min(self.overlap_tokens, room // 4), room):
                parts.append((query, part))
                owners.append(number)
        return parts, owners


def _pair(number: int, given: object) -> tuple[str, str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise DataError(f"Pair {number} is not a query and a document; give tuples of two texts.")
    return checked(given[0], f"The query of pair {number}"), checked(given[1], f"The document of pair {number}")
