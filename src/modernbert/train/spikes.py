"""Detection of loss spikes."""

import statistics
from collections import deque

_WINDOW = 100  # number of recent losses
_MIN_LOSSES = 20  # before the first spike is detected
_DEVIATIONS = 8  # a spike exceeds the median by this number of standard deviations
_RELATIVE = 0.1  # and by this fraction of the median


class Spikes:
    """Detects a loss far above the recent ones, by their median and median absolute deviation."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def detect(self, loss: float) -> float | None:
        """The median of the recent losses if this loss is far above it, otherwise None. Adds the loss to them."""
        recent = list(self._recent)
        self._recent.append(loss)
        if len(recent) < _MIN_LOSSES:
            return None
        median = statistics.median(recent)
        deviation = 1.4826 * statistics.median(abs(x - median) for x in recent)  # the standard deviation, if normal
        return median if loss > median + max(_DEVIATIONS * deviation, _RELATIVE * median) else None
