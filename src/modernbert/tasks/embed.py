"""Embed texts: one vector for each."""

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
    """Vectors of chunks (chunks, dim), and for each chunk the number of its text."""

    vectors: Vectors
    owners: npt.NDArray[np.int64]

    def best(self, scores: Float[Tensor, "queries chunks"]) -> Float[Tensor, "queries texts"]:
        """For each text the score of its best chunk."""
        owners = torch.from_numpy(self.owners).expand(len(scores), -1)
        found = scores.new_full((len(scores), int(self.owners[-1]) + 1), -torch.inf)
        return found.scatter_reduce(1, owners, scores, "amax")


class Embedder(RetrievalPredictor[DenseEncoder]):
    """Vectors of texts, such that texts of like meaning have like vectors.

    From folders of this package and of sentence-transformers (every version); from a plain encoder, the mean of its
    tokens. Batches by tokens, whatever the lengths of the texts; the order of the texts is kept.
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
        """Vectors (texts, dim) in fp32; of one text given alone, (dim,).

        `prompt`, or the prompt of the name `prompt_name`, stands before each text. `truncate_dim` keeps the first
        dimensions (for models that were trained so), `normalize_embeddings` gives each vector unit length then.
        `precision` packs them (`quantize`), with the ranges of the vectors `calibration`.

        A text that is too long is cut, which is reported; with `chunk` it is read in chunks that share `overlap`
        tokens, and its vector is the mean of theirs.

        Raises:
            DataError: a text is empty or no text, or there is no such prompt.
            ConfigError: `truncate_dim` is larger than a vector.
        """
        return self._encode(
            texts, self._prompt(prompt, prompt_name, None), truncate_dim, normalize_embeddings, precision, calibration,
            chunk, overlap, show_progress_bar, tokens_at_once,
        )  # fmt: skip

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """As `encode`, with the prompt "query" of the model unless another one is given."""
        return self._encode_role("query", texts, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """As `encode`, with the prompt "document" (or "passage" or "corpus") of the model unless one is given."""
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
        """A vector for each chunk of each text; `similarity` takes the best chunk of each text then."""
        prompt = self._prompt(prompt, prompt_name, role)
        parts, owners = self._chunks(as_texts(texts)[0], prompt, overlap)
        vectors = self._vectors(parts, prompt, self._dimensions(truncate_dim), False, None)
        return ChunkedEmbeddings(vectors.numpy(), np.asarray(owners))

    @overload
    def similarity(self, one: Any, other: ChunkedEmbeddings) -> Tensor: ...
    @overload
    def similarity(self, one: Any, other: Any) -> Tensor: ...
    def similarity(self, one: Any, other: Any) -> Tensor:
        """How alike each vector of `one` is to each of `other`, by the function of the model; higher is more alike."""
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
        packed = quantize(vectors.numpy(), precision, calibration)
        return packed[0] if single else packed

    def _dimensions(self, truncate_dim: int | None) -> int | None:
        wanted = truncate_dim or self.model.settings.truncate_dim
        if wanted is not None and not 1 <= wanted <= self.model.dimensions:
            raise ConfigError(f"truncate_dim is {wanted}, but a vector has {self.model.dimensions} dimensions.")
        return wanted

    def _chunks(self, texts: Sequence[str], prompt: str, overlap: int | None) -> tuple[list[str], list[int]]:
        shared = self.overlap_tokens if overlap is None else overlap
        found = [self.texts.windows(text, prompt, shared) for text in texts]
        owners = [number for number, parts in enumerate(found) for _ in parts]
        return [part for parts in found for part in parts], owners

    @torch.inference_mode()
    def _vectors(
        self, texts: Sequence[str], prompt: str, dimensions: int | None, progress: bool, tokens_at_once: int | None
    ) -> Tensor:
        encoded = self.texts.encode(texts, prompt)
        self._warn(encoded, self.max_length)
        before = self.texts.prompt_tokens(prompt) if not self.model.settings.include_prompt else 0
        found = torch.empty(len(texts), dimensions or self.model.dimensions)
        for batch, tokens, sequences in self._batches(encoded.ids, progress, tokens_at_once):
            found[batch] = finite(self.model(tokens, sequences, before))[:, :dimensions]
        return found
