"""Prometheus metrics under the names of text-embeddings-inference, each with an additional label `model`.

Counters of text-embeddings-inference end in `_count`. The client library adds `_total`, and `render` removes it.
"""

import re
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import disable_created_metrics as _disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = tuple(0.001 * 1.5**step for step in range(29))  # 1 ms to 85 s
_TOKENS = tuple(float(2**power) for power in range(17))
_TOTAL = re.compile(r"^((?:# (?:HELP|TYPE) )?te_\w+?)_total\b", re.MULTILINE)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        _disable_created_metrics()
        self.registry = CollectorRegistry()
        self.requests = self._counter("te_request_count", "Requests", "method", "model")
        self.successes = self._counter("te_request_success", "Requests that were answered", "method", "model")
        self.failures = self._counter("te_request_failure", "Requests that got an error", "err")
        self.request_seconds = self._seconds("te_request_duration", "Seconds from a request to its answer")
        self.tokenization_seconds = self._seconds(
            "te_request_tokenization_duration", "Seconds in the tokenizer, for each request"
        )
        self.queue_seconds = self._seconds(
            "te_request_queue_duration", "Seconds in the queue, mean of a request's texts"
        )
        self.inference_seconds = self._seconds(
            "te_request_inference_duration", "Seconds of the batch, mean of a request's texts"
        )
        self.embed = self._family("embed")
        self.predict = self._family("predict")
        self.queue_size = Gauge("te_queue_size", "Texts in the queue", ["model"], registry=self.registry)
        self.batch_size = self._histogram("te_batch_next_size", "Texts of a batch", _TOKENS)
        self.batch_tokens = self._histogram("te_batch_next_tokens", "Tokens of a batch", _TOKENS)
        self.input_length = self._histogram("te_request_input_length", "Tokens of a text", _TOKENS)

    def watch_queue(self, model: str, size: Callable[[], int]) -> None:
        """Read the length of a queue on each request for the metrics."""
        self.queue_size.labels(model).set_function(size)

    def on_batch(self, model: str, size: int, tokens: int) -> None:
        self.batch_size.labels(model).observe(size)
        self.batch_tokens.labels(model).observe(tokens)

    def render(self) -> bytes:
        return _TOTAL.sub(r"\1", generate_latest(self.registry).decode()).encode()

    def _family(self, name: str) -> dict[str, Counter | Histogram]:
        verb = {"embed": "embedded", "predict": "classified or scored"}[name]
        return {
            "count": self._counter(f"te_{name}_count", f"Texts to be {verb}", "model"),
            "success": self._counter(f"te_{name}_success", f"Texts that were {verb}", "model"),
            "duration": self._seconds(f"te_{name}_duration", f"Seconds until texts were {verb}"),
            "inference": self._seconds(f"te_{name}_inference_duration", f"Seconds of the batch of texts to be {verb}"),
        }

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str) -> Histogram:
        return self._histogram(name, text, _SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model"], registry=self.registry, buckets=buckets)
