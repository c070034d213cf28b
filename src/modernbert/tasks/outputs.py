"""Run a trained head on packed batches of texts; warn about truncated texts."""

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
CUDA_TOKENS_AT_ONCE = 65_536  # enough to keep a GPU busy, with several texts of 8,192 tokens in a batch


@torch.inference_mode()
def outputs(
    model: TaskModel,
    texts: Sequence[Ids],
    tokens_at_once: int | None = None,
    precision: Precision = "fp32",
    finite: bool = True,
) -> list[Tensor]:
    """The outputs of a head for each sequence of ids, in fp32 on the CPU: one vector, or a vector for each token.

    The number of tokens in a batch depends on the device, unless `tokens_at_once` is given.

    Raises:
        CheckpointError: with `finite`, the model computes NaN or infinity.
    """
    device = next(model.parameters()).device
    tokens_at_once = tokens_at_once or default_tokens_at_once(device)
    results: list[Tensor] = []
    pending: deque[tuple[HostCopy, tuple[int, ...]]] = deque()

    def collect() -> None:
        copy, lengths = pending.popleft()
        computed = copy.tensor()
        if finite:
            check_finite(computed)
        results.extend(computed.split(lengths) if model.per_token else computed.unbind())

    for batch in batches_within(range(len(texts)), [len(ids) for ids in texts], tokens_at_once):
        sequences = Sequences.from_lengths((len(texts[index]) for index in batch), device)
        tokens = to_device(torch.from_numpy(np.concatenate([texts[index] for index in batch])), device)
        with autocast(device, precision):
            computed = model(tokens, sequences).float()
        pending.append((HostCopy(computed), sequences.lengths))
        if (
            len(pending) > 1
        ):  # while the device computes a batch, the host unpacks the previous one and packs the next one
            collect()
    while pending:
        collect()
    return results


def default_tokens_at_once(device: torch.device) -> int:
    """The number of tokens in a batch that keeps a device busy."""
    return CUDA_TOKENS_AT_ONCE if device.type == "cuda" else TOKENS_AT_ONCE


def check_finite(outputs: Tensor) -> None:
    """Check that outputs are finite.

    Raises:
        CheckpointError: an output is NaN or infinity.
    """
    if not outputs.isfinite().all():
        raise CheckpointError(
            "The model computes NaN or infinity for these texts: load it with dtype=torch.float32; if that does "
            "not help, use another checkpoint."
        )


def default_overlap(max_length: int) -> int:
    """The default number of tokens that neighbouring windows over a long text share."""
    return min(128, max_length // 4)


def warn_truncated(encoded: EncodedTexts, max_length: int) -> None:
    """Log the number of truncated texts, if there are any."""
    if encoded.truncated:
        logger.warning(
            "%d of %d texts are longer than %s tokens and were truncated.",
            encoded.truncated, len(encoded.ids), f"{max_length:,}",
        )  # fmt: skip


def shortened(text: str) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."
