"""The training loop under pretraining, fine-tuning and whatever else takes optimizer steps over a global batch.

A plan is an iterator of updates: what each step reads. The loop takes one update after the other:

    for update in plan:
        backward(update)            the gradients of this process's part, and its part of the loss
        optimizer.step()
        report, evaluate, save      where they are due

`TrainingLoop` holds model, optimizer, checkpoints and metrics, in one process or in one of several, and resumes from
the newest checkpoint. A kind of training is a subclass with:

    a plan                  for `take`; every process makes the same one
    backward                usually `accumulate` over microbatches, each loss divided by the global count
    learning_rate           of an update
    after, advance, state   how far the run is after an update, and what a checkpoint keeps beside that
    due, report, evaluate   what happens after which update, what is written, what is measured

`backward` may make the gradients of an update in any other way, in several forward passes (GradCache) for instance: it
leaves in `.grad` of the parameters, summed over the processes, those of the loss of the whole update, and returns the
part of the loss that this process adds to the sum. `Parallelism.sum_gradients` adds up gradients that DDP has not.

On CUDA no step waits for the device: what a step has found is read after the next one has been started, or at once
where something waits for it. Nothing is saved before it is read, so no checkpoint follows a loss that is not finite.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from modernbert.errors import ConfigError, DataError
from modernbert.model.folder import Pretrained
from modernbert.run_metrics import Metrics
from modernbert.runtime import Precision
from modernbert.stream.staging import HostCopy, numbers_to_device
from modernbert.train import checkpoint
from modernbert.train.distributed import Parallel, Parallelism, Processes
from modernbert.train.optimizer import StableAdamW
from modernbert.train.steps import Due, Interval, Launched, P, Step, Stopwatch, U
from modernbert.train.stopping import StopRequest

logger = logging.getLogger(__name__)

# Steps overlap with the host's work on this device: results are read one step late. Tests set it to the CPU.
_ASYNCHRONOUS_DEVICE = "cuda"


class DivergedError(ConfigError):
    """The loss is not finite."""


Part = TypeVar("Part")


@dataclass(frozen=True)
class Execution:
    """How the steps are computed. Nothing of this changes what is learned, except the precision."""

    precision: Precision
    parallel: Parallel | None = "ddp"  # None where `backward` exchanges gradients itself
    activation_checkpointing: bool = False
    compile: bool = False


class TrainingLoop(ABC, Generic[U, P]):
    """The state of a run in memory, in one process or in one of several."""

    remedy = "lower the learning rate, or lengthen its warm-up"  # where the loss is not finite
    max_grad_norm: float | None = None  # longer gradients are cut to it

    def __init__(
        self,
        model: Pretrained,
        objective: nn.Module,
        processes: Processes,
        execution: Execution,
        *,
        start: P,
        checkpoints: checkpoint.Checkpoints,
        metrics: Metrics,
        make_optimizer: Callable[[], StableAdamW],
    ) -> None:
        """`objective` is a module around `model` whose forward pass gives the loss: what DDP and FSDP wrap.

        Weights, moments and progress are those of the newest checkpoint, if there is one; `restored` is its state.

        Raises:
            CheckpointError: every checkpoint is damaged, or the newest one is of another model.
        """
        self.model = model
        self.processes = processes
        self.precision = execution.precision
        self.checkpoints = checkpoints
        self.metrics = metrics
        self.progress: P = start
        self.restored: Mapping[str, Any] | None = None
        found = self._newest_checkpoint()
        if found:
            self.restored = checkpoint.restore_weights(found, model)
            self.progress = type(start)(**{name: self.restored[name] for name in asdict(start)})  # type: ignore[call-overload]
            logger.info("Going on from %s.", found)
        if processes.first:
            metrics.forget_after(self.progress.step)
        self.parallelism = Parallelism(
            objective,
            list(model.get_submodule("model.layers").children()),
            processes,
            parallel=execution.parallel,
            activation_checkpointing=execution.activation_checkpointing,
            compile=execution.compile,
            precision=execution.precision,
        )
        self.optimizer = make_optimizer()  # of the parameters as FSDP has left them
        if found:
            checkpoint.restore_moments(found, model, self.optimizer)
        self.stopwatch = Stopwatch((self.restored or {}).get("seconds", 0.0))
        self._collected: list[Step[U, P]] = []
        self._reported_seconds = 0.0

    # What a kind of training says of itself.

    @abstractmethod
    def backward(self, planned: U, count: Tensor) -> Tensor:
        """Leave the gradients of the update in the parameters. Returns this process's part of the loss, 0-dim.

        `count` is `planned.count` summed over the processes: fp64, 0-dim, on the device.
        """

    @abstractmethod
    def learning_rate(self, planned: U, progress: P, peak: float) -> float:
        """The rate of an update for parameters with this peak rate; `progress` is that after it."""

    @abstractmethod
    def after(self, planned: U) -> P:
        """The progress after an update that is taken now."""

    @abstractmethod
    def due(self, planned: U) -> Due:
        """What follows the update that `progress` is after."""

    @abstractmethod
    def dropout_seed(self, step: int) -> int:
        """The seed of a step's dropout in this process: a function of step and process alone, so that a run resumes."""

    @abstractmethod
    def report(self, interval: Interval[U, P]) -> Mapping[str, Any]:
        """Show a line about some steps; returns what metrics.jsonl gets beside step, loss and speed."""

    @abstractmethod
    def evaluate(self, planned: U) -> None:
        """Measure the model as it is. All processes are here."""

    def advance(self, planned: U) -> None:
        """Take over what an update says of the run after it, beside its progress."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights, moments and progress."""
        return {}

    def inspect(self, step: Step[U, P]) -> None:
        """Look at the results of one step, in the first process."""

    def before_save(self) -> None:
        """Check what a checkpoint relies on."""

    @property
    def done(self) -> bool:
        """Whether no further update is wanted, though the plan has some."""
        return False

    # The loop.

    @property
    def asynchronous(self) -> bool:
        """Whether the device computes while the host goes on."""
        return self.processes.device.type == _ASYNCHRONOUS_DEVICE

    def take(self, plan: Iterable[U], stop: StopRequest) -> bool:
        """Take the steps of a plan. False if `stop` was raised on the way; everything is saved then."""
        with self.stopwatch.running():
            return self._take(plan, stop)

    def _take(self, plan: Iterable[U], stop: StopRequest) -> bool:
        late = 1 if self.asynchronous else 0
        unread: deque[Launched[U, P]] = deque()
        self._collected, self._reported_seconds = [], self.stopwatch.seconds
        for planned in plan:
            launched = self._update(planned, stop)
            self.progress = launched.progress
            self.advance(planned)
            due = self.due(planned)
            unread.append(replace(launched, report=due.report))
            stopping = self.processes.size == 1 and stop.requested
            while len(unread) > (0 if due.evaluate or due.save or stopping else late):
                stopping |= self._finish_step(unread.popleft())  # several processes learn of a stop here, together
            with self.stopwatch.paused():
                if due.evaluate:
                    self.evaluate(planned)
                if due.save or stopping:
                    self.save()
            if self.done:
                return True
            if stopping:
                self.checkpoints.wait()
                logger.info("Stopped and saved at step %d; the same command resumes there.", self.progress.step)
                return False
        while unread:
            self._finish_step(unread.popleft())
        return True

    def accumulate(self, parts: Sequence[Part], backward: Callable[[Part], Tensor], dtype: torch.dtype) -> Tensor:
        """The sum of the losses of microbatches, in `dtype`. Processes exchange gradients in the last backward pass."""
        total = torch.zeros((), dtype=dtype, device=self.processes.device)
        *others, last = parts
        for part in others:
            with self.parallelism.gradients_stay():
                total += backward(part)
        total += backward(last)
        return total

    def save(self) -> None:
        """Begin to save a checkpoint; it is written in the background."""
        writes = self.processes.first
        if writes or self.parallelism.sharded:
            state = {"phase": 0, "phase_end": False, "validation_loss": None, "seconds": self.stopwatch.seconds}
            state |= asdict(self.progress) | self.state()  # type: ignore[call-overload]
            snapshot = checkpoint.Snapshot.of(self.model, self.optimizer, state, copied=writes)
            if writes:
                self.checkpoints.save(snapshot)
        self.before_save()

    def _update(self, planned: U, stop: StopRequest) -> Launched[U, P]:
        """Start one optimizer step over the global batch."""
        progress = self.after(planned)
        counts = numbers_to_device([planned.count, stop.requested], self.processes.device)
        self.processes.add_up(counts)
        torch.manual_seed(self.dropout_seed(progress.step))
        loss = self.backward(planned, counts[0]).to(counts.dtype)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(planned, progress, group["peak_lr"])
        rate = self.optimizer.param_groups[0]["lr"]
        norm = self.optimizer.step(self.max_grad_norm)
        self.clear_gradients()
        self.processes.add_up(loss)
        results = HostCopy(torch.stack([loss, norm.to(counts.dtype), *counts.unbind()]))
        return Launched(planned, progress, rate, False, results)

    def clear_gradients(self) -> None:
        self.optimizer.zero_grad()

    def _read(self, launched: Launched[U, P]) -> Step[U, P]:
        """The results of a step, once the device has them.

        Raises:
            DivergedError: its loss or gradient norm is not finite. The optimizer has changed nothing then.
            DataError: nothing was predicted.
        """
        loss, norm, count, stops = launched.results.read()
        step = launched.progress.step
        if not count:
            raise DataError(f"No token of step {step} is masked; raise batch_tokens or mask_ratio.")
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.checkpoints.wait()
            raise DivergedError(f"The loss is not finite at step {step}: {self.remedy}.")
        return Step(
            launched.planned, launched.progress, launched.learning_rate, loss, norm, count, launched.report, bool(stops)
        )

    def _finish_step(self, launched: Launched[U, P]) -> bool:
        """Read a step and report it where that is due. Whether a process was asked to stop."""
        step = self._read(launched)
        if self.processes.first:
            self.inspect(step)
        self._collected.append(step)
        if step.report:
            now = self.stopwatch.seconds
            if self.processes.first:
                self._write_report(Interval(self._collected, now - self._reported_seconds))
            self._collected, self._reported_seconds = [], now
        return step.stop

    def _write_report(self, interval: Interval[U, P]) -> None:
        last = interval.last
        self.metrics.write(
            {
                "step": last.progress.step,
                "tokens": last.progress.tokens,
                "loss": interval.loss,
                "learning_rate": last.learning_rate,
                "grad_norm": last.grad_norm,
                **self.report(interval),
                "tokens_per_second": interval.tokens_per_second,
            }
        )

    def _newest_checkpoint(self) -> Path | None:
        """The checkpoint to resume from. The first process looks for damage; the others take what it leaves."""
        found = None
        for first in (True, False):
            if self.processes.first == first:
                found = checkpoint.newest(self.checkpoints.directory)
            self.processes.wait()
        return found
