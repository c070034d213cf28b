"""Texts in batches, by number or by tokens, and the order of an epoch."""

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
    whole = [int(index) for index in order]
    return [whole[first : first + examples] for first in range(0, len(whole), examples)]


def batches_within(order: Iterable[int], lengths: Sequence[int], tokens: int) -> Batches:
    """Neighbours together, as many as have `tokens` tokens in all; a longer one is alone."""
    batches: Batches = []
    room = 0
    for index in (int(index) for index in order):
        if not batches or lengths[index] > room:
            batches.append([])
            room = tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def balanced_share(lengths: Sequence[int], parts: int, part: int) -> list[int]:
    """The numbers of one part's items, in their order, where all parts are to have about equally many tokens.

    The longest items are given out first, each to the part that has the fewest tokens.
    """
    if parts == 1:
        return list(range(len(lengths)))
    tokens = [0] * parts
    own = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        least = tokens.index(min(tokens))
        tokens[least] += lengths[index]
        if least == part:
            own.append(index)
    return sorted(own)
