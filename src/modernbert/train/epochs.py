"""Training over epochs of examples: order, evaluation, the best model, early stopping. Based on train/loop.py.

A subclass of `EpochLoop` defines the batches of an epoch, the computation of gradients, and the evaluation. Order,
schedule, resuming, reports and the best model are implemented here.
"""

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modernbert import config as toml
from modernbert.config import Config
from modernbert.errors import ConfigError
from modernbert.model.heads import TaskModel
from modernbert.progress import Progress as ProgressBar
from modernbert.run_metrics import Metrics
from modernbert.runtime import select_precision
from modernbert.stream.batching import Batches
from modernbert.train import checkpoint
from modernbert.train.distributed import Processes
from modernbert.train.finetune_recipe import Machine, Training
from modernbert.train.loop import Execution, TrainingLoop
from modernbert.train.optimizer import StableAdamW
from modernbert.train.steps import Due, Interval
from modernbert.train.stopping import StopRequest

logger = logging.getLogger(__name__)

_REPORTS_PER_EPOCH = 20


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    step: int = 0
    tokens: int = 0
    best: float | None = None  # selection score of the best evaluation
    best_step: int = 0
    since_best: int = 0  # evaluations
    done: bool = False


@dataclass(frozen=True, eq=False)
class ExampleUpdate:
    """The examples of one optimizer step, over all processes, and the progress after it."""

    indices: Sequence[int]
    tokens: int
    total: float  # what their losses are divided by
    count: float  # this process's part of it, for the reported mean
    before: int  # examples that the run has read before them, over all epochs
    epoch: int  # after it; the next one where it is the last update of an epoch
    batch: int
    report: bool
    evaluate: bool

    @property
    def after(self) -> int:
        """The number of examples read so far, including these."""
        return self.before + len(self.indices)


class EpochLoop(TrainingLoop[ExampleUpdate, Progress]):
    """One run, with one seed. Its files are in `directory`: checkpoints, metrics.jsonl, and the best model."""

    remedy = "lower training.learning_rate, or lengthen training.warmup"

    def __init__(
        self,
        model: TaskModel,
        objective: Any,
        processes: Processes,
        *,
        recipe: Config,
        training: Training,
        machine: Machine,
        directory: Path,
        seed: int,
        num_examples: int,
        parallel: Literal["ddp"] | None = "ddp",
    ) -> None:
        """`model` is on its device, in training mode, and parameters that are not trained are frozen.

        `parallel` is None if `backward` computes gradients without `objective` and sums them over the processes.

        Raises:
            CheckpointError: every checkpoint of the run is damaged.
        """
        self.settings, self.directory, self.seed = training, directory, seed
        self.num_examples = num_examples
        self.max_grad_norm = training.max_grad_norm or None
        self._checkpoint_every = machine.checkpoint_every_steps
        self._bar: Any = None
        assert model.tokenizer_source is not None
        if processes.first:
            directory.mkdir(parents=True, exist_ok=True)
        processes.wait()
        rate = training.learning_rate
        super().__init__(
            model,
            objective,
            processes,
            Execution(
                select_precision(processes.device, machine.precision),
                parallel,
                activation_checkpointing=machine.activation_checkpointing,
                compile=machine.compile,
            ),
            start=Progress(),
            checkpoints=checkpoint.Checkpoints(
                directory / "checkpoints", toml.dump(recipe), model.tokenizer_source, checkpoint.RetentionPolicy(1)
            ),
            metrics=Metrics(directory / "metrics.jsonl"),
            make_optimizer=lambda: StableAdamW(layer_groups(model, training), lr=rate, peak_lr=rate),
        )

    # Defined by subclasses.

    @abstractmethod
    def batches(self, epoch: int) -> Batches:
        """The batches of an epoch as indices of examples; they depend only on seed and epoch."""

    @abstractmethod
    def num_tokens(self, indices: Sequence[int]) -> int:
        """The tokens of some examples."""

    def total(self, indices: Sequence[int]) -> float:
        """The number by which the summed losses of some examples are divided."""
        return float(len(indices))

    @abstractmethod
    def scores(self) -> Mapping[str, float] | None:
        """The metrics of the current model on the validation set, equal in all processes; None without such a set."""

    @abstractmethod
    def selection_score(self, scores: Mapping[str, float]) -> float:
        """The score that selects the best evaluation; larger is better."""

    # The epochs.

    def train(self, stop: StopRequest) -> bool:
        """Run the remaining epochs. False if a stop was requested."""
        read = self.progress.epoch * self.num_examples + sum(
            map(len, self.batches(self.progress.epoch)[: self.progress.batch])
        )
        with ProgressBar(
            total=self.settings.epochs * self.num_examples,
            initial=read,
            unit="ex",
            desc=f"seed {self.seed}",
            leave=False,
            disable=not self.processes.first,
        ) as self._bar:
            if self.done or self.run_plan(self._plan(), stop):
                self.checkpoints.wait()
                return True
        return False

    def _plan(self) -> Iterator[ExampleUpdate]:
        """The remaining updates."""
        first = self.progress.batch
        for epoch in range(self.progress.epoch, self.settings.epochs):
            batches = self.batches(epoch)
            if first >= len(batches):
                raise ConfigError(f"{self.directory} holds a run with other data; choose another output.")
            ends = {
                math.ceil(number * len(batches) / self.settings.evaluations_per_epoch)
                for number in range(1, self.settings.evaluations_per_epoch + 1)
            }
            report_every = max(1, len(batches) // _REPORTS_PER_EPOCH)
            read = epoch * self.num_examples + sum(map(len, batches[:first]))
            for number, batch in enumerate(batches[first:], first + 1):
                total, ended = self.total(batch), number == len(batches)
                yield ExampleUpdate(
                    indices=batch,
                    tokens=self.num_tokens(batch),
                    total=total,
                    count=total / self.processes.size,
                    before=read,
                    epoch=epoch + 1 if ended else epoch,
                    batch=0 if ended else number,
                    report=number in ends or number % report_every == 0,
                    evaluate=number in ends,
                )
                read += len(batch)
            first = 0

    def learning_rate(self, planned: ExampleUpdate, progress: Progress, peak: float) -> float:
        return peak * schedule_factor(self.settings, self.run_fraction(planned))

    def run_fraction(self, planned: ExampleUpdate) -> float:
        """The finished fraction of the run in the middle of an update, 0 to 1."""
        return (planned.before + len(planned.indices) / 2) / (self.settings.epochs * self.num_examples)

    def dropout_seed(self, step: int) -> int:
        return dropout_seed(self.seed, step, self.processes.rank)

    def after(self, planned: ExampleUpdate) -> Progress:
        return replace(
            self.progress,
            epoch=planned.epoch,
            batch=planned.batch,
            step=self.progress.step + 1,
            tokens=self.progress.tokens + planned.tokens,
            done=planned.epoch == self.settings.epochs,
        )

    def advance(self, planned: ExampleUpdate) -> None:
        self._bar.update(planned.after - self._bar.n)

    def due(self, planned: ExampleUpdate) -> Due:
        regular = self._checkpoint_every is not None and self.progress.step % self._checkpoint_every == 0
        return Due(planned.report, planned.evaluate, planned.evaluate or regular)

    @property
    def done(self) -> bool:
        return self.progress.done

    def report(self, interval: Interval[ExampleUpdate, Progress]) -> dict[str, Any]:
        self._bar.set_postfix(loss=f"{interval.loss:.4f}", refresh=False)
        return {"epoch": interval.last.planned.after / self.num_examples}

    def evaluate(self, planned: ExampleUpdate) -> None:
        """Evaluate, keep the model if it is the best, and stop after too many evaluations without a better one."""
        scores = self.scores()
        if scores is None:
            return
        if self.processes.first:
            epoch = planned.after / self.num_examples
            self.metrics.write({"step": self.progress.step, "epoch": epoch, "validation": dict(scores)})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self._bar.write(f"seed {self.seed}, epoch {epoch:.2f}: {shown}", file=self._bar.fp)
        score, progress = self.selection_score(scores), self.progress
        if progress.best is None or score > progress.best:
            if self.processes.first:
                self.model.save_pretrained(self.best_folder)
            self.progress = replace(progress, best=score, best_step=progress.step, since_best=0)
            return
        since, patience = progress.since_best + 1, self.settings.patience
        enough = patience is not None and since >= patience
        self.progress = replace(progress, since_best=since, done=progress.done or enough)

    @property
    def best_folder(self) -> Path:
        """The folder of the best model; it does not exist without an evaluation."""
        return self.directory / "best"


def dropout_seed(seed: int, step: int, rank: int = 0) -> int:
    """A different 64-bit number for each seed, step and process."""
    high, low = divmod(seed, 2**32)
    return ((low << 32) + high * 0x9E3779B97F4A7C15 + step + rank * 0xD1B54A32D192ED03) % 2**64


def schedule_factor(training: Training, progress: float) -> float:
    """The learning rate as a fraction of its peak, when a fraction `progress` of the run is finished."""
    if progress < training.warmup:
        return progress / training.warmup
    left = (1 - progress) / (1 - training.warmup)
    if training.schedule == "constant":
        return 1.0
    return left if training.schedule == "linear" else 1 - math.sqrt(1 - left)


def freeze(model: TaskModel, training: Training) -> None:
    """Exclude the embeddings and the first layers from training, as the recipe says.

    Raises:
        ConfigError: the model has fewer layers.
    """
    layers = model.model.layers
    if training.freeze_layers > len(layers):
        raise ConfigError(
            f"training.freeze_layers is {training.freeze_layers}, but the model has {len(layers)} layers."
        )
    frozen = list(layers[: training.freeze_layers])
    if training.freeze_embeddings or frozen:
        frozen.append(model.model.embeddings)
    for module in frozen:
        module.requires_grad_(False)


_QUERY_TABLE_FACTOR = 50  # of the learning rate: 1e-3 instead of 2e-5 in sentence-transformers' example


def layer_groups(model: TaskModel, training: Training) -> list[dict[str, Any]]:
    """Parameter groups by depth, with learning rates that fall from the head down; norms and biases do not decay.

    A query table has its own rate, above that of the head.
    """
    num_layers = len(model.model.layers)
    groups: dict[tuple[int, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("model.embeddings."):
            below = num_layers + 1
        elif name.startswith("model.layers."):
            below = num_layers - int(name.split(".")[2])
        elif name == "query_table":
            below = -1
        else:
            below = 0
        if parameter.requires_grad:
            groups.setdefault((below, parameter.dim() >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": (
                peak := training.learning_rate * (training.layer_decay**below if below >= 0 else _QUERY_TABLE_FACTOR)
            ),
            "lr": peak,
            "weight_decay": training.weight_decay if decays else 0.0,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda one: one[0])
    ]
