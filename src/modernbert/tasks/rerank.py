"""Rerank documents: a score for each pair of a query and a document."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import ConfigError, DataError
from modernbert.model.retrieval import CrossEncoder
from modernbert.tasks.inputs import as_list, check_count, check_text, check_texts
from modernbert.tasks.quantization import Vectors
from modernbert.tasks.retrieval import Combine, RetrievalPredictor, finite


class _Ranked(TypedDict):
    corpus_id: int  # the index of the document in the list, from 0
    score: float


class Ranked(_Ranked, total=False):
    """A ranked document, in the format of sentence-transformers."""

    text: str


class Reranker(RetrievalPredictor[CrossEncoder]):
    """Scores of pairs of a query and a document, read together by the model.

    It loads folders of this package and of `CrossEncoder` (every version), and any sequence classifier.
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

        With `raw_scores` they are logits. In a pair that is too long, the longer text is truncated, and the number
        of such pairs is logged. With `chunk` the document is split into overlapping chunks, and its score is the best
        or the mean of theirs.

        Raises:
            DataError: a text is empty or not a text, or a pair does not have two texts.
        """
        prompt_text = self._prompt(prompt, prompt_name, None)
        checked_pairs = [_pair(number, pair) for number, pair in enumerate(as_list(pairs), 1)]
        parts, owners = (
            self._chunks(checked_pairs, prompt_text) if chunk else (checked_pairs, list(range(len(checked_pairs))))
        )
        scores = self._scores(parts, prompt_text, show_progress_bar, tokens_at_once)
        if not raw_scores:
            scores = self.model.activation(scores)
        if len(parts) > len(checked_pairs):
            index = torch.tensor(owners).unsqueeze(1).expand_as(scores)
            reduction = "mean" if chunk == "mean" else "amax"
            scores = torch.zeros(len(checked_pairs), scores.shape[1]).scatter_reduce(
                0, index, scores, reduction, include_self=False
            )
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
        """The documents of a query from the best to the worst, or the best `top_k`: index in the list, and score.

        The options are those of `predict`.

        Raises:
            ConfigError: the model has several labels.
            DataError: a text is empty or not a text, or `top_k` is not above 0.
        """
        top_k = None if top_k is None else check_count(top_k, "top_k", "document")
        if len(self.model.config.labels) != 1:
            raise ConfigError(
                f"This model has {len(self.model.config.labels)} labels and does not rank; predict gives their scores."
            )
        check_text(query, "The query")
        documents = check_texts(documents, "Document")
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
        self._warn_truncated(encoded, self.max_length)
        scores = torch.empty(len(pairs), len(self.model.config.labels))
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            scores[batch] = finite(self.model(tokens, sequences))
        return scores

    def _chunks(self, pairs: Sequence[tuple[str, str]], prompt: str) -> tuple[list[tuple[str, str]], list[int]]:
        parts: list[tuple[str, str]] = []
        owners: list[int] = []
        for number, (query, document) in enumerate(pairs):
            document_length = self.max_length - len(self.texts.encode([query], prompt).ids[0]) + 1
            if document_length < self.max_length // 4:
                raise DataError(f"Query {number + 1} is too long to fit with a document; shorten it.")
            for chunk in self.texts.windows(
                document, "", min(self.overlap_tokens, document_length // 4), document_length
            ):
                parts.append((query, chunk))
                owners.append(number)
        return parts, owners


def _pair(number: int, pair: object) -> tuple[str, str]:
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise DataError(f"Pair {number} is not a query and a document; give tuples of two texts.")
    return check_text(pair[0], f"The query of pair {number}"), check_text(pair[1], f"The document of pair {number}")
