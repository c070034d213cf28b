"""Losses that jump: the step is named, and the documents that were in its batch."""

import statistics
from collections import deque

_WINDOW = 100  # recent losses that say what is usual
_LEAST = 20  # of them before anything is called unusual
_SPREADS = 8  # a jump exceeds this many times the usual spread, and at least
_RELATIVE = 0.1  # this part of the usual loss


class Spikes:
    """Tells whether a loss stands out from the recent ones, by their median and median absolute deviation."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def usual(self, loss: float) -> float | None:
        """The usual loss if this one is far above it, otherwise None. Remembers the loss."""
        recent = list(self._recent)
        self._recent.append(loss)
        if len(recent) < _LEAST:
            return None
        median = statistics.median(recent)
        spread = 1.4826 * statistics.median(abs(x - median) for x in recent)  # of a normal: its standard deviation
        return median if loss > median + max(_SPREADS * spread, _RELATIVE * median) else None
