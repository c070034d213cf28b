"""Batches by number of examples or by tokens, and the order of an epoch."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Batches = list[list[int]]


def shuffled(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of an epoch: a function of seed and epoch alone."""
    generator = np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence((seed, epoch))))
    return generator.permutation(count)


def batches_of(order: Iterable[int], examples: int) -> Batches:
    """Batches of this number of examples; the last one may be smaller."""
    indices = [int(index) for index in order]
    return [indices[first : first + examples] for first in range(0, len(indices), examples)]


def batches_within(order: Iterable[int], lengths: Sequence[int], tokens: int) -> Batches:
    """Batches of consecutive items with at most `tokens` tokens; a longer item is a batch of its own."""
    batches: Batches = []
    remaining = 0
    for index in (int(index) for index in order):
        if not batches or lengths[index] > remaining:
            batches.append([])
            remaining = tokens
        batches[-1].append(index)
        remaining -= lengths[index]
    return batches


def balanced_share(lengths: Sequence[int], parts: int, part: int) -> list[int]:
    """The indices of one part's items, in order, if items are split into parts with about equally many tokens.

    The longest items are assigned first, each to the part with the fewest tokens.
    """
    if parts == 1:
        return list(range(len(lengths)))
    tokens = [0] * parts
    share = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        least = tokens.index(min(tokens))
        tokens[least] += lengths[index]
        if least == part:
            share.append(index)
    return sorted(share)
