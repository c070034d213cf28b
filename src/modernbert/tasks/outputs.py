"""Running a trained head on packed batches of texts, and the warning about texts that do not fit."""

import logging
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import CheckpointError
from modernbert.model.heads import TaskModel
from modernbert.packed import Sequences, to_device
from modernbert.runtime import Precision, autocast
from modernbert.stream.batching import batches_within
from modernbert.stream.staging import HostCopy
from modernbert.text.framing import EncodedTexts, Ids

logger = logging.getLogger(__name__)

TOKENS_AT_ONCE = 8192
CUDA_TOKENS_AT_ONCE = 65_536  # fills a card; a text of 8,192 tokens is then one of several


@torch.inference_mode()
def outputs(
    model: TaskModel,
    texts: Sequence[Ids],
    tokens_at_once: int | None = None,
    precision: Precision = "fp32",
    finite: bool = True,
) -> list[Tensor]:
    """The outputs of a head for each sequence of ids, in fp32 on the CPU: one row, or a row for each token.

    Batches hold as many tokens as suit the device, unless `tokens_at_once` is given.

    Raises:
        CheckpointError: with `finite`, where the model computes NaN or infinity.
    """
    device = next(model.parameters()).device
    tokens_at_once = tokens_at_once or suitable_tokens(device)
    results: list[Tensor] = []
    pending: deque[tuple[HostCopy, tuple[int, ...]]] = deque()

    def take() -> None:
        arriving, lengths = pending.popleft()
        computed = arriving.tensor()
        if finite:
            check_finite(computed)
        results.extend(computed.split(lengths) if model.per_token else computed.unbind())

    for batch in batches_within(range(len(texts)), [len(ids) for ids in texts], tokens_at_once):
        sequences = Sequences.from_lengths((len(texts[index]) for index in batch), device)
        tokens = to_device(torch.from_numpy(np.concatenate([texts[index] for index in batch])), device)
        with autocast(device, precision):
            computed = model(tokens, sequences).float()
        pending.append((HostCopy(computed), sequences.lengths))
        if len(pending) > 1:  # the device works on a batch while the host unpacks the one before and packs the next
            take()
    while pending:
        take()
    return results


def suitable_tokens(device: torch.device) -> int:
    """Tokens of a batch that keep a device busy."""
    return CUDA_TOKENS_AT_ONCE if device.type == "cuda" else TOKENS_AT_ONCE


def check_finite(outputs: Tensor) -> None:
    """Refuse outputs that are not numbers.

    Raises:
        CheckpointError: the model has computed NaN or infinity.
    """
    if not outputs.isfinite().all():
        raise CheckpointError(
            "The model computes NaN or infinity for these texts: load it with dtype=torch.float32, or take another "
            "checkpoint if that does not help."
        )


def default_overlap(max_length: int) -> int:
    """The number of tokens that neighbouring windows over a long text share, where no other is set."""
    return min(128, max_length // 4)


def warn_of_cut(encoded: EncodedTexts, max_length: int) -> None:
    """Log how many texts were cut to fit, if any were."""
    if encoded.truncated:
        logger.warning(
            "%d of %d texts are longer than %s tokens and were cut.",
            encoded.truncated, len(encoded.ids), f"{max_length:,}",
        )  # fmt: skip


def shortened(text: str) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."
