"""Embed texts for late interaction: a vector for each token (ColBERT)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from modernbert.errors import CheckpointError
from modernbert.model.retrieval import MultiVectorEncoder
from modernbert.model.retrieval_folder import read_modules
from modernbert.model.retrieval_settings import Role
from modernbert.tasks.quantization import Vectors
from modernbert.tasks.retrieval import RetrievalPredictor, as_texts, finite
from modernbert.tasks.retrieval_texts import EncodedQueries, own_mask


class MultiVectorEmbedder(RetrievalPredictor[MultiVectorEncoder]):
    """Vectors of the tokens of texts. A query and a document are as alike as, summed over the query's tokens, the
    most similar token of the document (MaxSim).

    From folders of this package, of `MultiVectorEncoder` and of PyLate.
    """

    kind = MultiVectorEncoder

    @classmethod
    def check_folder(cls, folder: Path, source: str | Path) -> None:
        """Refuse a folder without a projection, which would be reinitialized."""
        if not read_modules(folder):
            raise CheckpointError(
                f"{source} holds no late-interaction model (it has no modules.json); train one with "
                '`modernbert finetune`, task = "multi-vector".'
            )

    @classmethod
    def optimize(cls, model: MultiVectorEncoder, *, int8: bool) -> None:
        """As every predictor; the encoder is kept beside, if queries need it."""
        if model.has_unseen:
            model.keep_unpacked()
        super().optimize(model, int8=int8)

    @property
    def document_tokens(self) -> int:
        """The most tokens of a document that are read."""
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
        """For each text its vectors (tokens, dim) in fp32, without those that the model skips; of one text given
        alone, one array.

        Queries and documents have their own prompts, lengths and skipped words. `pool_factor` leaves a fraction of a
        document's tokens: clusters of like ones, by their mean; the first token stays.

        Raises:
            DataError: a text is empty or no text, or there is no such prompt.
        """
        role: Role = "query" if is_query else "document"
        listed, single = as_texts(texts)
        before = self._prompt(prompt, prompt_name, role)
        found = self._vectors(listed, before, role, show_progress_bar, tokens_at_once)
        if pool_factor > 1 and not is_query:
            found = [pool_tokens(one, pool_factor) for one in found]
        if normalize_embeddings:
            found = [F.normalize(one, dim=-1) for one in found]
        return found[0].numpy() if single else [one.numpy() for one in found]

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> list[Vectors] | Vectors:
        """As `encode` of queries."""
        return self.encode(texts, is_query=True, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> list[Vectors] | Vectors:
        """As `encode` of documents."""
        return self.encode(texts, is_query=False, **options)

    def similarity(
        self, queries: Sequence[Vectors] | Vectors, documents: Sequence[Vectors] | Vectors
    ) -> Float[Tensor, "queries documents"]:
        """MaxSim of each query and each document."""
        return torch.stack([max_similarity(query, _listed(documents)) for query in _listed(queries)])

    @torch.inference_mode()
    def _vectors(
        self, texts: Sequence[str], prompt: str, role: Role, progress: bool, tokens_at_once: int | None
    ) -> list[Tensor]:
        settings = self.model.settings
        if role == "query":
            encoded = self.texts.encode_queries(texts, prompt, settings)
        else:
            plain = self.texts.encode(texts, prompt, settings.document_length)
            encoded = EncodedQueries(plain.ids, [len(ids) for ids in plain.ids], plain.truncated)
        self._warn(encoded, getattr(settings, f"{role}_length") or self.max_length)
        skipped = self.texts.skipped(settings, role)
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            seen = None
            if role == "query" and self.model.has_unseen:
                seen = own_mask([encoded.own[index] for index in batch], sequences.lengths).to(tokens.device)
            vectors = finite(self.model(tokens, sequences, seen))
            kept = ~torch.isin(tokens.cpu(), skipped)
            parts = zip(vectors.split(sequences.lengths), kept.split(sequences.lengths), strict=True)
            for index, (rows, scored) in zip(batch, parts, strict=True):
                found[index] = rows[scored]
        return found


def max_similarity(query: Any, documents: Sequence[Any]) -> Float[Tensor, "documents"]:
    """For each document the sum, over the query's vectors, of the largest product with one of the document's."""
    if not documents:
        return torch.empty(0)
    lengths = torch.tensor([len(one) for one in documents])
    stacked = torch.cat([torch.as_tensor(one).float() for one in documents])
    products = stacked @ torch.as_tensor(query).float().t()
    owners = torch.repeat_interleave(lengths).unsqueeze(1).expand_as(products)
    best = products.new_full((len(lengths), products.shape[1]), -torch.inf).scatter_reduce(0, owners, products, "amax")
    return best.sum(1)


def pool_tokens(vectors: Float[Tensor, "tokens dim"], factor: float) -> Float[Tensor, "fewer dim"]:
    """One vector of unit length for each cluster of like tokens: Ward's method on cosine distances, the first token
    apart (Clavie et al. 2024, arXiv 2409.14683). About 1 / `factor` of the tokens are left.

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


def _listed(vectors: Sequence[Vectors] | Vectors) -> list[Any]:
    if isinstance(vectors, list | tuple):
        return list(vectors)
    whole = torch.as_tensor(vectors)
    return [whole] if whole.dim() == 2 else list(whole)
