"""The one thread that runs models: it forms a batch when it is free, and hands the results to whoever waits."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from modernbert.serve.failures import ComputationError, OverloadedError, RequestError, UnhealthyError
from modernbert.serve.items import Engine, Item, ItemFailed
from modernbert.serve.scheduling import Entry, TokenQueue

logger = logging.getLogger(__name__)

FAILURES_UNTIL_PAUSE = 3  # batches in a row in which nothing could be computed
PAUSE_SECONDS = 5.0  # until one more request may try such a model

OnBatch = Callable[[str, int, int], None]  # model, items, tokens


@dataclass(eq=False)
class Job:
    """The items of one request. `future` gives their results in order; cancelled, the rest leaves the queue."""

    items: Sequence[Item]
    results: list[Any]
    future: "Future[list[Any]]"
    queued_at: float
    entries: list[Entry] = field(default_factory=list)
    missing: int = 0
    queue_seconds: float = 0.0  # summed over its items, as is the next one
    inference_seconds: float = 0.0


@dataclass(eq=False)
class _Lane:
    """A model with its queue and its health."""

    engine: Engine
    queue: TokenQueue
    failures: int = 0
    paused_at: float | None = None


class Dispatcher:
    """Owns the queues of all models and runs one batch at a time; models with waiting texts take turns.

    With `clock` and `step` everything can be driven by hand; `start` does it in a thread.
    """

    def __init__(
        self,
        *,
        budget: int,
        patience: float,
        max_queue_tokens: int,
        clock: Callable[[], float] = time.monotonic,
        on_batch: OnBatch = lambda model, items, tokens: None,
    ) -> None:
        self.budget = budget
        self.patience = patience
        self.max_queue_tokens = max_queue_tokens
        self.clock = clock
        self.on_batch = on_batch
        self._lanes: dict[str, _Lane] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def add(self, name: str, engine: Engine) -> None:
        self._lanes[name] = _Lane(engine, TokenQueue(self.budget, self.patience))

    def submit(self, name: str, items: Sequence[Item]) -> Job:
        """Queue the items of a request.

        Raises:
            OverloadedError: more tokens wait than the queue holds.
            UnhealthyError: the model is paused, or the server stops.
        """
        now = self.clock()
        job = Job(items, [None] * len(items), Future(), now, missing=len(items))
        job.entries = [Entry(item, now, job, index) for index, item in enumerate(items)]
        with self._changed:
            lane = self._lanes[name]
            if self._closing:
                raise UnhealthyError("The server is stopping")
            if lane.paused_at is not None and now - lane.paused_at < PAUSE_SECONDS:
                raise UnhealthyError(
                    f"{name} failed {lane.failures} times in a row; try again in {PAUSE_SECONDS:.0f} s"
                )
            if lane.queue and lane.queue.tokens + sum(entry.tokens for entry in job.entries) > self.max_queue_tokens:
                raise OverloadedError
            for entry in job.entries:
                lane.queue.put(entry)
            self._changed.notify()
        if not items:
            job.future.set_result([])
        job.future.add_done_callback(lambda future: self._forget(lane, job) if future.cancelled() else None)
        return job

    def waiting(self, name: str) -> int:
        """Items in the queue of a model."""
        return len(self._lanes[name].queue)

    def healthy(self, name: str) -> bool:
        """Whether the last batches of a model could be computed."""
        return self._lanes[name].paused_at is None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="modernbert-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Compute what is queued, take nothing more, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> bool:
        """Run one batch, if anyone waits, and say whether."""
        with self._changed:
            found = self._next_batch()
        if found is None:
            return False
        self._compute(*found)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                found = self._next_batch()
                if found is None:
                    if self._closing:
                        return
                    self._changed.wait()
                    continue
            self._compute(*found)

    def _next_batch(self) -> tuple[str, _Lane, list[Entry]] | None:
        for name, lane in list(self._lanes.items()):
            if batch := lane.queue.take(self.clock()):
                del self._lanes[name]  # to the end: every other model that has texts comes first
                self._lanes[name] = lane
                return name, lane, batch
        return None

    def _compute(self, name: str, lane: _Lane, batch: list[Entry]) -> None:
        began = self.clock()
        self.on_batch(name, len(batch), sum(entry.tokens for entry in batch))
        results = self._results(name, lane.engine, batch)
        took = self.clock() - began
        failed = all(isinstance(result, RequestError) for result in results)
        self._note_health(name, lane, failed)
        for entry, result in zip(batch, results, strict=True):
            job = entry.job
            job.queue_seconds += began - entry.arrived
            job.inference_seconds += took
            if isinstance(result, ItemFailed):
                result = ComputationError(result.message)
            self._deliver(lane, job, entry.index, result)

    def _results(self, name: str, engine: Engine, batch: list[Entry]) -> Sequence[Any]:
        """Results, and in their place the failure of those that have none. What fails together is tried alone."""
        try:
            results = engine.run([entry.item for entry in batch])
            assert len(results) == len(batch), "one result for each item"
            return results
        except Exception as error:  # whatever a model raises must not end the thread: other models go on
            if len(batch) > 1:
                logger.warning("%s: a batch of %d failed (%s); each is tried alone.", name, len(batch), _reason(error))
                return [self._results(name, engine, [entry])[0] for entry in batch]
            logger.warning("%s: %d tokens failed: %s.", name, batch[0].tokens, _reason(error))
            return [ComputationError(_reason(error))]

    def _note_health(self, name: str, lane: _Lane, failed: bool) -> None:
        with self._changed:
            if not failed:
                if lane.paused_at is not None:
                    logger.warning("%s computes again.", name)
                lane.failures, lane.paused_at = 0, None
                return
            lane.failures += 1
            if lane.failures >= FAILURES_UNTIL_PAUSE:
                lane.paused_at = self.clock()
                logger.warning(
                    "%s failed %d times in a row and is paused for %g s.", name, lane.failures, PAUSE_SECONDS
                )

    def _deliver(self, lane: _Lane, job: Job, index: int, result: Any) -> None:
        try:
            if isinstance(result, RequestError):
                job.future.set_exception(result)
                self._forget(lane, job)
                return
            job.results[index] = result
            job.missing -= 1
            if job.missing == 0:
                job.entries.clear()  # they point back at it
                job.future.set_result(job.results)
        except InvalidStateError:
            pass  # its client has left, or another of its items failed

    def _forget(self, lane: _Lane, job: Job) -> None:
        with self._changed:
            for entry in job.entries:
                lane.queue.discard(entry)
            job.entries.clear()


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
