"""Masked-language-model pretraining: the phases of a recipe, their data and schedules. Based on train/loop.py."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert import config as toml
from modernbert.errors import ConfigError
from modernbert.files import LOCK, atomic_write, in_use
from modernbert.model import MaskedLM
from modernbert.model.folder import write_folder
from modernbert.run_metrics import Metrics
from modernbert.runtime import autocast, select_precision
from modernbert.stream.loader import Batch
from modernbert.stream.prefetch import Prefetch
from modernbert.stream.staging import Inputs, Staging
from modernbert.text.tokenizer import Vocabulary, load_tokenizer, tokenizer_file
from modernbert.train import checkpoint
from modernbert.train.distributed import Processes, processes
from modernbert.train.graphs import CudaRecorder, Gradients, Graphs
from modernbert.train.loop import Execution, TrainingLoop
from modernbert.train.objectives import MaskedLMObjective
from modernbert.train.optimizer import StableAdamW, parameter_groups
from modernbert.train.pretrain_data import PretrainData
from modernbert.train.recipe import Phase, PretrainRecipe
from modernbert.train.run_folder import check_inputs, remove_run
from modernbert.train.spikes import Spikes
from modernbert.train.start import initial_model
from modernbert.train.steps import Due, Interval, Step
from modernbert.train.stopping import StopRequest
from modernbert.train.trackers import Tracking, check_trackers, tracked_metrics
from modernbert.train.updates import PlannedUpdate, planned_updates
from modernbert.train.validation import evaluate

logger = logging.getLogger(__name__)

_UPDATES_AHEAD = 3  # number of updates that are prepared in advance
_OWN = ("final", "checkpoints", "metrics.jsonl", "trackers.json", "tensorboard", "inputs.json")  # beside recipe.toml


@dataclass(frozen=True)
class Progress:
    """The progress of a run. Tokens are those that the model has read, with [CLS] and [SEP]."""

    phase: int = 0
    phase_tokens: int = 0
    phase_updates: int = 0
    step: int = 0
    tokens: int = 0

    def after(self, tokens: int) -> "Progress":
        return replace(
            self,
            phase_tokens=self.phase_tokens + tokens,
            phase_updates=self.phase_updates + 1,
            step=self.step + 1,
            tokens=self.tokens + tokens,
        )


def pretrain(recipe: PretrainRecipe, overwrite: bool = False) -> Path | None:
    """Train through all phases, or resume the run of the directory. Under torchrun, each process calls this.

    With `overwrite`, an existing run in the directory is removed first, complete or not.
    Returns the folder of the final model, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the directory holds a run of another recipe or of other data, another process works in it, a
            tracker is missing, or the loss is no longer finite.
        DataError: a shard folder is missing, empty, of another tokenizer, or vanished during the run.
        CheckpointError: a checkpoint cannot be written, or all existing ones are damaged.
        ProcessError: another process of the run has ended.
    """
    check_trackers(recipe.run.trackers, "run.trackers")
    with StopRequest() as stop, processes(recipe.run.device) as process_group:
        return _pretrain(recipe, process_group, stop, overwrite)


def _pretrain(recipe: PretrainRecipe, process_group: Processes, stop: StopRequest, overwrite: bool) -> Path | None:
    if process_group.first:
        _claim_directory(recipe, overwrite)
    process_group.wait()
    with in_use(recipe.run.directory) if process_group.first else nullcontext():
        return _in_directory(recipe, process_group, stop)


def _in_directory(recipe: PretrainRecipe, process_group: Processes, stop: StopRequest) -> Path | None:
    run = recipe.run
    final = run.directory / "final"
    if final.exists():
        logger.info("The run in %s is complete; --overwrite starts it again.", run.directory)
        return final
    if process_group.first:
        check_inputs(recipe)
    process_group.wait()
    pretraining = Pretraining(recipe, process_group)
    tracking = Tracking(run.trackers, run.project, run.directory.name, run.directory, recipe.model_dump(mode="json"))
    with tracked_metrics(pretraining.metrics, tracking) if process_group.first else nullcontext():
        return pretraining.run(stop)


class Pretraining(TrainingLoop[PlannedUpdate, Progress]):
    """The state of a run in memory: model, optimizer, data and progress."""

    model: MaskedLM

    def __init__(self, recipe: PretrainRecipe, processes: Processes) -> None:
        run = recipe.run
        self.recipe = recipe
        self.vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
        self.data = PretrainData.open(recipe, self.vocabulary)
        precision = select_precision(processes.device, run.precision)
        if run.precision == "auto":
            logger.info(
                "Matrix products are in %s; set run.precision=%s to keep it on other machines.", precision, precision
            )
        model = initial_model(recipe, self.vocabulary).to(processes.device).train()
        model.model.embeddings.half_residual = run.half_residual
        thetas = (model.config.global_rope_theta, model.config.local_rope_theta)
        self._start_thetas = thetas if recipe.model.start else (10_000.0, 10_000.0)
        self._name, self._phase = next(iter(recipe.phases.items()))
        self._spikes = Spikes()
        self._validation_loss: float | None = None
        peak = self._phase.schedule.peak_lr
        super().__init__(
            model,
            MaskedLMObjective(model),
            processes,
            Execution(precision, run.parallel, run.activation_checkpointing, run.compile),
            start=Progress(),
            checkpoints=checkpoint.Checkpoints(
                run.directory / "checkpoints",
                toml.dump(recipe),
                tokenizer_file(recipe.tokenizer).parent,
                checkpoint.RetentionPolicy(run.keep_checkpoints, run.keep_best, run.keep_every_tokens),
            ),
            metrics=Metrics(run.directory / "metrics.jsonl"),
            make_optimizer=lambda: StableAdamW(
                parameter_groups(model, recipe.optimizer.weight_decay),
                lr=peak,
                peak_lr=peak,
                betas=recipe.optimizer.betas,
                eps=recipe.optimizer.eps,
            ),
        )
        self.remedy = (
            "lower schedule.peak_lr or lengthen its warm-up; the last good checkpoint is in "
            f"{self.checkpoints.directory}"
        )
        self._loader_state: dict[str, Any] | None = self.restored["loader"] if self.restored else None
        self._graphs: Graphs | None = None
        self._gradients: Gradients | None = None
        if self._supports_graphs():
            self._graphs = Graphs(self._backward, CudaRecorder, processes.device)
            self._gradients = Gradients(model.parameters())

    @property
    def total_tokens(self) -> int:
        return sum(phase.tokens for phase in self.recipe.phases.values())

    def run(self, stop: StopRequest) -> Path | None:
        """Run the remaining phases. None if `stop` was set."""
        logger.info(
            "%s: %s parameters on %s, %s tokens in %d phases",
            self.recipe.run.directory,
            f"{sum(p.numel() for p in self.model.parameters()):,}",
            self.processes.device if self.processes.size == 1 else f"{self.processes.size} processes",
            f"{self.total_tokens:,}",
            len(self.recipe.phases),
        )
        for index, (name, phase) in enumerate(self.recipe.phases.items()):
            if index < self.progress.phase:
                continue
            if index > self.progress.phase:
                self.progress = replace(self.progress, phase=index, phase_tokens=0, phase_updates=0)
            self._enter(name, phase)
            with Prefetch(self._planned(), _UPDATES_AHEAD) as updates:
                if not self.run_plan(updates, stop):
                    return None
        return self._finish()

    def _enter(self, name: str, phase: Phase) -> None:
        """Apply the settings of a phase to model and optimizer."""
        self._name, self._phase = name, phase
        thetas = {
            "global_rope_theta": phase.global_rope_theta or self._start_thetas[0],
            "local_rope_theta": phase.local_rope_theta or self._start_thetas[1],
        }
        self.model.config = self.model.model.config = self.model.config.model_copy(update=thetas)
        decay = self.recipe.optimizer.weight_decay if phase.weight_decay is None else phase.weight_decay
        matrices, _ = self.optimizer.param_groups
        matrices["weight_decay"] = decay
        for group in self.optimizer.param_groups:
            group["peak_lr"] = phase.schedule.peak_lr
        self._staging = Staging(
            max_length=phase.max_length,
            mask_ratio=phase.mask_ratio,
            filler_id=self.vocabulary.cls_id,
            pinned=self.processes.device.type == "cuda",
        )
        if self._graphs is not None:
            self._graphs.forget()

    def _planned(self) -> Iterator[PlannedUpdate]:
        """The remaining updates of the phase. A thread computes them, so they do not use this object."""
        loader = self.data.loader(self._name)
        if self._loader_state is not None:
            loader.restore(self._loader_state)
        return planned_updates(
            loader,
            self._phase,
            self.processes,
            self.recipe.run.microbatch_tokens,
            tokens=self.progress.phase_tokens,
            updates=self.progress.phase_updates,
        )

    def backward(self, planned: PlannedUpdate, count: Tensor) -> Tensor:
        """Compute the gradients of the sum over the masked tokens of all processes, divided by their number."""

        def microbatch(batch: Batch) -> Tensor:
            if not self.asynchronous:
                return self._backward(Inputs.of(batch, count, self.processes.device))
            staged = self._staging.stage(batch, planned.predicted)
            if self._graphs is not None:  # a single process, so its count is the total
                return self._graphs(staged)
            inputs = staged.to(self.processes.device)
            return self._backward(replace(inputs, total_predicted=count.to(torch.float32)))

        return self.accumulate(planned.batches, microbatch, torch.float32)

    def _backward(self, inputs: Inputs) -> Tensor:
        """Add the gradients of a microbatch. Returns its part of the loss.

        DDP and FSDP take the mean over the processes, so that part is multiplied by their number.
        """
        with autocast(self.processes.device, self.precision):
            nats = self.parallelism.objective(
                inputs.tokens, inputs.sequences, inputs.predicted_positions, inputs.targets
            )
        share: Tensor = nats / inputs.total_predicted
        (share * self.processes.size).backward()
        return share.detach()

    def clear_gradients(self) -> None:
        if self._gradients is None:
            super().clear_gradients()
        else:
            self._gradients.clear()

    def learning_rate(self, planned: PlannedUpdate, progress: Progress, peak: float) -> float:
        return self._phase.schedule.learning_rate(progress.phase_tokens, self._phase.tokens)

    def dropout_seed(self, step: int) -> int:
        return self.recipe.seed + step + (self.processes.rank << 32)

    def after(self, planned: PlannedUpdate) -> Progress:
        return self.progress.after(planned.tokens)

    def advance(self, planned: PlannedUpdate) -> None:
        self._loader_state = planned.loader_state
        self._validation_loss = None

    @property
    def _phase_ended(self) -> bool:
        return self.progress.phase_tokens >= self._phase.tokens

    def due(self, planned: PlannedUpdate) -> Due:
        run, step, ended = self.recipe.run, self.progress.step, self._phase_ended
        return Due(
            report=step % run.log_every_steps == 0 or ended,
            evaluate=step % self.recipe.validation.every_steps == 0 or ended,
            save=step % run.checkpoint_every_steps == 0 or ended,
        )

    def state(self) -> dict[str, Any]:
        return {
            "loader": self._loader_state,
            "validation_loss": self._validation_loss,
            "phase_end": self._phase_ended,
        }

    def before_save(self) -> None:
        self.data.check_present()

    def inspect(self, step: Step[PlannedUpdate, Progress]) -> None:
        """Log the documents of a batch with a loss spike."""
        median = self._spikes.detect(step.loss)
        if median is None:
            return
        documents: dict[str, list[int]] = {}
        for packed in step.planned.packed_sequences:
            documents.setdefault(packed.source, []).extend(chunk.document for chunk in packed.chunks)
        shown = "; ".join(
            f"{source} {', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''}"
            for source, ids in documents.items()
        )
        logger.warning(
            "step %6d  %s  the loss rose to %.4f from about %.4f; documents in the batch (metrics.jsonl has all): %s",
            step.progress.step, self._name, step.loss, median, shown,
        )  # fmt: skip
        spike = {"loss": step.loss, "usual": median, "documents": documents}
        at = {"step": step.progress.step, "phase": self._name, "tokens": step.progress.tokens}
        self.metrics.write(at | {"spike": spike})

    def report(self, interval: Interval[PlannedUpdate, Progress]) -> dict[str, Any]:
        last = interval.last
        capacity = sum(step.planned.capacity for step in interval.steps)
        speed, done = interval.tokens_per_second, min(1.0, last.progress.tokens / self.total_tokens)
        logger.info(
            "step %6d  %s  loss %.4f  lr %.2e  %s tokens/s  %3.0f %%  %s left",
            last.progress.step, self._name, interval.loss, last.learning_rate, f"{speed:,.0f}", 100 * done,
            _clock((self.total_tokens - last.progress.tokens) / speed),
        )  # fmt: skip
        return {"phase": self._name, "batch_tokens": last.planned.capacity, "fill": interval.tokens / capacity}

    def evaluate(self, planned: PlannedUpdate) -> None:
        """Evaluate on the held-out documents of the phase's sources, each process on a part of them."""
        model, precision = self.parallelism.evaluated, self.precision
        assert isinstance(model, MaskedLMObjective)
        results = {
            source: evaluate(model, batches, self.vocabulary, precision, self.processes)
            for source, batches in self.data.validation(self._name).items()
        }
        self.parallelism.reshard()
        predictions = sum(result["predictions"] for result in results.values())
        self._validation_loss = sum(r["loss"] * r["predictions"] for r in results.values()) / predictions
        if not self.processes.first:
            return
        step, tokens = self.progress.step, self.progress.tokens
        for source, result in results.items():
            logger.info(
                "step %6d  %s  validation on %s: loss %.4f, accuracy %.1f %%, %.3f bits per byte",
                step, self._name, source, result["loss"], 100 * result["accuracy"], result["bits_per_byte"],
            )  # fmt: skip
        self.metrics.write({"step": step, "phase": self._name, "tokens": tokens, "validation": results})

    def _supports_graphs(self) -> bool:
        """Whether to use CUDA graphs. Not in fp32, whose attention reads the sequence boundaries from the device."""
        run, processes = self.recipe.run, self.processes
        plain = self.precision == "bf16" and not run.activation_checkpointing and not run.compile
        return run.cuda_graphs == "auto" and plain and processes.size == 1 and processes.device.type == "cuda"

    def _finish(self) -> Path:
        """Write the final model."""
        final = self.recipe.run.directory / "final"
        self.checkpoints.wait()
        writes = self.processes.first
        if writes or self.parallelism.sharded:
            snapshot = checkpoint.Snapshot.of(self.model, self.optimizer, {}, copied=writes)
            if writes:
                tokenizer = tokenizer_file(self.recipe.tokenizer).parent
                write_folder(final, snapshot.architecture, snapshot.config, snapshot.weights, tokenizer)
                logger.info("The model is in %s.", final)
        self.processes.wait()
        return final


def _claim_directory(recipe: PretrainRecipe, overwrite: bool) -> None:
    """Write the resolved recipe into a new run directory, or check that an existing one has the same recipe."""
    directory, path = recipe.run.directory, recipe.run.directory / "recipe.toml"
    removed = overwrite and remove_run(directory, PretrainRecipe, _OWN)
    if path.exists():
        old = toml.load(PretrainRecipe, path)
        for name in PretrainRecipe.model_fields:
            if name != "run" and getattr(old, name) != getattr(recipe, name):
                raise ConfigError(
                    f"{directory} holds a run whose [{name}] differs from this recipe; choose another run.directory, "
                    "resume it with the recipe.toml in it, or replace it with --overwrite."
                )
    elif not removed and directory.exists() and any(path.name != LOCK for path in directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and holds no run; choose another run.directory.")
    with atomic_write(path) as partial:
        partial.write_text(toml.dump(recipe), encoding="utf-8")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
