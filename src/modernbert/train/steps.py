"""What the training loop knows of a step: what is planned, what it has found, and the steps between two reports."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from modernbert.stream.staging import HostCopy


class Progress(Protocol):
    """How far a run is. A dataclass whose fields a checkpoint keeps."""

    @property
    def step(self) -> int: ...
    @property
    def tokens(self) -> int: ...  # read so far, [CLS] and [SEP] included


class Planned(Protocol):
    """What one optimizer step reads."""

    @property
    def tokens(self) -> int: ...  # read by all processes
    @property
    def count(self) -> float: ...  # this process's part of the number that the loss is divided by


@dataclass(frozen=True)
class Due:
    """What happens once a step has been taken."""

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
    report: bool  # whether the interval that is reported ends with it
    results: HostCopy  # loss, gradient norm, count, and how many processes were asked to stop


@dataclass(frozen=True, eq=False)
class Step(Generic[U, P]):
    """What one optimizer step reports, over all processes."""

    planned: U
    progress: P  # after it
    learning_rate: float
    loss: float
    grad_norm: float  # before it was cut
    count: float  # what the loss was divided by
    report: bool
    stop: bool  # whether any process was asked to stop


@dataclass(frozen=True, eq=False)
class Interval(Generic[U, P]):
    """The steps between two reports."""

    steps: Sequence[Step[U, P]]
    seconds: float  # pauses for evaluation and saving left out

    @property
    def last(self) -> Step[U, P]:
        return self.steps[-1]

    @property
    def loss(self) -> float:
        """The mean over everything that was predicted: a smaller batch counts less."""
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
    """Seconds of training, those of the runs that this one resumes included."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._began: float | None = None  # None while it stands

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
