"""Embed texts for late interaction (ColBERT): a vector for each token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from modernbert.errors import CheckpointError
from modernbert.model.retrieval import MultiVectorEncoder
from modernbert.model.retrieval_modules import read_modules
from modernbert.model.retrieval_settings import Role
from modernbert.tasks.quantization import Vectors
from modernbert.tasks.ranking.maxsim import maxsim_scores
from modernbert.tasks.retrieval import RetrievalPredictor, as_texts, finite
from modernbert.tasks.retrieval_texts import EncodedQueries, query_token_mask


class MultiVectorEmbedder(RetrievalPredictor[MultiVectorEncoder]):
    """Vectors of the tokens of texts. The similarity of a query and a document (MaxSim) is the sum, over the tokens of
    the query, of the similarity with the closest token of the document.

    It loads folders of this package, of `MultiVectorEncoder` and of PyLate.
    """

    kind = MultiVectorEncoder

    @classmethod
    def check_folder(cls, folder: Path, source: str | Path) -> None:
        """Refuse a folder without a projection, which would be initialized randomly."""
        if not read_modules(folder):
            raise CheckpointError(
                f"{source} is not a late-interaction model (it has no modules.json); train one with "
                '`modernbert finetune`, task = "multi-vector".'
            )

    @classmethod
    def optimize(cls, model: MultiVectorEncoder, *, int8: bool) -> None:
        """Replace the encoder; the original one is kept if queries need it."""
        if model.has_masked_expansion:
            model.keep_original_encoder()
        super().optimize(model, int8=int8)

    @property
    def document_tokens(self) -> int:
        """The maximum number of tokens of a document."""
        return min(self.max_length, self.model.settings.document_length or self.max_length)

    @property
    def dimensions(self) -> int:
        """The length of a token's vector."""
        return self.model.dimensions

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        is_query: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        pool_factor: float = 1,
        normalize_embeddings: bool = False,
        show_progress_bar: bool = False,
        tokens_at_once: int | None = None,
    ) -> list[Vectors] | Vectors:
        """For each text its vectors (tokens, dim) in fp32, without skipped tokens; for a single text, one array.

        Queries and documents have their own prompts, lengths and skipped words. `pool_factor` divides the number of
        document vectors: similar tokens are replaced by their mean; the first token stays.

        Raises:
            DataError: a text is empty or not a text, or there is no such prompt.
        """
        role: Role = "query" if is_query else "document"
        listed, single = as_texts(texts)
        prompt_text = self._prompt(prompt, prompt_name, role)
        vectors = self._vectors(listed, prompt_text, role, show_progress_bar, tokens_at_once)
        if pool_factor > 1 and not is_query:
            vectors = [pool_tokens(text_vectors, pool_factor) for text_vectors in vectors]
        if normalize_embeddings:
            vectors = [F.normalize(text_vectors, dim=-1) for text_vectors in vectors]
        return vectors[0].numpy() if single else [text_vectors.numpy() for text_vectors in vectors]

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> list[Vectors] | Vectors:
        """Like `encode`, for queries."""
        return self.encode(texts, is_query=True, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> list[Vectors] | Vectors:
        """Like `encode`, for documents."""
        return self.encode(texts, is_query=False, **options)

    def similarity(
        self, queries: Sequence[Vectors] | Vectors, documents: Sequence[Vectors] | Vectors
    ) -> Float[Tensor, "queries documents"]:
        """MaxSim of each query and each document."""
        listed = [np.asarray(vectors) for vectors in _as_list(documents)]
        if not listed:
            return torch.empty(len(_as_list(queries)), 0)
        return maxsim_scores(_as_list(queries), np.concatenate(listed), [len(vectors) for vectors in listed])

    @torch.inference_mode()
    def _vectors(
        self, texts: Sequence[str], prompt: str, role: Role, progress: bool, tokens_at_once: int | None
    ) -> list[Tensor]:
        settings = self.model.settings
        if role == "query":
            encoded = self.texts.encode_queries(texts, prompt, settings)
        else:
            truncated = self.texts.encode(texts, prompt, settings.document_length)
            encoded = EncodedQueries(truncated.ids, [len(ids) for ids in truncated.ids], truncated.truncated)
        self._warn_truncated(encoded, getattr(settings, f"{role}_length") or self.max_length)
        skipped = self.texts.skipped(settings, role)
        vectors_by_text: list[Tensor] = [torch.empty(0)] * len(texts)
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            attended = None
            if role == "query" and self.model.has_masked_expansion:
                attended = query_token_mask(
                    [encoded.unexpanded_lengths[index] for index in batch], sequences.lengths
                ).to(tokens.device)
            vectors = finite(self.model(tokens, sequences, attended))
            kept = ~torch.isin(tokens.cpu(), skipped)
            by_text = zip(vectors.split(sequences.lengths), kept.split(sequences.lengths), strict=True)
            for index, (text_vectors, text_kept) in zip(batch, by_text, strict=True):
                vectors_by_text[index] = text_vectors[text_kept]
        return vectors_by_text


def pool_tokens(vectors: Float[Tensor, "tokens dim"], factor: float) -> Float[Tensor, "fewer dim"]:
    """One vector of unit length for each cluster of similar tokens, by Ward's method on cosine distances, without the
    first token (Clavie et al. 2024, arXiv 2409.14683). About 1 / `factor` of the vectors remain.

    Raises:
        DataError: scipy is missing.
    """
    from modernbert.tasks.clusters import ward_clusters

    first, others = vectors[:1], vectors[1:]
    count = max(int(len(others) // factor), 1)
    if count < len(others):
        labels = ward_clusters(others, count)
        sums = others.new_zeros(int(labels.max()) + 1, others.shape[1]).index_add(0, labels, others)
        others = sums / labels.bincount().unsqueeze(1)
    return F.normalize(torch.cat([first, others]), dim=-1)


def _as_list(vectors: Sequence[Vectors] | Vectors) -> list[Any]:
    if isinstance(vectors, list | tuple):
        return list(vectors)
    tensor = torch.as_tensor(vectors)
    return [tensor] if tensor.dim() == 2 else list(tensor)
