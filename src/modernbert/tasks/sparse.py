"""Embed texts as weights of vocabulary entries (SPLADE)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modernbert.model.retrieval import SparseEncoder
from modernbert.model.retrieval_settings import Role
from modernbert.tasks.inputs import check_count
from modernbert.tasks.retrieval import RetrievalPredictor, as_texts, finite
from modernbert.tasks.similarity import similarity


class SparseEmbedder(RetrievalPredictor[SparseEncoder]):
    """For each text a weight for each entry of the vocabulary, most of them 0, for an inverted index.

    It loads folders of this package and of `SparseEncoder`, and any masked language model as an untrained one.
    """

    kind = SparseEncoder

    @property
    def dimensions(self) -> int:
        """The size of the vocabulary."""
        return self.model.dimensions

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        show_progress_bar: bool = False,
        tokens_at_once: int | None = None,
    ) -> Tensor:
        """A sparse tensor (texts, vocabulary) in fp32, on the CPU; for a single text, (vocabulary,).

        `max_active_dims` is the number of the largest weights of each text to keep.

        Raises:
            DataError: a text is empty or not a text, or there is no such prompt.
        """
        listed, single = as_texts(texts)
        prompt_text = self._prompt(prompt, prompt_name, None)
        weights = self._weights(listed, prompt_text, max_active_dims, show_progress_bar, tokens_at_once)
        return weights[0].coalesce() if single else weights

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Tensor:
        """Like `encode`, with the prompt of queries; a model with a query table looks the weights up in it."""
        return self._encode_role("query", texts, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Tensor:
        """Like `encode`, with the prompt of documents."""
        return self._encode_role("document", texts, **options)

    def similarity(self, one: Tensor, other: Tensor) -> Tensor:
        """The similarity of each row of `one` with each row of `other`, by the model's function; higher is closer."""
        return similarity(one, other, self.model.settings.similarity)

    def decode(self, embeddings: Tensor, top_k: int | None = None) -> list[list[tuple[str, float]]]:
        """The tokens of each row with their weights, largest first; with `top_k`, the largest ones alone.

        Raises:
            DataError: `top_k` is not above 0.
        """
        top_k = None if top_k is None else check_count(top_k, "top_k", "token")
        rows = embeddings.to_dense()
        decoded = []
        for row in rows.unsqueeze(0) if rows.dim() == 1 else rows:
            best = row.topk(min(int((row > 0).sum()), top_k or len(row)))
            names = [str(self.tokenizer.id_to_token(index)) for index in best.indices.tolist()]
            decoded.append(list(zip(names, best.values.tolist(), strict=True)))
        return decoded

    def _encode_role(self, role: Role, texts: str | Sequence[str], **options: Any) -> Tensor:
        prompt = self._prompt(options.pop("prompt", None), options.pop("prompt_name", None), role)
        if role == "query" and self.model.query_table is not None:
            listed, single = as_texts(texts)
            weights = self._look_up(listed, prompt, options.get("max_active_dims"))
            return weights[0].coalesce() if single else weights
        return self.encode(texts, prompt=prompt, **options)

    @torch.inference_mode()
    def _look_up(self, texts: Sequence[str], prompt: str, most: int | None) -> Tensor:
        """The weights of each text's tokens in the query table, without the encoder."""
        assert self.model.query_table is not None
        table, length = self.model.query_table.cpu(), self.model.settings.query_length
        encoded = self.texts.encode_unframed(texts, prompt, length)
        self._warn_truncated(encoded, length or self.max_length)
        positions, values = [], []
        for row, ids in enumerate(encoded.ids):
            columns = torch.from_numpy(np.unique(ids)).long()
            if most is not None and most < len(columns):
                columns = columns[table[columns].topk(most).indices.sort().values]
            columns = columns[table[columns] != 0]
            positions.append(torch.stack([torch.full_like(columns, row), columns]))
            values.append(table[columns])
        return self._sparse(positions, values, len(texts))

    @torch.inference_mode()
    def _weights(
        self, texts: Sequence[str], prompt: str, most: int | None, progress: bool, tokens_at_once: int | None
    ) -> Tensor:
        encoded = self.texts.encode(texts, prompt)
        self._warn_truncated(encoded, self.max_length)
        positions: list[Tensor] = []
        values: list[Tensor] = []
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            weights = finite(self.model(tokens, sequences))
            if most is not None and most < weights.shape[1]:
                best = weights.topk(most, dim=1)
                weights = torch.zeros_like(weights).scatter_(1, best.indices, best.values)
            rows, columns = weights.nonzero(as_tuple=True)
            positions.append(torch.stack([torch.tensor(batch)[rows], columns]))
            values.append(weights[rows, columns])
        return self._sparse(positions, values, len(texts))

    def _sparse(self, positions: list[Tensor], values: list[Tensor], rows: int) -> Tensor:
        shape = (rows, self.model.dimensions)
        if not positions:
            return torch.sparse_coo_tensor(
                torch.empty(2, 0, dtype=torch.int64), torch.empty(0), shape, check_invariants=False
            )
        return torch.sparse_coo_tensor(
            torch.cat(positions, 1), torch.cat(values), shape, check_invariants=False
        ).coalesce()
