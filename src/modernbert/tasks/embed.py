"""Embed texts as one vector each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from modernbert.errors import ConfigError
from modernbert.model.retrieval import DenseEncoder
from modernbert.model.retrieval_settings import Role
from modernbert.tasks.quantization import Precision, Vectors, quantize
from modernbert.tasks.retrieval import RetrievalPredictor, as_texts, finite
from modernbert.tasks.similarity import similarity


@dataclass(frozen=True, eq=False)
class ChunkedEmbeddings:
    """Vectors of chunks (chunks, dim), and for each chunk the index of its text."""

    vectors: Vectors
    owners: npt.NDArray[np.int64]

    def best(self, scores: Float[Tensor, "queries chunks"]) -> Float[Tensor, "queries texts"]:
        """For each text the score of its best chunk."""
        owners = torch.from_numpy(self.owners).expand(len(scores), -1)
        best = scores.new_full((len(scores), int(self.owners[-1]) + 1), -torch.inf)
        return best.scatter_reduce(1, owners, scores, "amax")


class Embedder(RetrievalPredictor[DenseEncoder]):
    """Vectors of texts; texts with similar meanings have similar vectors.

    It loads folders of this package and of sentence-transformers (every version). A plain encoder gives the mean of its
    tokens. Batches have a maximum number of tokens; the order of the texts is kept.
    """

    kind = DenseEncoder

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self.model.settings.truncate_dim or self.model.dimensions

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        precision: Precision = "float32",
        calibration: Vectors | None = None,
        chunk: bool = False,
        overlap: int | None = None,
        show_progress_bar: bool = False,
        tokens_at_once: int | None = None,
    ) -> Vectors:
        """Vectors (texts, dim) in fp32; for a single text, (dim,).

        `prompt`, or the prompt with the name `prompt_name`, precedes each text. `truncate_dim` keeps the first
        dimensions (for Matryoshka models); `normalize_embeddings` then gives each vector unit length. `precision`
        quantizes them (`quantize`), with the ranges of the vectors `calibration`.

        A text that is too long is truncated, and the number of such texts is logged. With `chunk` it is split into
        chunks that share `overlap` tokens, and its vector is the mean of their vectors.

        Raises:
            DataError: a text is empty or not a text, or there is no such prompt.
            ConfigError: `truncate_dim` is larger than a vector.
        """
        return self._encode(
            texts, self._prompt(prompt, prompt_name, None), truncate_dim, normalize_embeddings, precision, calibration,
            chunk, overlap, show_progress_bar, tokens_at_once,
        )  # fmt: skip

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """Like `encode`, with the prompt "query" of the model by default."""
        return self._encode_role("query", texts, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """Like `encode`, with the prompt "document" (or "passage" or "corpus") of the model by default."""
        return self._encode_role("document", texts, **options)

    def encode_chunks(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        overlap: int | None = None,
        role: Role | None = "document",
    ) -> ChunkedEmbeddings:
        """A vector for each chunk of each text; `similarity` then uses the best chunk of each text."""
        prompt = self._prompt(prompt, prompt_name, role)
        parts, owners = self._chunks(as_texts(texts)[0], prompt, overlap)
        vectors = self._vectors(parts, prompt, self._dimensions(truncate_dim), False, None)
        return ChunkedEmbeddings(vectors.numpy(), np.asarray(owners))

    @overload
    def similarity(self, one: Any, other: ChunkedEmbeddings) -> Tensor: ...
    @overload
    def similarity(self, one: Any, other: Any) -> Tensor: ...
    def similarity(self, one: Any, other: Any) -> Tensor:
        """The similarity of each vector of `one` with each of `other`, by the model's function; higher is closer."""
        name = self.model.settings.similarity
        if isinstance(other, ChunkedEmbeddings):
            return other.best(similarity(one, other.vectors, name))
        return similarity(one, other, name)

    def _encode_role(self, role: Literal["query", "document"], texts: str | Sequence[str], **options: Any) -> Vectors:
        prompt = self._prompt(options.pop("prompt", None), options.pop("prompt_name", None), role)
        return self.encode(texts, prompt=prompt, **options)

    def _encode(
        self,
        texts: str | Sequence[str],
        prompt: str,
        truncate_dim: int | None,
        normalize: bool,
        precision: Precision,
        calibration: Vectors | None,
        chunk: bool,
        overlap: int | None,
        progress: bool,
        tokens_at_once: int | None,
    ) -> Vectors:
        listed, single = as_texts(texts)
        dimensions = self._dimensions(truncate_dim)
        parts, owners = self._chunks(listed, prompt, overlap) if chunk else (listed, list(range(len(listed))))
        vectors = self._vectors(parts, prompt, dimensions, progress, tokens_at_once)
        if len(parts) > len(listed):
            index = torch.tensor(owners)
            sums = torch.zeros(len(listed), vectors.shape[1]).index_add(0, index, vectors)
            vectors = sums / index.bincount(minlength=len(listed)).unsqueeze(1)
            if self.model.settings.normalize and dimensions is None:
                vectors = F.normalize(vectors, dim=-1)
        if normalize:
            vectors = F.normalize(vectors, dim=-1)
        quantized = quantize(vectors.numpy(), precision, calibration)
        return quantized[0] if single else quantized

    def _dimensions(self, truncate_dim: int | None) -> int | None:
        dimensions = truncate_dim or self.model.settings.truncate_dim
        if dimensions is not None and not 1 <= dimensions <= self.model.dimensions:
            raise ConfigError(f"truncate_dim is {dimensions}, but a vector has {self.model.dimensions} dimensions.")
        return dimensions

    def _chunks(self, texts: Sequence[str], prompt: str, overlap: int | None) -> tuple[list[str], list[int]]:
        overlap_tokens = self.overlap_tokens if overlap is None else overlap
        chunks_by_text = [self.texts.windows(text, prompt, overlap_tokens) for text in texts]
        owners = [number for number, chunks in enumerate(chunks_by_text) for _ in chunks]
        return [chunk for chunks in chunks_by_text for chunk in chunks], owners

    @torch.inference_mode()
    def _vectors(
        self, texts: Sequence[str], prompt: str, dimensions: int | None, progress: bool, tokens_at_once: int | None
    ) -> Tensor:
        encoded = self.texts.encode(texts, prompt)
        self._warn_truncated(encoded, self.max_length)
        prompt_tokens = self.texts.prompt_tokens(prompt) if not self.model.settings.include_prompt else 0
        vectors = torch.empty(len(texts), dimensions or self.model.dimensions)
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            vectors[batch] = finite(self.model(tokens, sequences, prompt_tokens))[:, :dimensions]
        return vectors
