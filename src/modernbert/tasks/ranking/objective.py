"""One update of a ranker: gradients of the loss of all its examples, computed in mini-batches."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed
from torch.nn import functional as F

from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.packed import Sequences
from modernbert.stream.batching import batches_within
from modernbert.tasks.ranking.contrastive import info_nce, known_positives, likely_positives
from modernbert.tasks.ranking.distillation import kl_divergence, margin_mse, score_mse
from modernbert.tasks.ranking.graded import angle, cosent, matryoshka
from modernbert.tasks.ranking.gradient_cache import cached_backward
from modernbert.tasks.ranking.listwise import binary, lambda_loss
from modernbert.tasks.ranking.maxsim import maxsim, maxsim_per_query
from modernbert.tasks.ranking.settings import ResolvedLoss
from modernbert.tasks.ranking.sparsity import flops, warmed_up
from modernbert.tasks.retrieval_texts import query_token_mask
from modernbert.text.framing import Ids

RankingModel = DenseEncoder | MultiVectorEncoder | SparseEncoder | CrossEncoder
Role = Literal["query", "document", "pair"]


@dataclass(frozen=True, eq=False)
class RankingItem:
    """An example as a model reads it: a query and its documents, or a sequence for each pair (then `query` is empty).

    `unexpanded_length` is the length of the query before its expansion with [MASK]. `query_text` and `document_texts`
    identify equal texts; `relevant` are the texts that are known to be relevant.
    """

    query: Ids
    documents: tuple[Ids, ...]
    scores: tuple[float, ...] | None
    unexpanded_length: int
    query_text: str
    document_texts: tuple[str, ...]
    relevant: frozenset[str]

    @property
    def unique_texts(self) -> tuple[Hashable, Hashable]:
        """The query and its positive, which no other example of a batch may have.

        Other texts may be repeated: `known_positives` excludes relevant documents from the negatives.
        """
        return ("query", self.query_text), self.document_texts[0]

    @property
    def num_tokens(self) -> int:
        return len(self.query) + sum(map(len, self.documents))


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """Sequences that are embedded together, all with the same role."""

    role: Role
    ids: tuple[Ids, ...]
    unexpanded_lengths: tuple[int, ...]


Guide = Callable[[Sequence[RankingItem]], Float[Tensor, "queries documents"]]  # scores of the complete batch


class RankingObjective:
    """Computes the gradients of an update of a ranker.

    `tokens_at_once` limits memory and does not change the gradients. `precision` is the context of every pass through
    the model. `skipped` are ids of document tokens that late interaction leaves out; `prompt_tokens` are the lengths of
    the prompts of queries and documents with [CLS] (for models that do not pool them).
    """

    def __init__(
        self,
        model: RankingModel,
        loss: ResolvedLoss,
        *,
        tokens_at_once: int,
        precision: Callable[[], AbstractContextManager[None]],
        skipped: Tensor | None = None,
        prompt_tokens: tuple[int, int] = (0, 0),
        guide: Guide | None = None,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        self.model, self.resolved, self.settings = model, loss, loss.settings
        self.tokens_at_once, self.precision = tokens_at_once, precision
        self.skipped = torch.empty(0, dtype=torch.int64) if skipped is None else skipped
        self.prompt_tokens = prompt_tokens
        self.guide, self.group = guide, group

    def backward(
        self,
        items: Sequence[RankingItem],
        *,
        seed: int,
        progress: float,
        local_items: Sequence[RankingItem] | None = None,
    ) -> float:
        """Add the gradients of the loss of `items` and return it.

        Dropout depends on `seed`, and the weight of a regularizer on the `progress` of the run (0 to 1). With several
        processes, `items` are those of all of them, in order, and `local_items` those of this one (`cached_backward`).
        """
        all_items = list(items)
        local = all_items if local_items is None else list(local_items)
        if isinstance(self.model, CrossEncoder):
            return self._rerank_backward(all_items, local, seed)
        mini_batches = self._mini_batches([(item.query, item.unexpanded_length) for item in local], "query")
        mini_batches += self._mini_batches([(ids, len(ids)) for item in local for ids in item.documents], "document")
        excluded = self._excluded(all_items)

        def loss(vectors: Tensor) -> Tensor:
            return self._embedded_loss(vectors, all_items, excluded, progress)

        return cached_backward(
            mini_batches, self._embed, loss, seed=seed, keep=self._fits_at_once(mini_batches), group=self.group
        )

    def _fits_at_once(self, mini_batches: Sequence[MiniBatch]) -> bool:
        """Whether the activations of all sequences fit into memory at once."""
        return sum(len(ids) for mini_batch in mini_batches for ids in mini_batch.ids) <= self.tokens_at_once

    def _mini_batches(self, sequences: Sequence[tuple[Ids, int]], role: Role) -> list[MiniBatch]:
        lengths = [len(ids) for ids, _ in sequences]
        return [
            MiniBatch(role, tuple(sequences[i][0] for i in part), tuple(sequences[i][1] for i in part))
            for part in batches_within(range(len(sequences)), lengths, self.tokens_at_once)
        ]

    def _embed(self, mini_batch: MiniBatch) -> Tensor:
        device = next(self.model.parameters()).device
        tokens = torch.from_numpy(np.concatenate(mini_batch.ids)).to(device)
        sequences = Sequences.from_lengths(len(ids) for ids in mini_batch.ids).to(device)
        model = self.model
        with self.precision():
            if isinstance(model, MultiVectorEncoder):
                attended = None
                if mini_batch.role == "query" and model.has_masked_expansion:
                    attended = query_token_mask(mini_batch.unexpanded_lengths, sequences.lengths).to(device)
                rows = model(tokens, sequences, attended)
                return rows if mini_batch.role == "query" else rows[self._kept(tokens)]
            if isinstance(model, DenseEncoder):
                return model(tokens, sequences, self.prompt_tokens[mini_batch.role == "document"])
            if isinstance(model, SparseEncoder) and model.query_table is not None and mini_batch.role == "query":
                return model.look_up(tokens, sequences)
            return model(tokens, sequences).float()

    def _kept(self, tokens: Tensor) -> Bool[Tensor, "tokens"]:
        return ~torch.isin(tokens, self.skipped.to(tokens.device, tokens.dtype))

    def _vector_counts(self, items: Sequence[RankingItem]) -> tuple[list[int], list[int]]:
        """The number of vectors of each query and each document in late interaction."""
        skipped = self.skipped.numpy()
        queries = [len(item.query) for item in items]
        documents = [int((~np.isin(ids, skipped)).sum()) for item in items for ids in item.documents]
        return queries, documents

    def _embedded_loss(
        self, vectors: Tensor, items: list[RankingItem], excluded: Tensor | None, progress: float
    ) -> Tensor:
        if isinstance(self.model, MultiVectorEncoder):
            queries, documents = self._vector_counts(items)
            split = _reorder(vectors, items, queries, documents, self.group)
            return self._late_loss(*split, queries, documents, items, excluded)
        counts = [len(item.documents) for item in items]
        single_counts = [1] * len(items), [1] * sum(counts)
        query_vectors, document_vectors = _reorder(vectors, items, *single_counts, self.group)
        if isinstance(self.model, SparseEncoder):
            loss = self._vector_loss(torch.cat([query_vectors, document_vectors]), items, excluded, cosine=False)
            weight = self.settings.query_flops if self.model.query_table is None else 0.0  # a table has no regularizer
            query_weight = warmed_up(weight, progress, self.settings.flops_warmup)
            document_weight = warmed_up(self.settings.document_flops, progress, self.settings.flops_warmup)
            return loss + query_weight * flops(query_vectors) + document_weight * flops(document_vectors)
        both = torch.cat([query_vectors, document_vectors])
        assert isinstance(self.model, DenseEncoder)
        cosine = self.model.settings.similarity == "cosine"
        full_loss = self._vector_loss(both, items, excluded, cosine)
        if not self.settings.matryoshka:
            return full_loss
        truncated_loss = matryoshka(
            both, lambda rows: self._vector_loss(rows, items, excluded, cosine), self.settings.matryoshka
        )
        return full_loss + truncated_loss

    def _vector_loss(self, rows: Tensor, items: list[RankingItem], excluded: Tensor | None, cosine: bool) -> Tensor:
        queries, documents = rows[: len(items)], rows[len(items) :]
        counts = [len(item.documents) for item in items]
        if self.resolved.name == "angle":
            return angle(queries.repeat_interleave(_tensor(counts, rows), 0), documents, _flat_labels(items, rows),
                         scale=self.settings.scale)  # fmt: skip
        if cosine:
            queries, documents = F.normalize(queries, dim=-1), F.normalize(documents, dim=-1)
        if self.resolved.name == "contrastive" and self.settings.in_batch:
            return self._contrastive(queries @ documents.T, items, excluded)
        repeated_queries = queries.repeat_interleave(_tensor(counts, rows), 0)
        return self._list_loss([*(repeated_queries * documents).sum(-1).split(counts)], items)

    def _late_loss(
        self, queries: Tensor, documents: Tensor, query_counts: list[int], document_counts: list[int],
        items: list[RankingItem], excluded: Tensor | None,
    ) -> Tensor:  # fmt: skip
        if self.resolved.name == "contrastive" and self.settings.in_batch:
            return self._contrastive(maxsim(queries, query_counts, documents, document_counts), items, excluded)
        counts = [len(item.documents) for item in items]
        return self._list_loss(maxsim_per_query(queries, query_counts, documents, document_counts, counts), items)

    def _contrastive(self, scores: Tensor, items: list[RankingItem], excluded: Tensor | None) -> Tensor:
        positives = _positives(items).to(scores.device)
        mask = None if excluded is None else excluded.to(scores.device)
        if self.settings.margin is not None and self.guide is None:
            likely = likely_positives(scores.detach(), positives, self.settings.margin, self.settings.margin_kind)
            mask = likely if mask is None else mask | likely
        return info_nce(
            scores, positives, temperature=self.resolved.temperature, excluded=mask,
            both_ways=self.settings.both_ways,
        )  # fmt: skip

    def _excluded(self, items: list[RankingItem]) -> Bool[Tensor, "queries documents"] | None:
        """The documents that are not negatives: known positives, and likely ones by the guide."""
        if self.resolved.name != "contrastive" or not self.settings.in_batch:
            return None
        names = [name for item in items for name in item.document_texts]
        positives = _positives(items)
        mask = known_positives([item.relevant for item in items], names, positives.tolist())
        if self.guide is not None and self.settings.margin is not None:
            scores = self.guide(items).cpu()
            mask |= likely_positives(scores, positives, self.settings.margin, self.settings.margin_kind)
        return mask

    def _list_loss(self, scores: Sequence[Tensor], items: list[RankingItem]) -> Tensor:
        """The loss of the scores of each query's own documents."""
        name, settings = self.resolved.name, self.settings
        padded = torch.nn.utils.rnn.pad_sequence(list(scores), batch_first=True)
        counts = _tensor([len(item.documents) for item in items], padded)
        present = torch.arange(padded.shape[1], device=padded.device) < counts.unsqueeze(1)
        labels = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(_labels(item), dtype=torch.float32) for item in items], batch_first=True
        ).to(padded.device)
        if name == "contrastive":
            logits = (padded.float() / self.resolved.temperature).masked_fill(~present, -torch.inf)
            return F.cross_entropy(logits, counts.new_zeros(len(items)))
        if name == "kl":
            return kl_divergence(
                padded, labels, temperature=self.resolved.temperature,
                teacher_temperature=settings.teacher_temperature, min_max=settings.min_max, present=present,
            )  # fmt: skip
        if name == "cosent":
            return cosent(padded[present], labels[present], scale=settings.scale)
        if name == "lambda":
            return lambda_loss(padded, labels, present, top=settings.top)
        return {"margin-mse": margin_mse, "mse": score_mse, "binary": binary}[name](padded, labels, present)

    def _rerank_backward(self, items: list[RankingItem], local_items: list[RankingItem], seed: int) -> float:
        mini_batches = self._mini_batches([(ids, len(ids)) for item in local_items for ids in item.documents], "pair")
        counts = [len(item.documents) for item in items]

        def loss(rows: Tensor) -> Tensor:
            return self._list_loss(rows.squeeze(-1).split(counts), items)

        return cached_backward(
            mini_batches, self._embed, loss, seed=seed, keep=self._fits_at_once(mini_batches), group=self.group
        )


def _reorder(
    vectors: Tensor,
    items: list[RankingItem],
    query_counts: list[int],
    document_counts: list[int],
    group: distributed.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """The queries and the documents of all processes; each process has sent its queries and then its documents."""
    if group is None:
        total = sum(query_counts)
        return vectors[:total], vectors[total:]
    size = distributed.get_world_size(group)
    queries, documents = [], []
    offset = first_document = 0
    for rank in range(size):
        begin, end = (len(items) * one // size for one in (rank, rank + 1))
        num_documents = sum(len(item.documents) for item in items[begin:end])
        num_query_vectors = sum(query_counts[begin:end])
        num_document_vectors = sum(document_counts[first_document : first_document + num_documents])
        queries.append(vectors[offset : offset + num_query_vectors])
        documents.append(vectors[offset + num_query_vectors : offset + num_query_vectors + num_document_vectors])
        offset += num_query_vectors + num_document_vectors
        first_document += num_documents
    return torch.cat(queries), torch.cat(documents)


def _positives(items: Sequence[RankingItem]) -> Tensor:
    """The column of the first document of each query."""
    counts = torch.tensor([0, *(len(item.documents) for item in items)])
    return counts.cumsum(0)[:-1]


def _labels(item: RankingItem) -> list[float]:
    return [1.0] + [0.0] * (len(item.documents) - 1) if item.scores is None else list(item.scores)


def _flat_labels(items: Sequence[RankingItem], like: Tensor) -> Tensor:
    return torch.tensor([label for item in items for label in _labels(item)], device=like.device)


def _tensor(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)
