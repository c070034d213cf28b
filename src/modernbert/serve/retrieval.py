"""Engines of the retrieval models: vectors, scores of pairs, vectors of tokens, and weights of words.

As in `heads.py`, `run` computes a packed batch of items of several requests; the other methods serve one request.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.model.retrieval_settings import DOCUMENT_PROMPTS, Role
from modernbert.packed import Sequences
from modernbert.serve.failures import InvalidRequestError
from modernbert.serve.heads import NOT_FINITE, Numbers, checked, run_head, sigmoid
from modernbert.serve.items import Item, ItemFailed
from modernbert.serve.texts import Side, Text, encode
from modernbert.tasks.retrieval import RetrievalPredictor
from modernbert.tasks.retrieval_texts import query_token_mask
from modernbert.text.framing import FRAME_TOKENS
from modernbert.text.tokenizer import with_prompt_special_tokens

_SPARSE_BATCH = 256  # texts of which dense weights over the vocabulary are in memory at the same time


def packed(items: Sequence[Item], device: torch.device) -> tuple[Tensor, Sequences]:
    """The ids of items as a packed batch."""
    tokens = torch.from_numpy(np.concatenate([item.ids for item in items]))
    sequences = Sequences.from_lengths(len(item.ids) for item in items)
    return tokens.to(device), sequences.to(device)


def in_groups(items: Sequence[Item], run: Callable[[Any, list[Item]], Sequence[Any]]) -> list[Any]:
    """Results in order; `run` computes items with equal options together."""
    groups: dict[Any, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.options, []).append(index)
    results: list[Any] = [None] * len(items)
    for options, indices in groups.items():
        for index, result in zip(indices, run(options, [items[index] for index in indices]), strict=True):
            results[index] = result
    return results


class _RetrievalEngine:
    """Prompts and token ids of a retrieval model."""

    _warmup_options: Any = None

    def __init__(self, predictor: RetrievalPredictor[Any]) -> None:
        self.predictor = predictor
        self.max_length = predictor.max_length
        self.settings = predictor.model.settings
        self.device = next(predictor.model.parameters()).device
        self._tokenizer: Callable[[str], Tokenizer] = cache(
            lambda prompt: with_prompt_special_tokens(predictor.tokenizer, prompt, lower_case=self.settings.lower_case)
        )

    def prompt(self, name: str | None) -> str:
        """The prompt with this name, or the default one.

        Raises:
            InvalidRequestError: the prompt does not exist.
        """
        prompts: dict[str, str] = self.settings.prompts
        if name is None:
            return prompts.get(self.settings.default_prompt_name or "", "")
        if name not in prompts:
            raise InvalidRequestError(f"`prompt_name` {name[:100]!r} is not one of: {', '.join(prompts) or 'none'}")
        return prompts[name]

    def role_prompt(self, role: Role | None) -> str:
        """The prompt that the folder has for queries or documents."""
        prompts: dict[str, str] = self.settings.prompts
        names = {"query": ("query",), "document": DOCUMENT_PROMPTS, None: ()}[role]
        return next((prompts[name] for name in names if name in prompts), self.prompt(None))

    def warmup_items(self) -> list[Item]:
        """Prepare the tokenizer for every prompt, so that no request waits for it, and return an item to compute."""
        for prompt in {"", *self.settings.prompts.values()}:
            self._tokenizer(prompt)
            self.predictor.texts.encode(["warm"], prompt)
        return [Item(self.ids(["warm"], True, "right", "")[0], self._warmup_options)]

    def ids(self, texts: Sequence[Text], truncate: bool, side: Side, prompt: str) -> list[npt.NDArray[np.int32]]:
        return encode(
            self._tokenizer(prompt), texts, max_length=self.max_length, truncate=truncate, side=side, prompt=prompt
        )


class EmbedderEngine(_RetrievalEngine):
    """One vector for each text, or the vectors of its tokens."""

    def __init__(self, predictor: RetrievalPredictor[DenseEncoder]) -> None:
        super().__init__(predictor)
        self.model: DenseEncoder = predictor.model

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self.settings.truncate_dim or self.model.dimensions

    def encode(self, texts: Sequence[Text], truncate: bool, side: Side, prompt: str) -> list[Item]:
        left_out = 0 if self.settings.include_prompt else self.predictor.texts.prompt_tokens(prompt)
        return [Item(ids, left_out) for ids in self.ids(texts, truncate, side, prompt)]

    def encode_tokens(self, texts: Sequence[Text], truncate: bool, side: Side, name: str | None) -> list[Item]:
        return [Item(ids) for ids in self.ids(texts, truncate, side, self.prompt(name))]

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        """Vectors before normalization; for items without options, the hidden states of all tokens."""

        def compute(left_out: int | None, group: list[Item]) -> list[Numbers | ItemFailed]:
            tokens, sequences = packed(group, self.device)
            hidden = self.model.model(tokens, sequences)
            if left_out is None:
                return [checked(rows) for rows in hidden.split(sequences.lengths)]
            pooled = self.model.pooling(hidden, sequences, left_out)
            return [checked(row) for row in self.model.projections(pooled)[:, : self.dimensions].float().cpu()]

        return in_groups(items, compute)

    def check_dimensions(self, dimensions: int | None) -> None:
        """Check the requested length of vectors.

        Raises:
            InvalidRequestError: it is below 1, or above the length of the model's vectors.
        """
        if dimensions is not None and not 1 <= dimensions <= self.dimensions:
            raise InvalidRequestError(f"`dimensions` must be between 1 and {self.dimensions}. Given: {dimensions}")


class SparseEngine(_RetrievalEngine):
    """The ids of the vocabulary with a weight above 0 in each text, and their weights."""

    def __init__(self, predictor: RetrievalPredictor[SparseEncoder]) -> None:
        super().__init__(predictor)
        self.model: SparseEncoder = predictor.model

    def encode_named(self, texts: Sequence[Text], truncate: bool, side: Side, name: str | None) -> list[Item]:
        """Items with the prompt of this name. If the model has a query table, `query` uses it instead of the encoder.

        Raises:
            InvalidRequestError: there is no such prompt.
        """
        if name != "query" or self.model.query_table is None:
            return [Item(ids) for ids in self.ids(texts, truncate, side, self.prompt(name))]
        prompt = self.role_prompt("query")
        length = FRAME_TOKENS + (self.settings.query_length or self.max_length)
        framed = encode(self._tokenizer(prompt), texts, max_length=length, truncate=truncate, side=side, prompt=prompt)
        own = [ids if isinstance(text, list) else ids[1:-1] for text, ids in zip(texts, framed, strict=True)]
        return [Item(ids, "query") for ids in own]

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        return in_groups(items, lambda role, group: list(self._weights(role, group)))

    def _weights(self, role: Role | None, items: Sequence[Item]) -> Iterator[Any]:
        compute = self.model.look_up if role == "query" else self.model
        for begin in range(0, len(items), _SPARSE_BATCH):
            rows = compute(*packed(items[begin : begin + _SPARSE_BATCH], self.device)).float().cpu()
            for row in rows:
                if not bool(row.isfinite().all()):
                    yield ItemFailed(NOT_FINITE)
                    continue
                indices = row.nonzero().squeeze(1)
                yield indices.numpy(), row[indices].numpy()


class MultiVectorEngine(_RetrievalEngine):
    """The vectors of tokens that late interaction scores."""

    _warmup_options = ("document", 1 << 30)

    def __init__(self, predictor: RetrievalPredictor[MultiVectorEncoder]) -> None:
        super().__init__(predictor)
        self.model: MultiVectorEncoder = predictor.model
        self._skipped = {role: predictor.texts.skipped(self.settings, role).numpy() for role in ("query", "document")}

    def encode_tokens(self, texts: Sequence[Text], truncate: bool, side: Side, name: str | None) -> list[Item]:
        """Items of queries if `name` is `query`, otherwise of documents."""
        return self.encode(texts, truncate, side, "query" if name == "query" else "document")

    def encode(self, texts: Sequence[Text], truncate: bool, side: Side, role: Role) -> list[Item]:
        """`options` of an item are its role and its number of tokens before the query expansion.

        Raises:
            InvalidRequestError: token ids are given, truncation is on the left, or a text is too long and `truncate` is
                off.
        """
        if side == "left" or any(not isinstance(text, str) for text in texts):
            raise InvalidRequestError("a multi-vector model accepts texts only, and truncates them on the right side")
        strings = [str(text) for text in texts]
        prompt = self.role_prompt(role)
        if role == "query":
            queries = self.predictor.texts.encode_queries(strings, prompt, self.settings)
            cut, ids, own = queries.truncated, queries.ids, queries.unexpanded_lengths
        else:
            documents = self.predictor.texts.encode(strings, prompt, self.settings.document_length)
            cut, ids, own = documents.truncated, documents.ids, [len(one) for one in documents.ids]
        if cut and not truncate:
            raise InvalidRequestError(f"`inputs` must have less than {self.max_tokens(role)} tokens")
        return [Item(one, (role, own_one)) for one, own_one in zip(ids, own, strict=True)]

    def max_tokens(self, role: Role) -> int:
        """The maximum number of tokens of a text."""
        length: int | None = self.settings.query_length if role == "query" else self.settings.document_length
        return length or self.max_length

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        def compute(unseen: bool, group: list[Item]) -> list[Any]:
            tokens, sequences = packed(group, self.device)
            seen = (
                query_token_mask([item.options[1] for item in group], sequences.lengths).to(self.device)
                if unseen
                else None
            )
            rows = self.model(tokens, sequences, seen).split(sequences.lengths)
            return [self._without_skipped(item, row) for item, row in zip(group, rows, strict=True)]

        apart = [Item(item.ids, self.model.has_masked_expansion and item.options[1] < len(item.ids)) for item in items]
        by_ids = {id(one): item for one, item in zip(apart, items, strict=True)}
        return in_groups(apart, lambda unseen, group: compute(unseen, [by_ids[id(one)] for one in group]))

    def _without_skipped(self, item: Item, rows: Tensor) -> Numbers | ItemFailed:
        skipped = self._skipped[item.options[0]]
        if len(skipped):
            rows = rows[torch.from_numpy(~np.isin(item.ids, skipped))]
        return checked(rows)


class RerankerEngine(_RetrievalEngine):
    """A score for each pair of texts, or the labels of a text."""

    def __init__(self, predictor: RetrievalPredictor[CrossEncoder]) -> None:
        super().__init__(predictor)
        self.model: CrossEncoder = predictor.model
        self.labels = self.model.config.labels

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        return run_head(self.model, items)

    def encode(self, texts: Sequence[Text], truncate: bool, side: Side) -> list[Item]:
        prompt = self.prompt(None)
        return [Item(ids) for ids in self.ids(texts, truncate, side, prompt)]

    def decode(self, logits: Sequence[Numbers], raw: bool) -> list[list[tuple[str, float]]]:
        """Labels with their scores, best first: through a sigmoid as in text-embeddings-inference, or the logits."""
        rows = logits if raw else [sigmoid(row) for row in logits]
        return [sorted(zip(self.labels, row, strict=True), key=lambda one: -one[1]) for row in rows]
