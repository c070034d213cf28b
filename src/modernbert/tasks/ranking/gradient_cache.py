"""Gradients of a loss over many vectors, with the activations of one mini-batch in memory.

GradCache (Gao et al. 2021, arXiv 2101.06983): embed all texts without gradients, compute the loss of all vectors and
its gradient with respect to them, then embed each mini-batch again and backpropagate its part of that gradient.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed

MiniBatch = TypeVar("MiniBatch")
_SEED_STEP = 0x9E3779B97F4A7C15  # between the seeds of two mini-batches: 2^64 divided by the golden ratio


def cached_backward(
    mini_batches: Sequence[MiniBatch],
    embed: Callable[[MiniBatch], Float[Tensor, "rows dim"]],
    loss: Callable[[Float[Tensor, "rows dim"]], Float[Tensor, ""]],
    *,
    seed: int,
    keep: bool = False,
    group: distributed.ProcessGroup | None = None,
) -> float:
    """Add the gradients of `loss` to the parameters of `embed`, and return the value of the loss.

    `embed` returns the vectors of one mini-batch: one or several rows for each text. The argument of `loss` is the
    concatenated vectors of all mini-batches. The gradients are those of `loss(concatenated vectors).backward()`:
    dropout depends on `seed` and the index of a mini-batch, so it is the same in both passes. With `keep`, or with a
    single mini-batch, activations stay in memory and texts are embedded once, but not with several processes.

    With `group`, the argument of `loss` is the vectors of all processes, in the order of their ranks, and every process
    must compute the same loss. Each process then has the gradient of the complete loss through its own vectors.
    **The caller must sum the gradients of the parameters over the processes.** `seed` is the same in all of them.
    """
    rank = 0 if group is None else distributed.get_rank(group)
    first = rank << 32  # index of this process's first mini-batch
    if (keep or len(mini_batches) == 1) and group is None:
        value = loss(
            torch.cat(
                [_seeded(embed, mini_batch, seed, first + number) for number, mini_batch in enumerate(mini_batches)]
            )
        )
        value.backward()
        return float(value.detach())
    with torch.no_grad():
        vectors = [_seeded(embed, mini_batch, seed, first + number) for number, mini_batch in enumerate(mini_batches)]
    lengths = [len(each) for each in vectors]
    local = torch.cat(vectors)
    gathered = [local] if group is None else _gather(local, group)
    all_vectors = torch.cat(gathered).requires_grad_()
    value = loss(all_vectors)
    value.backward()
    assert all_vectors.grad is not None, "the loss depends on the vectors"
    gradient = all_vectors.grad.split([len(each) for each in gathered])[rank]
    for number, (mini_batch, local_gradient) in enumerate(zip(mini_batches, gradient.split(lengths), strict=True)):
        rows = _seeded(embed, mini_batch, seed, first + number)
        if rows.requires_grad:  # queries of a frozen table have no gradients
            rows.backward(local_gradient)
    return float(value.detach())


def _seeded(embed: Callable[[MiniBatch], Tensor], mini_batch: MiniBatch, seed: int, number: int) -> Tensor:
    torch.manual_seed((seed + (number + 1) * _SEED_STEP) % 2**64)
    return embed(mini_batch)


def _gather(rows: Tensor, group: distributed.ProcessGroup) -> list[Tensor]:
    """The rows of every process; their numbers may differ."""
    size = distributed.get_world_size(group)
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(size)]
    distributed.all_gather(counts, count, group=group)
    most = max(int(number) for number in counts)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(size)]
    distributed.all_gather(gathered, padded, group=group)
    return [gathered_rows[: int(number)] for gathered_rows, number in zip(gathered, counts, strict=True)]
