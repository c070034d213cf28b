"""The items that the queue holds, and the interface of all engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """The token ids of one sequence, with special tokens, and options for its engine."""

    ids: Ids
    options: Any = None


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """The result of an item that could not be computed, in a batch where other items could."""

    message: str


class Engine(Protocol):
    """A model that is ready to run. One thread calls it at a time."""

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        """One result or `ItemFailed` for each item, computed together as one packed batch."""
        ...
