"""What the four retrieval predictors share: prompts, batches by tokens in a good order, and what is cut."""

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
from modernbert.tasks.inputs import checked_list
from modernbert.tasks.outputs import check_finite, suitable_tokens
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.retrieval_texts import RetrievalTokenizer
from modernbert.text.framing import EncodedTexts, Ids

logger = logging.getLogger(__name__)

_ROLE_PROMPTS: dict[Role | None, tuple[str, ...]] = {"query": ("query",), "document": DOCUMENT_PROMPTS}

Combine = Literal["mean", "best"]
R = TypeVar("R", bound=RetrievalModel[Any])


class RetrievalPredictor(Predictor[R]):
    """A retrieval model and its tokenizer. `max_length` is that of its folder unless given."""

    def __init__(self, model: R, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        limit, reads = model.settings.max_length, model.config.max_position_embeddings
        super().__init__(model, tokenizer, max_length or (min(limit, reads) if limit else None))
        self.texts = RetrievalTokenizer(tokenizer, model.settings, self.max_length)
        self.prompts = dict(model.settings.prompts)

    @property
    def document_tokens(self) -> int:
        """The most tokens of a document that are read."""
        return self.max_length

    @property
    def document_prompt(self) -> str:
        """What stands before each document, unless another prompt is named."""
        return self._prompt(None, None, "document")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder of the model; see the model class. Not after it was optimized for inference."""
        self.model.save_pretrained(folder)

    def _prompt(self, prompt: str | None, prompt_name: str | None, role: Role | None) -> str:
        """The prompt that is given, that of a name, or that of the role."""
        if prompt is not None:
            return prompt
        if prompt_name is not None:
            if prompt_name in self.prompts:
                return self.prompts[prompt_name]
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise DataError(f"There is no prompt of the name {prompt_name!r}; this model has {known}.")
        names = [*_ROLE_PROMPTS.get(role, ()), self.model.settings.default_prompt_name]
        return next((self.prompts[name] for name in names if name in self.prompts), "")

    def _batches(
        self, ids: Sequence[Ids], progress: bool, tokens_at_once: int | None
    ) -> Iterator[tuple[list[int], Tensor, Sequences]]:
        """Packed batches of texts of like length, with the numbers of the texts."""
        device = next(self.model.parameters()).device
        order = np.argsort([-len(one) for one in ids], kind="stable").tolist()
        lengths = [len(one) for one in ids]
        with Progress(total=len(ids), unit=" texts", disable=not progress) as bar:
            for batch in batches_within(order, lengths, tokens_at_once or suitable_tokens(device)):
                tokens = torch.from_numpy(np.concatenate([ids[index] for index in batch]))
                sequences = Sequences.from_lengths(lengths[index] for index in batch)
                yield batch, tokens.to(device), sequences.to(device)
                bar.update(len(batch))

    def _warn(self, encoded: EncodedTexts | Any, most: int) -> None:
        if encoded.truncated:
            logger.warning(
                "%d of %d texts are longer than %s tokens and were cut; chunk=True reads all of them.",
                encoded.truncated, len(encoded.ids), f"{most:,}",
            )  # fmt: skip


def as_texts(texts: object, name: str = "Text") -> tuple[list[str], bool]:
    """Checked texts, and whether there was only one, given as it is.

    Raises:
        DataError: one is empty or no text.
    """
    single = isinstance(texts, str)
    return checked_list([texts] if single else texts, name), single


def finite(values: Tensor) -> Tensor:
    """Values in fp32 on the CPU.

    Raises:
        CheckpointError: the model has computed NaN or infinity.
    """
    values = values.float().cpu()
    check_finite(values)
    return values
