"""The one thread that runs models: when it is free, it forms a batch, and it returns the results to the requests."""

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

FAILURES_UNTIL_PAUSE = 3  # failed batches in a row
PAUSE_SECONDS = 5.0  # until a paused model accepts requests again

OnBatch = Callable[[str, int, int], None]  # model, items, tokens


@dataclass(eq=False)
class Job:
    """The items of one request. `future` gives their results in order; cancelling it removes them from the queue."""

    items: Sequence[Item]
    results: list[Any]
    future: "Future[list[Any]]"
    queued_at: float
    entries: list[Entry] = field(default_factory=list)
    pending: int = 0
    queue_seconds: float = 0.0  # summed over the items
    inference_seconds: float = 0.0  # summed over the items


@dataclass(eq=False)
class _ModelState:
    """A model with its queue and its recent failures."""

    engine: Engine
    queue: TokenQueue
    failures: int = 0
    paused_at: float | None = None


class Dispatcher:
    """Owns the queues of all models and runs one batch at a time; models with waiting texts take turns.

    `start` runs it in a thread. Tests drive it with `clock` and `step` instead.
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
        self._states: dict[str, _ModelState] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def add(self, name: str, engine: Engine) -> None:
        self._states[name] = _ModelState(engine, TokenQueue(self.budget, self.patience))

    def submit(self, name: str, items: Sequence[Item]) -> Job:
        """Queue the items of a request.

        Raises:
            OverloadedError: the queue has no space for these tokens.
            UnhealthyError: the model is paused, or the server is stopping.
        """
        now = self.clock()
        job = Job(items, [None] * len(items), Future(), now, pending=len(items))
        job.entries = [Entry(item, now, job, index) for index, item in enumerate(items)]
        with self._changed:
            state = self._states[name]
            if self._closing:
                raise UnhealthyError("The server is stopping")
            if state.paused_at is not None and now - state.paused_at < PAUSE_SECONDS:
                raise UnhealthyError(
                    f"{name} failed {state.failures} times in a row; try again in {PAUSE_SECONDS:.0f} s"
                )
            if state.queue and state.queue.tokens + sum(entry.tokens for entry in job.entries) > self.max_queue_tokens:
                raise OverloadedError
            for entry in job.entries:
                state.queue.put(entry)
            self._changed.notify()
        if not items:
            job.future.set_result([])
        job.future.add_done_callback(lambda future: self._remove_entries(state, job) if future.cancelled() else None)
        return job

    def waiting(self, name: str) -> int:
        """Items in the queue of a model."""
        return len(self._states[name].queue)

    def healthy(self, name: str) -> bool:
        """False while a model is paused after failed batches."""
        return self._states[name].paused_at is None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="modernbert-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more requests, compute the queued ones, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> bool:
        """Run one batch. False if no item waits."""
        with self._changed:
            work = self._next_batch()
        if work is None:
            return False
        self._compute(*work)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                work = self._next_batch()
                if work is None:
                    if self._closing:
                        return
                    self._changed.wait()
                    continue
            self._compute(*work)

    def _next_batch(self) -> tuple[str, _ModelState, list[Entry]] | None:
        for name, state in list(self._states.items()):
            if batch := state.queue.take(self.clock()):
                del self._states[name]  # move it to the end: the other models with texts come first
                self._states[name] = state
                return name, state, batch
        return None

    def _compute(self, name: str, state: _ModelState, batch: list[Entry]) -> None:
        began = self.clock()
        self.on_batch(name, len(batch), sum(entry.tokens for entry in batch))
        results = self._results(name, state.engine, batch)
        seconds = self.clock() - began
        failed = all(isinstance(result, RequestError) for result in results)
        self._update_health(name, state, failed)
        for entry, result in zip(batch, results, strict=True):
            job = entry.job
            job.queue_seconds += began - entry.arrived
            job.inference_seconds += seconds
            if isinstance(result, ItemFailed):
                result = ComputationError(result.message)
            self._deliver(state, job, entry.index, result)

    def _results(self, name: str, engine: Engine, batch: list[Entry]) -> Sequence[Any]:
        """A result or an error for each item. After a failed batch, each of its items is computed alone."""
        try:
            results = engine.run([entry.item for entry in batch])
            assert len(results) == len(batch), "one result for each item"
            return results
        except Exception as error:  # an error of one model must not end the thread of all models
            if len(batch) > 1:
                logger.warning("%s: a batch of %d failed (%s); computing each alone.", name, len(batch), _reason(error))
                return [self._results(name, engine, [entry])[0] for entry in batch]
            logger.warning("%s: a text of %d tokens failed: %s.", name, batch[0].tokens, _reason(error))
            return [ComputationError(_reason(error))]

    def _update_health(self, name: str, state: _ModelState, failed: bool) -> None:
        with self._changed:
            if not failed:
                if state.paused_at is not None:
                    logger.warning("%s works again.", name)
                state.failures, state.paused_at = 0, None
                return
            state.failures += 1
            if state.failures >= FAILURES_UNTIL_PAUSE:
                state.paused_at = self.clock()
                logger.warning(
                    "%s failed %d times in a row and is paused for %g s.", name, state.failures, PAUSE_SECONDS
                )

    def _deliver(self, state: _ModelState, job: Job, index: int, result: Any) -> None:
        try:
            if isinstance(result, RequestError):
                job.future.set_exception(result)
                self._remove_entries(state, job)
                return
            job.results[index] = result
            job.pending -= 1
            if job.pending == 0:
                job.entries.clear()  # break the reference cycle: each entry refers to its job
                job.future.set_result(job.results)
        except InvalidStateError:
            pass  # the client has disconnected, or another item of the request failed

    def _remove_entries(self, state: _ModelState, job: Job) -> None:
        with self._changed:
            for entry in job.entries:
                state.queue.discard(entry)
            job.entries.clear()


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
