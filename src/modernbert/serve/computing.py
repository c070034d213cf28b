"""From the texts of a request to its results: admission, tokenizer threads, the queue, and usage."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modernbert.serve.dispatcher import Dispatcher
from modernbert.serve.failures import BatchSizeError, EmptyInputError, OverloadedError, RequestError
from modernbert.serve.items import Item
from modernbert.serve.metrics import Metrics
from modernbert.serve.models import Catalogue, Kind, ServedModel
from modernbert.serve.settings import ServeSettings

T = TypeVar("T")

_EMBEDS = (Kind.EMBEDDER, Kind.SPARSE, Kind.MULTI_VECTOR)


@dataclass(eq=False)
class Usage:
    """Size and times of a request, for its response headers and the metrics. Seconds are means over its texts."""

    model: ServedModel
    method: str  # single or batch
    characters: int
    began: float
    items: int = 0
    tokens: int = 0
    tokenization_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0

    def headers(self) -> dict[str, str]:
        total = _milliseconds(time.perf_counter() - self.began)
        return {
            "x-compute-type": "cpu+optimized" if self.model.device == "cpu" else "gpu+optimized",
            "x-compute-time": total,
            "x-compute-characters": str(self.characters),
            "x-compute-tokens": str(self.tokens),
            "x-total-time": total,
            "x-tokenization-time": _milliseconds(self.tokenization_seconds),
            "x-queue-time": _milliseconds(self.queue_seconds),
            "x-inference-time": _milliseconds(self.inference_seconds),
        }


@dataclass(eq=False)
class Server:
    """What all routes share: models, queue, threads, limits and metrics."""

    settings: ServeSettings
    catalogue: Catalogue
    dispatcher: Dispatcher
    metrics: Metrics
    threads: ThreadPoolExecutor
    in_flight: int = field(default=0, init=False)
    started_at: int = field(default_factory=lambda: int(time.time()), init=False)

    @classmethod
    def of(cls, models: Sequence[ServedModel], settings: ServeSettings) -> "Server":
        """A server of loaded models, not yet started."""
        metrics = Metrics()
        dispatcher = Dispatcher(
            budget=settings.max_batch_tokens,
            patience=settings.patience,
            max_queue_tokens=settings.max_queue_tokens,
            on_batch=metrics.on_batch,
        )
        catalogue = Catalogue(models)
        for model in models:
            dispatcher.add(model.name, model.engine)
            metrics.watch_queue(model.name, lambda name=model.name: dispatcher.waiting(name))  # type: ignore[misc]
        threads = ThreadPoolExecutor(settings.tokenization_workers, thread_name_prefix="modernbert-tokenizer")
        return cls(settings, catalogue, dispatcher, metrics, threads)

    def start(self) -> None:
        self.dispatcher.start()

    def close(self) -> None:
        """Finish accepted requests."""
        self.dispatcher.close()
        self.threads.shutdown()

    @contextmanager
    def request(self, model: ServedModel, texts: int, single: bool, characters: int) -> Iterator[Usage]:
        """Admit and count one request of `texts` texts.

        Raises:
            EmptyInputError: it has no text.
            BatchSizeError: it has more texts than a client may send.
            OverloadedError: the maximum number of requests is in flight.
        """
        usage = Usage(model, "single" if single else "batch", characters, time.perf_counter())
        self.metrics.requests.labels(usage.method, model.name).inc()
        if texts == 0:
            raise EmptyInputError("`inputs` cannot be empty")
        if texts > (largest := self.settings.max_client_batch_size):
            raise BatchSizeError(f"batch size {texts} > maximum allowed batch size {largest}")
        if self.in_flight >= self.settings.max_concurrent_requests:
            raise OverloadedError
        family = self.metrics.embed if model.kind in _EMBEDS else self.metrics.predict
        family["count"].labels(model.name).inc(texts)  # type: ignore[union-attr]
        self.in_flight += 1
        try:
            yield usage
        finally:
            self.in_flight -= 1
        total = time.perf_counter() - usage.began
        self.metrics.successes.labels(usage.method, model.name).inc()
        family["success"].labels(model.name).inc(texts)  # type: ignore[union-attr]
        family["duration"].labels(model.name).observe(total)  # type: ignore[union-attr]
        family["inference"].labels(model.name).observe(usage.inference_seconds)  # type: ignore[union-attr]
        for histogram, seconds in (
            (self.metrics.request_seconds, total),
            (self.metrics.tokenization_seconds, usage.tokenization_seconds),
            (self.metrics.queue_seconds, usage.queue_seconds),
            (self.metrics.inference_seconds, usage.inference_seconds),
        ):
            histogram.labels(model.name).observe(seconds)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run slow work in a thread, so that it does not block the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def encode(self, usage: Usage, work: Callable[[], T]) -> T:
        """Run a tokenizer in a thread, and record its time."""
        began = time.perf_counter()
        try:
            return await self.in_thread(work)
        finally:
            usage.tokenization_seconds += time.perf_counter() - began

    async def compute(self, usage: Usage, items: Sequence[Item]) -> list[Any]:
        """The results of items, in order. Cancelling this call removes the items from the queue.

        Raises:
            OverloadedError, UnhealthyError, ComputationError: see `Dispatcher`.
        """
        lengths = self.metrics.input_length.labels(usage.model.name)
        for item in items:
            lengths.observe(len(item.ids))
        job = self.dispatcher.submit(usage.model.name, items)
        results = await asyncio.wrap_future(job.future)
        usage.items += len(items)
        usage.tokens += sum(len(item.ids) for item in items)
        usage.queue_seconds += job.queue_seconds / len(items)
        usage.inference_seconds += job.inference_seconds / len(items)
        return results

    async def run(self, usage: Usage, encode: Callable[[], Sequence[Item]]) -> list[Any]:
        """The results of the items that `encode` makes, in order."""
        return await self.compute(usage, await self.encode(usage, encode))

    def truncates(self, requested: bool | None) -> bool:
        """Whether long texts are truncated: as in the request, otherwise as in the settings."""
        return self.settings.auto_truncate if requested is None else requested

    def count_failure(self, error: RequestError) -> None:
        self.metrics.failures.labels(error.label).inc()


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
