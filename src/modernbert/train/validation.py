"""How well a model predicts the held-out tokens of a run."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from modernbert.data import Batch, Vocabulary
from modernbert.model import MaskedLM
from modernbert.model.heads import IGNORED
from modernbert.runtime import Precision, autocast
from modernbert.train.distributed import Objective, Processes


@torch.no_grad()
def evaluate(
    model: MaskedLM | Objective,
    batches: Sequence[Batch],
    vocabulary: Vocabulary,
    precision: Precision,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Loss (nats per masked token), accuracy, and bits per byte of the masked tokens. The model keeps its mode.

    Several processes share the batches, and each gets the results over all of them.
    """
    device = next(model.parameters()).device
    these = processes or Processes(0, 1, device)
    byte_lengths = torch.from_numpy(vocabulary.byte_lengths).to(device)
    training = model.training
    model.eval()
    nats = correct = count = num_bytes = 0.0
    own = these.share(batches)
    for number in range(these.largest_share(len(batches))):
        batch = own[number] if number < len(own) else batches[0]  # as many passes everywhere, as shards need
        labels = batch.labels.to(device)
        masked = labels != IGNORED
        with autocast(device, precision):
            logits = model.logits_at(batch.input_ids.to(device), batch.sequences.to(device), masked).float()
        if number < len(own):
            wanted = labels[masked]
            nats += float(F.cross_entropy(logits, wanted, reduction="sum"))
            correct += int((logits.argmax(-1) == wanted).sum())
            num_bytes += int(byte_lengths[wanted].sum())
            count += len(wanted)
    model.train(training)
    nats, correct, count, num_bytes = these.sum(nats, correct, count, num_bytes)
    return {
        "loss": nats / count,
        "accuracy": correct / count,
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "predictions": count,
    }
