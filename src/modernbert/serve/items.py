"""What the queue holds and an engine computes, whatever a model does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """The token ids of one sequence, special tokens included, and what its engine is to give for them."""

    ids: Ids
    wanted: Any = None


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """In the place of a result: this item could not be computed, its neighbours could."""

    message: str


class Engine(Protocol):
    """A model, ready to run. It is called by one thread at a time."""

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        """One result for each item, computed together as one packed batch; an `ItemFailed` where one has none."""
        ...
