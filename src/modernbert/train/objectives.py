"""Modules whose forward pass returns a loss, for DDP and FSDP to wrap."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from modernbert.model import MaskedLM
from modernbert.model.heads import TaskModel
from modernbert.packed import Sequences
from modernbert.tasks.task import Item, Task


class MaskedLMObjective(nn.Module):
    """A masked language model with the two calls that training needs."""

    def __init__(self, model: MaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Int[Tensor, "tokens"],
        sequences: Sequences,
        rows: Int[Tensor, "predicted"],
        targets: Int[Tensor, "predicted"],
    ) -> Float[Tensor, ""]:
        """The sum of `MaskedLM.loss_at`."""
        return self.model.loss_at(tokens, sequences, rows, targets)

    def logits_at(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, rows: Bool[Tensor, "tokens"]
    ) -> Float[Tensor, "rows vocab"]:
        """The logits of `MaskedLM.logits_at`."""
        return self.model.logits_at(tokens, sequences, rows)


class TaskObjective(nn.Module):
    """The model of a task with the loss of the task."""

    def __init__(self, model: TaskModel, task: Task[Any, Any]) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, items: Sequence[Item], total: float, weights: Tensor | None) -> Float[Tensor, ""]:
        """The loss of `items`, divided by `total`."""
        return self._task.loss(self.model, items, total, weights)
