"""Fine-tuning: a task, its seeds, and the output folder with the best model. Based on train/epochs.py."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.files import in_use
from modernbert.installation import install_command
from modernbert.model.heads import TaskModel
from modernbert.runtime import Precision, autocast
from modernbert.stream.batching import Batches, balanced_share, batches_of, batches_within, shuffled
from modernbert.tasks.metrics import selection_score
from modernbert.tasks.outputs import outputs
from modernbert.tasks.task import Encoded, Item, Task
from modernbert.train.distributed import Processes, processes
from modernbert.train.epochs import EpochLoop, ExampleUpdate, freeze
from modernbert.train.finetune_data import Prepared, Sets, prepare
from modernbert.train.finetune_folder import claim_folder, replaced_results, tracking_of
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.finetune_report import write_report
from modernbert.train.objectives import TaskObjective
from modernbert.train.results import SeedResult, SetResult, set_result
from modernbert.train.stopping import StopRequest
from modernbert.train.trackers import check_trackers, tracked_metrics

logger = logging.getLogger(__name__)

PACKAGES = ("scipy", "matplotlib")  # of the extra `finetune`


@dataclass(frozen=True)
class UpdateContext:
    """The context of an update, for a task that computes gradients itself."""

    processes: Processes
    precision: Precision
    microbatch_tokens: int  # maximum in one process
    total: float  # `Task.total` of all its items
    seed: int  # of the dropout in this process
    run_fraction: float  # finished fraction of the run, 0 to 1


@runtime_checkable
class ComputesGradients(Protocol):
    """A task that computes the gradients of an update itself, in several forward passes (GradCache)."""

    def compute_gradients(self, model: TaskModel, items: Sequence[Item], context: UpdateContext) -> Tensor:
        """Add this process's part to `.grad` of the parameters and return its part of the loss: 0-dim, detached.

        Every process gets all `items` of the update. Gradients and losses are summed over the processes afterwards: a
        process that has computed the whole loss returns it divided by their number.
        """


def finetune(recipe: FinetuneRecipe, overwrite: bool = False) -> Path | None:
    """Train, select the best model, evaluate it and write the output folder; resume a stopped run.

    Under torchrun, each process calls this. With `overwrite`, an existing run in the folder is removed first.
    Returns the folder, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the folder holds a run of another recipe, the recipe does not fit the model or the task, a tracker
            is missing, or the loss is no longer finite.
        DataError: a file or an example is invalid.
        CheckpointError: the model does not exist, or a checkpoint cannot be written.
        ProcessError: another process of the run has ended.
    """
    with StopRequest() as stop:
        return run(recipe, stop, overwrite=overwrite)


def run(
    recipe: FinetuneRecipe, stop: StopRequest, prepared: Prepared | None = None, overwrite: bool = False
) -> Path | None:
    """Like `finetune`, until `stop` is requested, and optionally with prepared data."""
    check_packages()
    check_trackers(recipe.machine.trackers, "machine.trackers")
    with processes(recipe.machine.device) as process_group:
        if process_group.first:
            claim_folder(recipe, overwrite=overwrite)
        process_group.wait()
        with in_use(recipe.output) if process_group.first else nullcontext():
            return _in_folder(recipe, process_group, stop, prepared)


def _in_folder(
    recipe: FinetuneRecipe, process_group: Processes, stop: StopRequest, prepared: Prepared | None
) -> Path | None:
    if (recipe.output / "report.json").exists():
        logger.info("The run in %s is complete; --overwrite starts it again.", recipe.output)
        return recipe.output
    task, sets = prepared or prepare(recipe)
    results: list[SeedResult] = []
    best_model: TaskModel | None = None
    for seed in recipe.seeds:
        finetuning = Finetuning(recipe, task, sets, seed, process_group)
        with tracked_metrics(finetuning.metrics, tracking_of(recipe, seed)) if process_group.first else nullcontext():
            if not finetuning.train(stop):
                return None
        model = finetuning.best_model()
        result = finetuning.result(model)
        if best_model is None or result.selection_score > max(other.selection_score for other in results):
            best_model = model
        results.append(result)
    assert best_model is not None
    if process_group.first:
        _write(recipe, task, sets, best_model, results)
        logger.info("The model and its report are in %s.", recipe.output)
    process_group.wait()
    return recipe.output


class Finetuning(EpochLoop):
    """The state of one run, with one seed: model, optimizer and progress."""

    model: TaskModel

    def __init__(
        self, recipe: FinetuneRecipe, task: Task[Any, Any], sets: Sets, seed: int, processes: Processes
    ) -> None:
        self.recipe, self.task, self.sets = recipe, task, sets
        torch.manual_seed(seed)
        model: TaskModel = task.head.from_pretrained(
            recipe.model, dtype=torch.float32, changes=task.config_updates() | _head_changes(recipe)
        )
        if recipe.random_weights:
            model = reinitialized(model)
        model = model.to(processes.device).train()
        freeze(model, recipe.training)
        self._gradient_task = task if isinstance(task, ComputesGradients) else None
        weights = task.weights(sets.train.examples)
        self._cpu_weights = weights
        self.weights = None if weights is None else weights.to(processes.device)
        self.metric = recipe.training.metric or task.metric_names[0]
        super().__init__(
            model,
            TaskObjective(model, task),
            processes,
            recipe=recipe,
            training=recipe.training,
            machine=recipe.machine,
            directory=recipe.output / "training" / f"seed-{seed}",
            seed=seed,
            num_examples=len(sets.train.items),
            parallel=None if self._gradient_task else "ddp",
        )

    def batches(self, epoch: int) -> Batches:
        training, items = self.recipe.training, self.sets.train.items
        order = shuffled(len(items), self.seed, epoch)
        if training.batch_tokens is None:
            return batches_of(order, training.batch_examples)
        return batches_within(order, [item.num_tokens for item in items], training.batch_tokens)

    def num_tokens(self, indices: Sequence[int]) -> int:
        return sum(self.sets.train.items[index].num_tokens for index in indices)

    def total(self, indices: Sequence[int]) -> float:
        return self.task.total([self.sets.train.items[index] for index in indices], self._cpu_weights)

    def backward(self, planned: ExampleUpdate, count: Tensor) -> Tensor:
        """The losses of the examples of all processes, divided by their total."""
        items = [self.sets.train.items[index] for index in planned.indices]
        size, at_once = self.processes.size, self.recipe.machine.microbatch_tokens
        if self._gradient_task is not None:
            loss = self._gradient_task.compute_gradients(self.model, items, self._context(planned))
            self.parallelism.sum_gradients()
            return loss
        lengths = [item.num_tokens for item in items]
        local = balanced_share(lengths, size, self.processes.rank)
        factor = float(size)  # DDP takes the mean over the processes
        microbatches = batches_within(local, lengths, at_once)
        if not local:  # fewer examples than processes: this one takes part in the exchange with a factor of 0
            microbatches, factor = [[0]], 0.0

        def microbatch(part: Sequence[int]) -> Tensor:
            with autocast(self.processes.device, self.precision):
                share: Tensor = self.parallelism.objective(
                    [items[index] for index in part], planned.total, self.weights
                )
            (share * factor).backward()
            return share.detach() if local else torch.zeros_like(share)

        return self.accumulate(microbatches, microbatch, count.dtype)

    def _context(self, planned: ExampleUpdate) -> UpdateContext:
        return UpdateContext(
            self.processes,
            self.precision,
            self.recipe.machine.microbatch_tokens,
            planned.total,
            self.dropout_seed(self.progress.step + 1),
            self.run_fraction(planned),
        )

    def scores(self) -> dict[str, float] | None:
        encoded = self.sets.validation
        if encoded is None:
            return None
        self.model.eval()
        predictions = self._predict(self.model, encoded, self.precision)
        self.model.train()
        return self.task.metrics(encoded.examples, predictions)

    def selection_score(self, scores: Mapping[str, float]) -> float:
        return selection_score(self.metric, scores[self.metric])

    def best_model(self) -> TaskModel:
        """The model of the best evaluation; without a validation set, the last one."""
        self.processes.wait()  # until the first process has written it
        if not self.best_folder.exists():
            return self.model.eval()
        model = self.task.head.from_pretrained(self.best_folder, device=self.processes.device)
        model.tokenizer_source = self.model.tokenizer_source
        return model

    def result(self, model: TaskModel) -> SeedResult:
        """The evaluation of the model on the validation and test sets."""
        sets = {"validation": self.sets.validation, "test": self.sets.test}
        progress = self.progress
        return SeedResult(
            seed=self.seed,
            selection_score=-math.inf if progress.best is None else progress.best,
            best_step=progress.best_step,
            steps=progress.step,
            tokens=progress.tokens,
            seconds=self.stopwatch.seconds,
            measured={name: self.measured(model, encoded) for name, encoded in sets.items() if encoded is not None},
            curve=self.metrics.read(),
        )

    def measured(self, model: TaskModel, encoded: Encoded[Any]) -> SetResult:
        """Predictions for a set, their metrics and their duration; in fp32, as predictors of the folder."""
        began = time.perf_counter()
        predictions = self._predict(model, encoded, "fp32")
        seconds = time.perf_counter() - began
        return set_result(self.task, encoded, predictions, seconds)

    def _predict(self, model: TaskModel, encoded: Encoded[Any], precision: Precision) -> list[Any]:
        """Predictions for all examples, in every process; each runs the model on a part of the sequences."""
        local = self.processes.share(encoded.sequences)
        local_outputs = outputs(model, local, self.recipe.machine.microbatch_tokens, precision, finite=False)
        return self.task.predictions(encoded, self.processes.gather([output.numpy() for output in local_outputs]))


def check_packages() -> None:
    """Check that the packages for metrics and report are installed, before hours of training.

    Raises:
        ConfigError: a package is missing.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(f"Fine-tuning needs {package}: {install_command('finetune')}.")


def reinitialized(model: TaskModel) -> TaskModel:
    """The same architecture and tokenizer with random weights."""
    fresh = type(model)(model.config)  # type: ignore[call-arg]  # every task's own class takes its configuration alone
    fresh.tokenizer_source = model.tokenizer_source
    return fresh


def _head_changes(recipe: FinetuneRecipe) -> dict[str, Any]:
    changes: dict[str, Any] = {"classifier_dropout": recipe.training.dropout}
    return changes if recipe.pooling is None else changes | {"classifier_pooling": recipe.pooling}


def _write(
    recipe: FinetuneRecipe, task: Task[Any, Any], sets: Sets, model: TaskModel, results: Sequence[SeedResult]
) -> None:
    """Write the complete output folder, which replaces the folder of the run."""
    task.finalize(model)
    with replaced_results(recipe) as partial:
        model.save_pretrained(partial)
        with (partial / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for result in results:
                for line in result.curve:
                    file.write(json.dumps({"seed": result.seed, **line}) + "\n")
        write_report(recipe, task, sets, results, partial)
