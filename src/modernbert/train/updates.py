"""What each optimizer step of a phase reads: the loader alone decides it, so it can be made ahead of the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modernbert.errors import ConfigError
from modernbert.stream.loader import Batch, Loader, Row
from modernbert.train.distributed import Processes
from modernbert.train.recipe import Phase


@dataclass(frozen=True, eq=False)
class PlannedUpdate:
    """The global batch of one step, and this process's part of it."""

    rows: Sequence[Row]  # of all processes
    batches: Sequence[Batch]  # this process's microbatches, as many as every other process has
    predicted: int  # masked tokens in them
    tokens: int  # that all processes read
    slots: int  # in which these tokens lie
    loader_state: dict[str, Any]  # of the stream behind this batch

    @property
    def count(self) -> int:
        """This process's part of what the loss is divided by."""
        return self.predicted


def planned_updates(
    loader: Loader, phase: Phase, processes: Processes, microbatch_tokens: int, *, tokens: int = 0, updates: int = 0
) -> Iterator[PlannedUpdate]:
    """The updates of a phase that has read `tokens` tokens in `updates` updates, up to its end.

    Every process walks the same rows and reads its own, as many at once as `microbatch_tokens` hold. One with fewer
    microbatches than another reads its last one again with nothing to predict, as all must exchange gradients alike.

    Raises:
        ConfigError: a batch has fewer rows than there are processes.
    """
    at_once = microbatch_tokens // phase.max_length
    while tokens < phase.tokens:
        count = max(1, phase.batch_tokens.at(updates) // phase.max_length)
        rows = loader.next_rows(count)
        if count < processes.size:
            raise ConfigError(
                f"A batch of {count} rows has none for some of the {processes.size} processes; "
                "raise batch_tokens (and its start), or start fewer processes."
            )
        own = processes.share(rows)
        batches = [loader.batch(own[first : first + at_once]) for first in range(0, len(own), at_once)]
        predicted = sum(len(batch.rows) for batch in batches)
        passes = -(-processes.largest_share(count) // at_once)
        if passes > len(batches):
            batches += [batches[-1].without_labels()] * (passes - len(batches))
        read = sum(row.num_tokens for row in rows)
        tokens, updates = tokens + read, updates + 1
        yield PlannedUpdate(rows, batches, predicted, read, count * phase.max_length, loader.state())
