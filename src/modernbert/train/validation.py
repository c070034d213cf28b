"""Evaluation of a masked language model on held-out tokens."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch.nn import functional as F

from modernbert.model import MaskedLM
from modernbert.packed import IGNORED
from modernbert.runtime import Precision, autocast
from modernbert.stream.loader import Batch
from modernbert.text.tokenizer import Vocabulary
from modernbert.train.distributed import Processes
from modernbert.train.objectives import MaskedLMObjective


@dataclass(frozen=True)
class Totals:
    """Sums over masked tokens."""

    nats: float = 0.0
    correct: float = 0.0
    predictions: float = 0.0
    num_bytes: float = 0.0  # of the tokens that were masked

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def results(self) -> dict[str, float]:
        """Loss (nats per masked token), accuracy, and bits per byte of the masked tokens."""
        return {
            "loss": self.nats / self.predictions,
            "accuracy": self.correct / self.predictions,
            "bits_per_byte": self.nats / math.log(2) / self.num_bytes,
            "predictions": self.predictions,
        }


def evaluate(
    model: MaskedLM | MaskedLMObjective,
    batches: Sequence[Batch],
    vocabulary: Vocabulary,
    precision: Precision,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Loss (nats per masked token), accuracy, and bits per byte of the masked tokens. The model keeps its mode.

    Several processes share the batches, and each gets the results over all of them.
    """
    return count(model, batches, vocabulary, precision, processes).results()


@torch.no_grad()
def count(
    model: MaskedLM | MaskedLMObjective,
    batches: Sequence[Batch],
    vocabulary: Vocabulary,
    precision: Precision,
    processes: Processes | None = None,
) -> Totals:
    """The sums from which `evaluate` computes its results."""
    device = next(model.parameters()).device
    process_group = processes or Processes(0, 1, device)
    byte_lengths = torch.from_numpy(vocabulary.byte_lengths).to(device)
    training = model.training
    model.eval()
    nats = correct = predictions = num_bytes = 0.0
    local = process_group.share(batches)
    for number in range(process_group.largest_share(len(batches))):
        batch = (
            local[number] if number < len(local) else batches[0]
        )  # sharding needs the same number of passes in all processes
        labels = batch.labels.to(device)
        masked = labels != IGNORED
        with autocast(device, precision):
            logits = model.logits_at(batch.input_ids.to(device), batch.sequences.to(device), masked).float()
        if number < len(local):
            targets = labels[masked]
            nats += float(F.cross_entropy(logits, targets, reduction="sum"))
            correct += int((logits.argmax(-1) == targets).sum())
            num_bytes += int(byte_lengths[targets].sum())
            predictions += len(targets)
    model.train(training)
    return Totals(*process_group.sum(nats, correct, predictions, num_bytes))
