"""The common part of the four retrieval predictors: prompts, batches by tokens, and warnings about truncation."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import DataError
from modernbert.model.retrieval import RetrievalModel
from modernbert.model.retrieval_settings import DOCUMENT_PROMPTS, Role
from modernbert.packed import Sequences
from modernbert.progress import Progress
from modernbert.stream.batching import batches_within
from modernbert.tasks.inputs import check_texts
from modernbert.tasks.outputs import check_finite, default_tokens_at_once
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.retrieval_texts import RetrievalTokenizer
from modernbert.text.framing import EncodedTexts, Ids

logger = logging.getLogger(__name__)

_ROLE_PROMPTS: dict[Role | None, tuple[str, ...]] = {"query": ("query",), "document": DOCUMENT_PROMPTS}

Combine = Literal["mean", "best"]
R = TypeVar("R", bound=RetrievalModel[Any])


class RetrievalPredictor(Predictor[R]):
    """A retrieval model and its tokenizer. The default of `max_length` is that of the folder."""

    def __init__(self, model: R, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        limit, most = model.settings.max_length, model.config.max_position_embeddings
        super().__init__(model, tokenizer, max_length or (min(limit, most) if limit else None))
        self.texts = RetrievalTokenizer(tokenizer, model.settings, self.max_length)
        self.prompts = dict(model.settings.prompts)

    @property
    def document_tokens(self) -> int:
        """The maximum number of tokens of a document."""
        return self.max_length

    @property
    def document_prompt(self) -> str:
        """The default prompt of documents."""
        return self._prompt(None, None, "document")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder of the model. Not possible after the model was optimized for inference."""
        self.model.save_pretrained(folder)

    def _prompt(self, prompt: str | None, prompt_name: str | None, role: Role | None) -> str:
        """`prompt`, or the prompt with a name, or the prompt of a role."""
        if prompt is not None:
            return prompt
        if prompt_name is not None:
            if prompt_name in self.prompts:
                return self.prompts[prompt_name]
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise DataError(f"There is no prompt with the name {prompt_name!r}; this model has {known}.")
        names = [*_ROLE_PROMPTS.get(role, ()), self.model.settings.default_prompt_name]
        return next((self.prompts[name] for name in names if name in self.prompts), "")

    def _batches(
        self, ids: Sequence[Ids], progress: bool, tokens_at_once: int | None
    ) -> Iterator[tuple[list[int], Tensor, Sequences]]:
        """Packed batches of texts of similar length, with the indices of the texts."""
        device = next(self.model.parameters()).device
        order = np.argsort([-len(one) for one in ids], kind="stable").tolist()
        lengths = [len(one) for one in ids]
        with Progress(total=len(ids), unit=" texts", disable=not progress) as bar:
            for batch in batches_within(order, lengths, tokens_at_once or default_tokens_at_once(device)):
                tokens = torch.from_numpy(np.concatenate([ids[index] for index in batch]))
                sequences = Sequences.from_lengths(lengths[index] for index in batch)
                yield batch, tokens.to(device), sequences.to(device)
                bar.update(len(batch))

    def _warn_truncated(self, encoded: EncodedTexts | Any, max_length: int) -> None:
        if encoded.truncated:
            logger.warning(
                "%d of %d texts are longer than %s tokens and were truncated; chunk=True reads all of them.",
                encoded.truncated, len(encoded.ids), f"{max_length:,}",
            )  # fmt: skip


def as_texts(texts: object, name: str = "Text") -> tuple[list[str], bool]:
    """Checked texts, and whether the argument is a single text and not a list.

    Raises:
        DataError: a text is empty or not a text.
    """
    single = isinstance(texts, str)
    return check_texts([texts] if single else texts, name), single


def finite(values: Tensor) -> Tensor:
    """Values in fp32 on the CPU, if they are finite.

    Raises:
        CheckpointError: a value is NaN or infinity.
    """
    values = values.float().cpu()
    check_finite(values)
    return values
