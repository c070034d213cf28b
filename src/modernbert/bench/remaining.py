"""The remaining time of a benchmark, logged before it starts and after each workload."""

import logging
import time
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)


class RemainingTime:
    """Logs the estimated time of the remaining workloads.

    The first estimate is the number of operations divided by the speed of a short probe. Later estimates use the speed
    of finished workloads.
    """

    def __init__(
        self,
        operations: Mapping[str, float],
        operations_per_second: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`operations` maps the name of each workload to its operations over all engines and rounds."""
        self._left = dict(operations)
        self._clock, self._began = clock, clock()
        self._finished_operations = 0.0
        log_remaining(self.seconds(operations_per_second))

    def finish(self, workload: str) -> None:
        """Count a workload as finished, and log the time of the others."""
        self._finished_operations += self._left.pop(workload)
        took = max(self._clock() - self._began, 1e-9)
        if self._left:
            log_remaining(self.seconds(self._finished_operations / took))

    def seconds(self, operations_per_second: float) -> float:
        """Seconds of the remaining workloads at this speed."""
        return sum(self._left.values()) / operations_per_second


def probe(run: Callable[[], object], operations: float) -> float:
    """Operations per second of a call, measured once after a warm-up call."""
    run()
    began = time.perf_counter()
    run()
    return operations / max(time.perf_counter() - began, 1e-9)


def log_remaining(seconds: float) -> None:
    """Log the remaining time of a benchmark."""
    logger.info("time left: about %s", duration(seconds))


def duration(seconds: float) -> str:
    """Rounded seconds, minutes or hours: "40 seconds", "3 minutes", "1.5 hours"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} second{'s' * (round(seconds) > 1)}"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
