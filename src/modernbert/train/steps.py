"""The data of a training step: its plan, its results, and the steps between two reports."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from modernbert.stream.staging import HostCopy


class Progress(Protocol):
    """The progress of a run: a dataclass whose fields are saved in checkpoints."""

    @property
    def step(self) -> int: ...
    @property
    def tokens(self) -> int: ...  # read so far, [CLS] and [SEP] included


class Planned(Protocol):
    """The input of one optimizer step."""

    @property
    def tokens(self) -> int: ...  # read by all processes
    @property
    def count(self) -> float: ...  # this process's part of the number by which the loss is divided


@dataclass(frozen=True)
class Due:
    """What follows a step."""

    report: bool = False
    evaluate: bool = False
    save: bool = False


U = TypeVar("U", bound=Planned)
P = TypeVar("P", bound=Progress)


@dataclass(frozen=True, eq=False)
class Launched(Generic[U, P]):
    """A step that the device may still be computing."""

    planned: U
    progress: P  # after it
    learning_rate: float
    report: bool  # whether a report is due after it
    results: HostCopy  # loss, gradient norm, count, and number of processes with a stop request


@dataclass(frozen=True, eq=False)
class Step(Generic[U, P]):
    """The results of one optimizer step, over all processes."""

    planned: U
    progress: P  # after it
    learning_rate: float
    loss: float
    grad_norm: float  # before clipping
    count: float  # the number by which the loss was divided
    report: bool
    stop: bool  # whether any process has a stop request


@dataclass(frozen=True, eq=False)
class Interval(Generic[U, P]):
    """The steps between two reports."""

    steps: Sequence[Step[U, P]]
    seconds: float  # without pauses for evaluation and saving

    @property
    def last(self) -> Step[U, P]:
        return self.steps[-1]

    @property
    def loss(self) -> float:
        """The mean over all predictions, so that a smaller batch counts less."""
        first = self.steps[0].loss  # written so that the mean of one loss is that loss to the bit
        weighted = sum(step.count * (step.loss - first) for step in self.steps)
        return first + weighted / sum(step.count for step in self.steps)

    @property
    def tokens(self) -> int:
        return sum(step.planned.tokens for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Stopwatch:
    """Seconds of training, including those before the run was resumed."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._began: float | None = None  # None while it is paused

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._began = time.perf_counter()
        try:
            yield
        finally:
            self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._stop()
        try:
            yield
        finally:
            self._began = time.perf_counter()

    def _stop(self) -> None:
        self._before, self._began = self.seconds, None
