"""Running a trained head on packed batches of texts, and what is said of texts that do not fit."""

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
from modernbert.stream.staging import Arriving
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
    """What a head says of each sequence of ids, in fp32 on the CPU: its row, or a row for each of its tokens.

    Batches hold as many tokens as suit the device, unless `tokens_at_once` is given.

    Raises:
        CheckpointError: with `finite`, where the model says NaN or infinity.
    """
    device = next(model.parameters()).device
    tokens_at_once = tokens_at_once or suitable_tokens(device)
    found: list[Tensor] = []
    coming: deque[tuple[Arriving, tuple[int, ...]]] = deque()

    def take() -> None:
        arriving, lengths = coming.popleft()
        said = arriving.tensor()
        if finite:
            check_finite(said)
        found.extend(said.split(lengths) if model.per_token else said.unbind())

    for batch in batches_within(range(len(texts)), [len(ids) for ids in texts], tokens_at_once):
        sequences = Sequences.from_lengths((len(texts[index]) for index in batch), device)
        tokens = to_device(torch.from_numpy(np.concatenate([texts[index] for index in batch])), device)
        with autocast(device, precision):
            said = model(tokens, sequences).float()
        coming.append((Arriving(said), sequences.lengths))
        if len(coming) > 1:  # the device works on a batch while the host unpacks the one before and packs the next
            take()
    while coming:
        take()
    return found


def suitable_tokens(device: torch.device) -> int:
    """Tokens of a batch that keep a device busy."""
    return CUDA_TOKENS_AT_ONCE if device.type == "cuda" else TOKENS_AT_ONCE


def check_finite(said: Tensor) -> None:
    """Refuse to make predictions of what is not a number.

    Raises:
        CheckpointError: the model has computed NaN or infinity.
    """
    if not said.isfinite().all():
        raise CheckpointError(
            "The model computes NaN or infinity for these texts: load it with dtype=torch.float32, or take another "
            "checkpoint if that does not help."
        )


def overlap(max_length: int) -> int:
    """The tokens that windows over a long text share, unless one says otherwise."""
    return min(128, max_length // 4)


def warn_of_cut(encoded: EncodedTexts, max_length: int) -> None:
    """Say how many texts were cut to fit, if any were."""
    if encoded.truncated:
        logger.warning(
            "%d of %d texts are longer than %s tokens and were cut.",
            encoded.truncated, len(encoded.ids), f"{max_length:,}",
        )  # fmt: skip


def shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
