"""Masked, packed batches for a custom training loop: a `collate_fn` for PyTorch's DataLoader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.utils.data import get_worker_info

from modernbert.errors import ConfigError, DataError
from modernbert.packed import Sequences
from modernbert.stream.loader import Batch
from modernbert.stream.masking import mask_tokens
from modernbert.text.framing import FRAME_TOKENS, Frame
from modernbert.text.tokenizer import Vocabulary, load_tokenizer

Example = str | Mapping[str, Any] | Sequence[int] | npt.NDArray[Any] | torch.Tensor


def collate_mlm(
    tokenizer: Tokenizer | str | Path, *, max_length: int = 1024, mask_ratio: float = 0.3, seed: int = 0
) -> "CollateMLM":
    """A `collate_fn` that packs and masks the examples of a batch.

    An example is a text, token ids without special tokens, or a mapping with `text` or `input_ids`. Each becomes one
    sequence with [CLS] and [SEP], or several if it is longer than `max_length` tokens. Nothing is truncated or padded.
    Use the batch with a model:

        loss = model.loss(batch.input_ids, batch.sequences, batch.labels)

    Masks differ from batch to batch and, with workers, from epoch to epoch. They depend on `seed` and, in a worker, on
    PyTorch's own seed (`torch.manual_seed`).

    Raises:
        ConfigError: `max_length` is too short for a token, or `mask_ratio` is not above 0 and at most 1.
        DataError: the tokenizer cannot be read. The returned function raises it if an example has another type, an id
            is not in the vocabulary, or a batch has no token.
    """
    if max_length <= FRAME_TOKENS:
        raise ConfigError(f"max_length is {max_length}, too short for one token; give {FRAME_TOKENS + 1} or more.")
    if not 0 < mask_ratio <= 1:
        raise ConfigError(f"mask_ratio is {mask_ratio}; it must be above 0 and at most 1.")
    loaded = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
    return CollateMLM(loaded, max_length, mask_ratio, seed)


class CollateMLM:
    """The function that `collate_mlm` returns. `vocabulary.size` is the number of embeddings that a model needs."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, mask_ratio: float, seed: int) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.of(tokenizer)
        self.max_length = max_length
        self.mask_ratio = mask_ratio
        self.seed = seed
        self.batches = 0

    def __call__(self, examples: Sequence[Example]) -> Batch:
        framed: list[npt.NDArray[np.int64]] = []
        frame = Frame(self.vocabulary.cls_id, self.vocabulary.sep_id)
        content_length = frame.content_length(self.max_length)
        for ids in self._ids(examples):
            for begin in range(0, len(ids), content_length):
                framed.append(frame.ids(ids[begin : begin + content_length]).astype(np.int64))
        if not framed:
            raise DataError("A batch has no token: every example in it is empty.")
        worker = get_worker_info()
        seed = self.seed if worker is None else worker.seed ^ self.seed
        inputs, labels = mask_tokens(
            np.concatenate(framed), self.vocabulary, ratio=self.mask_ratio, seed=seed % 2**64, step=self.batches
        )
        self.batches += 1
        return Batch(
            input_ids=torch.from_numpy(inputs),
            labels=torch.from_numpy(labels),
            sequences=Sequences.from_lengths(map(len, framed)),
            num_packed_sequences=len(examples),
        )

    def _ids(self, examples: Sequence[Example]) -> list[npt.NDArray[np.int64]]:
        """Token ids of each example, without special tokens."""
        contents = [self._content(example) for example in examples]
        texts = [one for one in contents if isinstance(one, str)]
        self.tokenizer.encode_special_tokens = True  # [MASK] written in a text is text
        encoded = iter(self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [
            np.array(next(encoded).ids, dtype=np.int64) if isinstance(one, str) else self._check_ids(one)
            for one in contents
        ]

    @staticmethod
    def _content(example: Example) -> str | Sequence[int] | npt.NDArray[Any] | torch.Tensor:
        if isinstance(example, Mapping):
            for name in ("text", "input_ids"):
                if name in example:
                    return example[name]
            raise DataError(f"An example has neither text nor input_ids; it has {', '.join(map(str, example))}.")
        return example

    def _check_ids(self, ids: Sequence[int] | npt.NDArray[Any] | torch.Tensor) -> npt.NDArray[np.int64]:
        checked = np.asarray(ids)
        if checked.ndim != 1 or (checked.size and not np.issubdtype(checked.dtype, np.integer)):
            raise DataError(f"An example is neither a text nor a list of token ids: {str(ids)[:60]!r}.")
        if checked.size and not (checked.min() >= 0 and checked.max() < self.vocabulary.size):
            raise DataError(
                f"An example has the id {checked.min() if checked.min() < 0 else checked.max()}, "
                f"and the vocabulary has {self.vocabulary.size}; use the tokenizer that made the ids."
            )
        return checked.astype(np.int64)
