"""Batches in which no text is there twice: its second place would be a negative of the first."""

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence

Batches = list[list[int]]


def batches_without_repeats(
    order: Iterable[int], names: Sequence[Collection[Hashable]], examples: int, *, last: bool = True
) -> Batches:
    """Batches of `examples` in the given order; one that shares a name with the batch waits for a later one.

    `names[i]` are the texts of example i. Every example is in one batch. Batches are smaller where everything that is
    left repeats something; without `last` such ones are left out, if there is a full one.
    """
    batches: Batches = []
    waiting = deque(int(index) for index in order)
    while waiting:
        batch: list[int] = []
        taken: set[Hashable] = set()
        later: list[int] = []
        while waiting and len(batch) < examples:
            index = waiting.popleft()
            if taken.isdisjoint(names[index]):
                batch.append(index)
                taken.update(names[index])
            else:
                later.append(index)
        waiting.extendleft(reversed(later))
        batches.append(batch)
    full = [batch for batch in batches if len(batch) == examples]
    return batches if last or not full else full
