"""Gradients of a loss over many vectors, with the activations of one mini-batch in memory.

GradCache (Gao et al. 2021, arXiv 2101.06983): embed everything without gradients, take the loss of all vectors and its
gradient with respect to them, then embed each mini-batch again and send its part of that gradient through the model.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed

Part = TypeVar("Part")
_NEXT_PART = 0x9E3779B97F4A7C15  # so far apart are the seeds of two mini-batches: 2^64 divided by the golden ratio


def cached_backward(
    parts: Sequence[Part],
    embed: Callable[[Part], Float[Tensor, "rows dim"]],
    loss: Callable[[Float[Tensor, "rows dim"]], Float[Tensor, ""]],
    *,
    seed: int,
    keep: bool = False,
    group: distributed.ProcessGroup | None = None,
) -> float:
    """Add the gradients of `loss` to the parameters behind `embed`, and return its value.

    `embed` gives the vectors of one mini-batch: one row for each of its texts, or several. `loss` takes those of all
    mini-batches, one after the other. Gradients are those of `loss(concatenated embeddings).backward()`: dropout is a
    function of `seed` and the number of a mini-batch, so the second pass drops what the first one dropped. With `keep`,
    and of a single mini-batch, activations stay in memory and everything is embedded once; across processes never.

    With `group`, `loss` takes the vectors of all processes, in the order of their ranks, and every process must compute
    the same loss of them. Each then holds the gradient of that whole loss through its own vectors, and **the sum of
    the parameters' gradients over the processes** is the gradient of the loss; adding them up is the caller's.
    `seed` is the same everywhere.
    """
    rank = 0 if group is None else distributed.get_rank(group)
    first = rank << 32  # numbers of this process's mini-batches begin here
    if (keep or len(parts) == 1) and group is None:
        value = loss(torch.cat([_seeded(embed, part, seed, first + number) for number, part in enumerate(parts)]))
        value.backward()
        return float(value.detach())
    with torch.no_grad():
        vectors = [_seeded(embed, part, seed, first + number) for number, part in enumerate(parts)]
    lengths = [len(each) for each in vectors]
    own = torch.cat(vectors)
    gathered = [own] if group is None else _gather(own, group)
    everything = torch.cat(gathered).requires_grad_()
    value = loss(everything)
    value.backward()
    assert everything.grad is not None, "the loss depends on the vectors"
    gradient = everything.grad.split([len(each) for each in gathered])[rank]
    for number, (part, own_gradient) in enumerate(zip(parts, gradient.split(lengths), strict=True)):
        rows = _seeded(embed, part, seed, first + number)
        if rows.requires_grad:  # queries that are looked up in a frozen table do not
            rows.backward(own_gradient)
    return float(value.detach())


def _seeded(embed: Callable[[Part], Tensor], part: Part, seed: int, number: int) -> Tensor:
    torch.manual_seed((seed + (number + 1) * _NEXT_PART) % 2**64)
    return embed(part)


def _gather(own: Tensor, group: distributed.ProcessGroup) -> list[Tensor]:
    """The rows of every process, which may have different numbers of them."""
    size = distributed.get_world_size(group)
    count = torch.tensor([len(own)], device=own.device)
    counts = [torch.zeros_like(count) for _ in range(size)]
    distributed.all_gather(counts, count, group=group)
    most = max(int(each) for each in counts)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in range(size)]
    distributed.all_gather(found, padded, group=group)
    return [rows[: int(each)] for rows, each in zip(found, counts, strict=True)]
