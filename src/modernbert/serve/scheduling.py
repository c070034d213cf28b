"""Which requests are computed next: a queue of texts that is emptied in batches of packed tokens.

A batch is formed only when the engine is free, first come first served, up to a budget of tokens. Nothing is padded, so
the budget counts real tokens and texts of any mixture of lengths share a batch.

On a processor a batch takes as long as it has tokens, so a short text behind a long one would wait for all of it. The
queue therefore has two lanes. Texts above half of the budget are long. Short ones pass them, for at most `patience`
seconds after a long one came; then it leads a batch. Two batches in a row are never led by long texts while short ones
wait. So between two batches of short texts there is one long one at most, and the k-th long text in the queue is
computed after its patience and 2 k batches at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from modernbert.serve.items import Item

_LOOKED_AT = 256  # entries of a lane that are tried for what is left of a budget, so that forming a batch stays cheap


@dataclass(eq=False, slots=True)
class Entry:
    """An item that waits. `job` is what asked for it, and `index` its place among the items of the job."""

    item: Item
    arrived: float
    job: Any = None
    index: int = 0
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.item.ids)


class TokenQueue:
    """Entries in order of arrival. It belongs to one owner: calls must not overlap."""

    def __init__(self, budget: int, patience: float) -> None:
        self.budget = budget
        self.patience = patience
        self.tokens = 0  # that wait
        self._short: dict[Entry, None] = {}  # ordered, and an entry leaves from the middle in no time
        self._long: dict[Entry, None] = {}
        self._long_led = False

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def put(self, entry: Entry) -> None:
        self._lane(entry)[entry] = None
        self.tokens += entry.tokens

    def discard(self, entry: Entry) -> None:
        """Take an entry out, if it still waits."""
        if self._lane(entry).pop(entry, entry) is None:
            self.tokens -= entry.tokens

    def take(self, now: float) -> list[Entry]:
        """The next batch, in order of arrival; empty where nobody waits."""
        batch: list[Entry] = []
        room = self.budget
        lanes = (self._long, self._short) if self._led_by_long(now) else (self._short,)
        self._long_led = lanes[0] is self._long
        for lane in lanes:
            for entry in list(self._fitting(lane, room, lead=not batch)):
                batch.append(entry)
                room -= entry.tokens
                self.discard(entry)
        return sorted(batch, key=lambda entry: entry.arrived)

    def _led_by_long(self, now: float) -> bool:
        if not self._long:
            return False
        if not self._short:
            return True
        overdue = now - next(iter(self._long)).arrived >= self.patience
        return overdue and not self._long_led

    def _fitting(self, lane: dict[Entry, None], room: int, lead: bool) -> Iterator[Entry]:
        """Those that fit into what is left; the first one leads the batch whatever its length."""
        for entry in islice(lane, _LOOKED_AT):
            if lead or entry.tokens <= room:
                yield entry
                lead = False
                room -= entry.tokens
            if room <= 0:
                return

    def _lane(self, entry: Entry) -> dict[Entry, None]:
        return self._long if entry.tokens > self.budget // 2 else self._short
