"""The batches of each optimizer step of a phase. They depend on the loader alone, so a thread computes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modernbert.errors import ConfigError
from modernbert.stream.loader import Batch, Loader, PackedSequence
from modernbert.train.distributed import Processes
from modernbert.train.recipe import Phase


@dataclass(frozen=True, eq=False)
class PlannedUpdate:
    """The global batch of one step, and this process's part of it."""

    packed_sequences: Sequence[PackedSequence]  # of all processes
    batches: Sequence[Batch]  # this process's microbatches; every process has the same number
    predicted: int  # masked tokens in them
    tokens: int  # that all processes read
    capacity: int  # the same with padding
    loader_state: dict[str, Any]  # of the stream after this batch

    @property
    def count(self) -> int:
        """This process's part of the number by which the loss is divided."""
        return self.predicted


def planned_updates(
    loader: Loader, phase: Phase, processes: Processes, microbatch_tokens: int, *, tokens: int = 0, updates: int = 0
) -> Iterator[PlannedUpdate]:
    """The remaining updates of a phase that has read `tokens` tokens in `updates` updates.

    Every process iterates over the same packed sequences and reads its own ones, at most `microbatch_tokens` at once. A
    process with fewer microbatches repeats its last one without predictions, as all must exchange gradients alike.

    Raises:
        ConfigError: a batch has fewer packed sequences than there are processes.
    """
    per_microbatch = microbatch_tokens // phase.max_length
    while tokens < phase.tokens:
        count = max(1, phase.batch_tokens.at(updates) // phase.max_length)
        packed = loader.next_packed_sequences(count)
        if count < processes.size:
            raise ConfigError(
                f"A batch of {count} packed sequences is too small for {processes.size} processes; "
                "raise batch_tokens (and its start), or start fewer processes."
            )
        local = processes.share(packed)
        batches = [
            loader.batch(local[first : first + per_microbatch]) for first in range(0, len(local), per_microbatch)
        ]
        predicted = sum(len(batch.predicted_positions) for batch in batches)
        passes = -(-processes.largest_share(count) // per_microbatch)
        if passes > len(batches):
            batches += [batches[-1].without_labels()] * (passes - len(batches))
        read = sum(sequence.num_tokens for sequence in packed)
        tokens, updates = tokens + read, updates + 1
        yield PlannedUpdate(packed, batches, predicted, read, count * phase.max_length, loader.state())
