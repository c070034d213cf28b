"""Masked-language-model pretraining: one loop over the phases of a recipe, resumed by running it again."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert import config as toml
from modernbert.errors import ConfigError, DataError
from modernbert.files import replaced_file
from modernbert.model.folder import write_folder
from modernbert.run_metrics import Metrics
from modernbert.runtime import Precision, autocast, select_precision
from modernbert.stream.loader import Batch, Loader, Row, validation_batches
from modernbert.stream.mixture import cap_repeats
from modernbert.stream.prefetch import Prefetch
from modernbert.stream.shards import Documents, Shards
from modernbert.stream.staging import Arriving, Inputs, Staging, send
from modernbert.text.tokenizer import Vocabulary, load_tokenizer, sha256, tokenizer_file
from modernbert.train import checkpoint
from modernbert.train.distributed import Parallelism, Processes, processes
from modernbert.train.graphs import CudaRecorder, Gradients, Graphs
from modernbert.train.optimizer import StableAdamW, parameter_groups
from modernbert.train.recipe import Phase, PretrainRecipe, Run
from modernbert.train.run_folder import LOCK, check_inputs, in_use
from modernbert.train.spikes import Spikes
from modernbert.train.start import first_model
from modernbert.train.stopping import StopRequest
from modernbert.train.trackers import check_trackers, followed
from modernbert.train.updates import PlannedUpdate, planned_updates
from modernbert.train.validation import evaluate

logger = logging.getLogger(__name__)

_UPDATES_AHEAD = 3  # made while the device works
# Works while the host goes on: microbatches come padded and in one copy, and results are read a step late. Tests set it
# to the CPU.
_ASYNCHRONOUS_DEVICE = "cuda"

# Adds a microbatch to the gradients and returns its part of the loss, given the tokens that this process predicts in
# the update and, on the device, those that all processes do.
Backward = Callable[[Batch, int, Tensor], Tensor]


@dataclass(frozen=True)
class Progress:
    """How far the run has come. Tokens count what the model has read, [CLS] and [SEP] included."""

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


@dataclass(frozen=True)
class Update:
    """What one optimizer step reports, over all processes."""

    progress: Progress  # after it
    loss: float
    tokens: int
    slots: int
    learning_rate: float
    grad_norm: float
    rows: Sequence[Row]
    stop: bool  # whether any process was asked to stop


@dataclass(frozen=True, eq=False)
class Launched:
    """A step that the device may still be at."""

    planned: PlannedUpdate
    progress: Progress  # after it
    learning_rate: float
    results: Arriving  # loss, gradient norm, predicted tokens, and how many processes were asked to stop


def pretrain(recipe: PretrainRecipe) -> Path | None:
    """Train through all phases, or go on where the run directory stopped. Under torchrun, one process of several.

    Returns the folder of the final model, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the directory holds a run of another recipe or of other data, another process works in it, a
            tracker is missing, or the loss is no longer finite.
        DataError: a shard folder is missing, empty, of another tokenizer, or vanished during the run.
        CheckpointError: a checkpoint cannot be written, or every one that is there is damaged.
        ProcessError: another process of the run has ended.
    """
    check_trackers(recipe.run.trackers)
    with StopRequest() as stop, processes(recipe.run.device) as these:
        return _pretrain(recipe, these, stop)


def _pretrain(recipe: PretrainRecipe, these: Processes, stop: StopRequest) -> Path | None:
    if these.first:
        _claim_directory(recipe)
    these.wait()
    with in_use(recipe.run.directory) if these.first else nullcontext():
        return _in_directory(recipe, these, stop)


def _in_directory(recipe: PretrainRecipe, these: Processes, stop: StopRequest) -> Path | None:
    final = recipe.run.directory / "final"
    if final.exists():
        logger.info("The run in %s is complete.", recipe.run.directory)
        return final
    if these.first:
        check_inputs(recipe)
    these.wait()
    pretraining = Pretraining(recipe, these)
    with followed(pretraining.metrics, recipe) if these.first else nullcontext():
        return pretraining.run(stop)


class Pretraining:
    """The state of a run in memory: model, optimizer, data and progress."""

    def __init__(self, recipe: PretrainRecipe, processes: Processes) -> None:
        self.recipe = recipe
        self.processes = processes
        self.vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
        self.training, self.held_out = self._open_data()
        run = recipe.run
        self.precision = choose_precision(run, processes.device)
        if run.precision == "auto" and processes.first:
            logger.info(
                "Matrix products are in %s; run.precision=%s keeps that elsewhere.", self.precision, self.precision
            )
        self.model = first_model(recipe, self.vocabulary).to(processes.device).train()
        self.model.model.embeddings.half_residual = run.half_residual
        self.checkpoints = checkpoint.Checkpoints(
            run.directory / "checkpoints",
            toml.dump(recipe),
            tokenizer_file(recipe.tokenizer).parent,
            checkpoint.Keep(run.keep_checkpoints, run.keep_best, run.keep_every_tokens),
        )
        self.progress = Progress()
        self.metrics = Metrics(run.directory / "metrics.jsonl")
        self._spikes = Spikes()
        self._loader_state: dict[str, Any] | None = None
        self._validation_loss: float | None = None
        self._start_thetas = self._thetas() if recipe.model.start else (10_000.0, 10_000.0)
        found = self._newest_checkpoint()
        if found:
            state = checkpoint.restore_weights(found, self.model)
            self._loader_state = state["loader"]
            self.progress = Progress(**{field.name: state[field.name] for field in fields(Progress)})
            logger.info("Going on from %s.", found)
        if processes.first:
            self.metrics.forget_after(self.progress.step)
        self.parallelism = Parallelism(
            self.model,
            processes,
            parallel=run.parallel,
            activation_checkpointing=run.activation_checkpointing,
            compile=run.compile,
            precision=self.precision,
        )
        peak = next(iter(recipe.phases.values())).schedule.peak_lr
        self.optimizer = StableAdamW(
            parameter_groups(self.model, recipe.optimizer.weight_decay),
            lr=peak,
            peak_lr=peak,
            betas=recipe.optimizer.betas,
            eps=recipe.optimizer.eps,
        )
        if found:
            checkpoint.restore_moments(found, self.model, self.optimizer)
        self._graphs: Graphs | None = None
        self._gradients: Gradients | None = None
        if self._takes_graphs():
            self._graphs = Graphs(self._backward, CudaRecorder, processes.device)
            self._gradients = Gradients(self.model.parameters())

    @property
    def total_tokens(self) -> int:
        return sum(phase.tokens for phase in self.recipe.phases.values())

    def run(self, stop: StopRequest) -> Path | None:
        """Go through the phases that are left. None if `stop` was raised on the way."""
        if self.processes.first:
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
            if not self._run_phase(name, phase, stop):
                return None
        return self._finish()

    def _run_phase(self, name: str, phase: Phase, stop: StopRequest) -> bool:
        """Go to the end of a phase. False if the user asked to stop on the way; everything is saved then."""
        self._enter(phase)
        with Prefetch(self._planned(name, phase), _UPDATES_AHEAD) as updates:
            return self._train(name, phase, updates, stop)

    def _train(self, name: str, phase: Phase, updates: Iterable[PlannedUpdate], stop: StopRequest) -> bool:
        """Take all steps of a phase. What a step has found on CUDA is read and reported after the next one has been
        started, so that the device always has work, or at once where something waits for it. Nothing is saved before.
        """
        run, validation = self.recipe.run, self.recipe.validation
        backward = self._passes(phase)
        late = 1 if self.processes.device.type == _ASYNCHRONOUS_DEVICE else 0
        unread: deque[Launched] = deque()
        since: list[Update] = []
        began = time.perf_counter()  # of the time that the next report is about
        for planned in updates:
            unread.append(self._update(planned, phase, backward, stop))
            self.progress, self._loader_state = unread[-1].progress, planned.loader_state
            self._validation_loss = None
            step, ended = self.progress.step, self.progress.phase_tokens >= phase.tokens
            validate = step % validation.every_steps == 0 or ended
            save = step % run.checkpoint_every_steps == 0 or ended
            stopping = self.processes.size == 1 and stop.requested
            while len(unread) > (0 if validate or save or stopping else late):
                update = self._read(unread.popleft())
                self._watch(name, update)
                since.append(update)
                stopping |= update.stop  # in several processes known from here alone, and then to all of them
                if update.progress.step % run.log_every_steps == 0 or update.progress.phase_tokens >= phase.tokens:
                    now = time.perf_counter()
                    self._report(name, since, now - began)
                    since, began = [], now
            paused = time.perf_counter()
            if validate:
                self._validate(name, phase)
            if save or stopping:
                self._save(phase_end=ended)
            if stopping:
                self.checkpoints.wait()
                logger.info("Stopped and saved at step %d; the same command goes on from there.", step)
                return False
            began += time.perf_counter() - paused
        return True

    def _planned(self, name: str, phase: Phase) -> Iterator[PlannedUpdate]:
        """The updates that are left of a phase. They know nothing of this object: a thread makes them."""
        return planned_updates(
            self._loader(name, phase),
            phase,
            self.processes,
            self.recipe.run.microbatch_tokens,
            tokens=self.progress.phase_tokens,
            updates=self.progress.phase_updates,
        )

    def _update(self, planned: PlannedUpdate, phase: Phase, backward: Backward, stop: StopRequest) -> Launched:
        """Start one optimizer step over the global batch: a sum over its masked tokens divided by their number.

        DDP and FSDP take the mean over the processes, so each one's share of the loss is multiplied by their number.
        """
        device = self.processes.device
        progress = self.progress.after(planned.tokens)
        counts = send([planned.predicted, stop.requested], device)
        self.processes.add_up(counts)
        # Dropout is a function of the step and the process alone.
        torch.manual_seed(self.recipe.seed + progress.step + (self.processes.rank << 32))
        total = torch.zeros((), device=device)
        *others, last = planned.batches
        for batch in others:
            with self.parallelism.gradients_stay():
                total += backward(batch, planned.predicted, counts[0])
        total += backward(last, planned.predicted, counts[0])
        learning_rate = phase.schedule.learning_rate(progress.phase_tokens, phase.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self.optimizer.step()
        self._clear_gradients()
        loss = total.to(counts.dtype)
        self.processes.add_up(loss)
        results = Arriving(torch.stack([loss, norm.to(counts.dtype), *counts.unbind()]))
        return Launched(planned, progress, learning_rate, results)

    def _read(self, launched: Launched) -> Update:
        """What a step has found, once the device is done with it.

        Raises:
            ConfigError: its loss or gradient norm is not finite. The optimizer has changed nothing then.
            DataError: nothing was masked.
        """
        planned, step = launched.planned, launched.progress.step
        loss, norm, predicted, stops = launched.results.read()
        if not predicted:
            raise DataError(f"No token of step {step} is masked; raise batch_tokens or mask_ratio.")
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise ConfigError(
                f"The loss is not finite at step {step}: lower schedule.peak_lr or lengthen its "
                f"warm-up; the last good checkpoint is in {self.checkpoints.directory}."
            )
        return Update(
            progress=launched.progress,
            loss=loss,
            tokens=planned.tokens,
            slots=planned.slots,
            learning_rate=launched.learning_rate,
            grad_norm=norm,
            rows=planned.rows,
            stop=bool(stops),
        )

    def _passes(self, phase: Phase) -> Backward:
        """How a microbatch of this phase comes to the device and adds to the gradients."""
        device = self.processes.device
        if device.type != _ASYNCHRONOUS_DEVICE:
            return lambda batch, own, predicted: self._backward(Inputs.of(batch, predicted, device))
        staging = Staging(
            max_length=phase.max_length,
            mask_ratio=phase.mask_ratio,
            filler_id=self.vocabulary.cls_id,
            pinned=device.type == "cuda",
        )
        if (graphs := self._graphs) is not None:  # one process, whose own count is that of all
            graphs.forget()
            return lambda batch, own, predicted: graphs(staging.stage(batch, own))

        def backward(batch: Batch, own: int, predicted: Tensor) -> Tensor:
            inputs = staging.stage(batch, own).on(device)
            return self._backward(replace(inputs, predicted=predicted.to(torch.float32)))

        return backward

    def _backward(self, inputs: Inputs) -> Tensor:
        """Add a microbatch's part to the gradients. Returns its part of the loss."""
        with autocast(self.processes.device, self.precision):
            nats = self.parallelism.objective(inputs.tokens, inputs.sequences, inputs.rows, inputs.targets)
        share: Tensor = nats / inputs.predicted
        (share * self.processes.size).backward()
        return share.detach()

    def _clear_gradients(self) -> None:
        if self._gradients is None:
            self.optimizer.zero_grad()
        else:
            self._gradients.clear()

    def _open_data(self) -> tuple[dict[str, Documents], dict[str, Documents]]:
        """What is trained on and what is held out, of every source."""
        tokenizer_hash = sha256(self.recipe.tokenizer)
        training, held_out = {}, {}
        for name, data in self.recipe.data.items():
            shards = Shards.open(data.path)
            shards.check_vocabulary(self.vocabulary, tokenizer_hash)
            split = shards.split(self.recipe.validation.fraction)
            training[name] = split.train.between(data.min_tokens, data.max_tokens)
            held_out[name] = split.validation.between(data.min_tokens, data.max_tokens)
            if not training[name].lengths.any():
                raise DataError(
                    f"{data.path} has no document of {data.min_tokens} to {data.max_tokens or 'any number of'} tokens; "
                    f"change data.{name}."
                )
        for name, phase in self.recipe.phases.items():
            if not any(held_out[source].lengths.any() for source in phase.mixture):
                raise DataError(
                    f"What is held out of the sources of phases.{name} has no token; raise validation.fraction, or "
                    "leave empty documents out of the shards."
                )
        return training, held_out

    def _loader(self, name: str, phase: Phase) -> Loader:
        weights: Mapping[str, float] = phase.mixture
        if phase.max_repeats is not None:
            tokens = {source: int(self.training[source].lengths.sum()) for source in weights}
            weights = cap_repeats(weights, tokens, phase.tokens, phase.max_repeats)
            given = {source: weight / sum(phase.mixture.values()) for source, weight in phase.mixture.items()}
            for source, weight in weights.items():
                if self.processes.first and weight < given[source] - 1e-9:
                    logger.info(
                        "%s: %s gives %.1f %% instead of %.1f %%, as max_repeats = %g says.",
                        name, source, 100 * weight, 100 * given[source], phase.max_repeats,
                    )  # fmt: skip
        loader = Loader(
            {source: self.training[source] for source in weights},
            weights,
            self.vocabulary,
            max_length=phase.max_length,
            mask_ratio=phase.mask_ratio,
            seed=self.recipe.seed,
        )
        if self._loader_state is not None:
            loader.restore(self._loader_state)
        return loader

    def _enter(self, phase: Phase) -> None:
        """Give model and optimizer what the phase says of them."""
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

    def _takes_graphs(self) -> bool:
        """Whether passes are CUDA graphs. Not in fp32, whose attention asks the device where sequences begin."""
        run, processes = self.recipe.run, self.processes
        plain = self.precision == "bf16" and not run.activation_checkpointing and not run.compile
        return run.cuda_graphs == "auto" and plain and processes.size == 1 and processes.device.type == "cuda"

    def _thetas(self) -> tuple[float, float]:
        return self.model.config.global_rope_theta, self.model.config.local_rope_theta

    def _newest_checkpoint(self) -> Path | None:
        """The checkpoint to go on from. The first process looks for damage; the others take what it leaves."""
        found = None
        for first in (True, False):
            if self.processes.first == first:
                found = checkpoint.newest(self.checkpoints.directory)
            self.processes.wait()
        return found

    def _watch(self, phase: str, update: Update) -> None:
        """Name the documents behind a loss that stands out."""
        usual = self._spikes.usual(update.loss)
        if usual is None or not self.processes.first:
            return
        documents: dict[str, list[int]] = {}
        for row in update.rows:
            documents.setdefault(row.source, []).extend(piece.document for piece in row.pieces)
        shown = "; ".join(
            f"{source} {', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''}"
            for source, ids in documents.items()
        )
        logger.warning(
            "step %6d  %s  the loss jumped to %.4f from about %.4f; the batch (all of it is in metrics.jsonl) held %s",
            update.progress.step, phase, update.loss, usual, shown,
        )  # fmt: skip
        spike = {"loss": update.loss, "usual": usual, "documents": documents}
        at = {"step": update.progress.step, "phase": phase, "tokens": update.progress.tokens}
        self.metrics.write(at | {"spike": spike})

    def _report(self, phase: str, updates: list[Update], seconds: float) -> None:
        if not self.processes.first:
            return
        last = updates[-1]
        tokens, slots = sum(u.tokens for u in updates), sum(u.slots for u in updates)
        speed = tokens / seconds
        loss = sum(u.loss for u in updates) / len(updates)
        left = (self.total_tokens - last.progress.tokens) / speed
        done = min(1.0, last.progress.tokens / self.total_tokens)
        logger.info(
            "step %6d  %s  loss %.4f  lr %.2e  %s tokens/s  %3.0f %%  %s left",
            last.progress.step, phase, loss, last.learning_rate, f"{speed:,.0f}", 100 * done, _clock(left),
        )  # fmt: skip
        self.metrics.write(
            {
                "step": last.progress.step,
                "phase": phase,
                "tokens": last.progress.tokens,
                "loss": loss,
                "learning_rate": last.learning_rate,
                "batch_tokens": last.slots,
                "grad_norm": last.grad_norm,
                "fill": tokens / slots,
                "tokens_per_second": speed,
            }
        )

    def _validate(self, name: str, phase: Phase) -> None:
        """Measure the held-out documents of the phase's sources, each process a part of them."""
        model, precision = self.parallelism.evaluated, self.precision
        results = {
            source: evaluate(model, batches, self.vocabulary, precision, self.processes)
            for source, batches in self._validation_batches(phase).items()
        }
        self.parallelism.reshard()
        predictions = sum(result["predictions"] for result in results.values())
        self._validation_loss = sum(r["loss"] * r["predictions"] for r in results.values()) / predictions
        if not self.processes.first:
            return
        for source, result in results.items():
            logger.info(
                "step %6d  %s  validation on %s: loss %.4f, accuracy %.1f %%, %.3f bits per byte",
                self.progress.step, name, source, result["loss"], 100 * result["accuracy"], result["bits_per_byte"],
            )  # fmt: skip
        self.metrics.write(
            {"step": self.progress.step, "phase": name, "tokens": self.progress.tokens, "validation": results}
        )

    def _validation_batches(self, phase: Phase) -> Mapping[str, list[Batch]]:
        validation = self.recipe.validation
        return {
            name: validation_batches(
                self.held_out[name],
                self.vocabulary,
                max_length=phase.max_length,
                tokens=validation.tokens,
                mask_ratio=validation.mask_ratio,
            )
            for name in phase.mixture
            if self.held_out[name].lengths.any()
        }

    def _save(self, phase_end: bool) -> None:
        """Begin to save, and see that the shards are still what they were."""
        if self.processes.first or self.recipe.run.parallel == "fsdp":
            state = asdict(self.progress) | {"loader": self._loader_state, "validation_loss": self._validation_loss}
            state |= {"phase_end": phase_end}
            snapshot = checkpoint.Snapshot.of(self.model, self.optimizer, state, copied=self.processes.first)
            if self.processes.first:
                self.checkpoints.save(snapshot)
        for documents in self.training.values():
            documents.shards.check_present()

    def _finish(self) -> Path:
        final = self.recipe.run.directory / "final"
        state = asdict(self.progress)
        self.checkpoints.wait()
        if self.processes.first or self.recipe.run.parallel == "fsdp":
            snapshot = checkpoint.Snapshot.of(self.model, self.optimizer, state, copied=self.processes.first)
            if self.processes.first:
                tokenizer = tokenizer_file(self.recipe.tokenizer).parent
                write_folder(final, snapshot.architecture, snapshot.config, snapshot.weights, tokenizer)
                logger.info("The model is in %s.", final)
        self.processes.wait()
        return final


def choose_precision(run: Run, device: torch.device) -> Precision:
    """What the recipe says, or what is fast on the device of this process."""
    return select_precision(device) if run.precision == "auto" else run.precision


def _claim_directory(recipe: PretrainRecipe) -> None:
    """Write the resolved recipe into a new run directory; refuse one that belongs to another recipe."""
    directory, path = recipe.run.directory, recipe.run.directory / "recipe.toml"
    if path.exists():
        old = toml.load(PretrainRecipe, path)
        for name in PretrainRecipe.model_fields:
            if name != "run" and getattr(old, name) != getattr(recipe, name):
                raise ConfigError(
                    f"{directory} holds a run whose [{name}] differs from this recipe; "
                    "choose another run.directory, or go on with the recipe.toml in it."
                )
    elif directory.exists() and any(path.name != LOCK for path in directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and holds no run; choose another run.directory.")
    with replaced_file(path) as partial:
        partial.write_text(toml.dump(recipe), encoding="utf-8")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
