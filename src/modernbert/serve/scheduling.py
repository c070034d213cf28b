"""The order of computation: a queue of texts that is emptied in batches of packed tokens.

A batch is formed only when the engine is free: first come, first served, up to a budget of tokens. There is no padding,
so the budget counts real tokens, and a batch may mix texts of any lengths.

On a CPU the time of a batch is proportional to its tokens, so a short text behind a long one would wait long. The queue
therefore has two lanes. Texts above half of the budget are long. Short texts overtake a long one for at most `patience`
seconds after its arrival; then the long text is first in a batch. While short texts wait, two batches in a row never
start with a long text. So a short text waits for at most one long batch besides the batches before it, and the k-th
long text in the queue is computed after at most its patience and 2 k batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from modernbert.serve.items import Item

_MAX_SCANNED = 256  # entries of a lane that may fill the rest of a budget; it bounds the time to form a batch


@dataclass(eq=False, slots=True)
class Entry:
    """A waiting item. `index` is its position among the items of its `job`."""

    item: Item
    arrived: float
    job: Any = None
    index: int = 0
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.item.ids)


class TokenQueue:
    """Entries in order of arrival. It is not thread-safe."""

    def __init__(self, budget: int, patience: float) -> None:
        self.budget = budget
        self.patience = patience
        self.tokens = 0  # of all entries
        self._short: dict[Entry, None] = {}  # a dict is an ordered set with removal in constant time
        self._long: dict[Entry, None] = {}
        self._last_started_with_long = False

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def put(self, entry: Entry) -> None:
        self._lane(entry)[entry] = None
        self.tokens += entry.tokens

    def discard(self, entry: Entry) -> None:
        """Remove an entry, if it still waits."""
        if self._lane(entry).pop(entry, entry) is None:
            self.tokens -= entry.tokens

    def take(self, now: float) -> list[Entry]:
        """Remove and return the next batch, in order of arrival; empty if no entry waits."""
        batch: list[Entry] = []
        remaining = self.budget
        lanes = (self._long, self._short) if self._starts_with_long(now) else (self._short,)
        self._last_started_with_long = lanes[0] is self._long
        for lane in lanes:
            for entry in list(self._fitting(lane, remaining, first=not batch)):
                batch.append(entry)
                remaining -= entry.tokens
                self.discard(entry)
        return sorted(batch, key=lambda entry: entry.arrived)

    def _starts_with_long(self, now: float) -> bool:
        if not self._long:
            return False
        if not self._short:
            return True
        overdue = now - next(iter(self._long)).arrived >= self.patience
        return overdue and not self._last_started_with_long

    def _fitting(self, lane: dict[Entry, None], remaining: int, first: bool) -> Iterator[Entry]:
        """The entries that fit into the remaining budget; the first entry of a batch may have any length."""
        for entry in islice(lane, _MAX_SCANNED):
            if first or entry.tokens <= remaining:
                yield entry
                first = False
                remaining -= entry.tokens
            if remaining <= 0:
                return

    def _lane(self, entry: Entry) -> dict[Entry, None]:
        return self._long if entry.tokens > self.budget // 2 else self._short
