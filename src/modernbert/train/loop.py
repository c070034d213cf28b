"""The training loop of pretraining, fine-tuning and other training with optimizer steps over a global batch.

A plan is an iterator of updates, the inputs of the steps. The loop processes one update after the other:

    for update in plan:
        backward(update)            the gradients of this process's part, and its part of the loss
        optimizer.step()
        report, evaluate, save      when they are due

`TrainingLoop` holds model, optimizer, checkpoints and metrics, in one process or in one of several, and resumes from
the newest checkpoint. A kind of training is a subclass with:

    a plan                  for `run_plan`; the same one in every process
    backward                usually `accumulate` over microbatches, each loss divided by the global count
    learning_rate           of an update
    after, advance, state   the progress after an update, and the additional state in a checkpoint
    due, report, evaluate   what follows an update, what is written, and the evaluation

`backward` may compute the gradients of an update in another way, such as several forward passes (GradCache). It must
leave the gradients of the loss of the complete update in `.grad`, summed over the processes, and return this process's
part of the loss. `Parallelism.sum_gradients` sums gradients that DDP has not.

On CUDA no step waits for the device: the results of a step are read after the next step has been started, or at once
if they are needed. They are read before a checkpoint is saved, so no checkpoint follows a loss that is not finite.
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

# On this device, results are read one step late, so that steps overlap with the work of the host. Tests use the CPU.
_ASYNCHRONOUS_DEVICE = "cuda"


class DivergedError(ConfigError):
    """The loss is not finite."""


MicroBatch = TypeVar("MicroBatch")


@dataclass(frozen=True)
class Execution:
    """How the steps are computed. Only the precision changes the result."""

    precision: Precision
    parallel: Parallel | None = "ddp"  # None if `backward` exchanges gradients itself
    activation_checkpointing: bool = False
    compile: bool = False


class TrainingLoop(ABC, Generic[U, P]):
    """The state of a run in memory, in one process or in one of several."""

    remedy = "lower the learning rate, or lengthen its warm-up"  # if the loss is not finite
    max_grad_norm: float | None = None  # gradients with a larger norm are scaled down to it

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
        """`objective` is a module around `model` whose forward pass returns the loss, for DDP and FSDP to wrap.

        If there is a checkpoint, weights, moments and progress are those of the newest one; `restored` is its state.

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
        newest = self._newest_checkpoint()
        if newest:
            self.restored = checkpoint.restore_weights(newest, model)
            self.progress = type(start)(**{name: self.restored[name] for name in asdict(start)})  # type: ignore[call-overload]
            logger.info("Resuming from %s.", newest)
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
        self.optimizer = make_optimizer()  # after FSDP has replaced the parameters
        if newest:
            checkpoint.restore_moments(newest, model, self.optimizer)
        self.stopwatch = Stopwatch((self.restored or {}).get("seconds", 0.0))
        self._collected: list[Step[U, P]] = []
        self._reported_seconds = 0.0

    # Defined by subclasses.

    @abstractmethod
    def backward(self, planned: U, count: Tensor) -> Tensor:
        """Compute the gradients of the update. Returns this process's part of the loss, 0-dim.

        `count` is `planned.count` summed over the processes: fp64, 0-dim, on the device.
        """

    @abstractmethod
    def learning_rate(self, planned: U, progress: P, peak: float) -> float:
        """The learning rate of an update for parameters with a peak rate; `progress` is that after the update."""

    @abstractmethod
    def after(self, planned: U) -> P:
        """The progress after the next update."""

    @abstractmethod
    def due(self, planned: U) -> Due:
        """What follows the last update."""

    @abstractmethod
    def dropout_seed(self, step: int) -> int:
        """The dropout seed of a step in this process. It depends on these alone, so that a run can resume."""

    @abstractmethod
    def report(self, interval: Interval[U, P]) -> Mapping[str, Any]:
        """Show a line about some steps; returns additional values for metrics.jsonl."""

    @abstractmethod
    def evaluate(self, planned: U) -> None:
        """Evaluate the current model. All processes call this."""

    def advance(self, planned: U) -> None:
        """Update the state of the run after an update, besides its progress."""

    def state(self) -> dict[str, Any]:
        """Additional state in a checkpoint, besides weights, moments and progress."""
        return {}

    def inspect(self, step: Step[U, P]) -> None:
        """Inspect the results of a step, in the first process."""

    def before_save(self) -> None:
        """Check the inputs of the run when a checkpoint is saved."""

    @property
    def done(self) -> bool:
        """Whether the run ends before the end of the plan."""
        return False

    # The loop.

    @property
    def asynchronous(self) -> bool:
        """Whether the device computes while the host continues."""
        return self.processes.device.type == _ASYNCHRONOUS_DEVICE

    def run_plan(self, plan: Iterable[U], stop: StopRequest) -> bool:
        """Run the steps of a plan. False if a stop was requested; everything is saved then."""
        with self.stopwatch.running():
            return self._run_plan(plan, stop)

    def _run_plan(self, plan: Iterable[U], stop: StopRequest) -> bool:
        delay = 1 if self.asynchronous else 0
        pending: deque[Launched[U, P]] = deque()
        self._collected, self._reported_seconds = [], self.stopwatch.seconds
        for planned in plan:
            launched = self._update(planned, stop)
            self.progress = launched.progress
            self.advance(planned)
            due = self.due(planned)
            pending.append(replace(launched, report=due.report))
            stopping = self.processes.size == 1 and stop.requested
            while len(pending) > (0 if due.evaluate or due.save or stopping else delay):
                stopping |= self._finish_step(
                    pending.popleft()
                )  # with several processes, all detect a stop request here
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
        while pending:
            self._finish_step(pending.popleft())
        return True

    def accumulate(
        self, parts: Sequence[MicroBatch], backward: Callable[[MicroBatch], Tensor], dtype: torch.dtype
    ) -> Tensor:
        """The sum of the losses of microbatches, in `dtype`. Processes exchange gradients in the last backward pass."""
        total = torch.zeros((), dtype=dtype, device=self.processes.device)
        *others, last = parts
        for part in others:
            with self.parallelism.local_gradients():
                total += backward(part)
        total += backward(last)
        return total

    def save(self) -> None:
        """Start saving a checkpoint, which is written in the background."""
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
        """The results of a step; waits until the device has computed them.

        Raises:
            DivergedError: the loss or the gradient norm is not finite. The optimizer has not changed the model then.
            DataError: no token was predicted.
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
        """Read the results of a step and report them when due. Returns whether a process has requested a stop."""
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
        """The checkpoint to resume from. The first process renames damaged ones before the others search."""
        newest = None
        for first in (True, False):
            if self.processes.first == first:
                newest = checkpoint.newest(self.checkpoints.directory)
            self.processes.wait()
        return newest
