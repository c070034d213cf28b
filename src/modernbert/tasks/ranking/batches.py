"""Batches without repeated texts: the second occurrence of a text would be a negative for the first one."""

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence

Batches = list[list[int]]


def batches_without_repeats(
    order: Iterable[int], texts: Sequence[Collection[Hashable]], examples: int, *, last: bool = True
) -> Batches:
    """Batches of `examples` examples in order; an example with a text of the current batch is moved to a later batch.

    `texts[i]` are the texts of example i. Every example is in one batch. The last batches may be smaller, if all
    remaining examples share texts; without `last`, smaller batches are left out, unless there is no full one.
    """
    batches: Batches = []
    waiting = deque(int(index) for index in order)
    while waiting:
        batch: list[int] = []
        used: set[Hashable] = set()
        later: list[int] = []
        while waiting and len(batch) < examples:
            index = waiting.popleft()
            if used.isdisjoint(texts[index]):
                batch.append(index)
                used.update(texts[index])
            else:
                later.append(index)
        waiting.extendleft(reversed(later))
        batches.append(batch)
    full = [batch for batch in batches if len(batch) == examples]
    return batches if last or not full else full
