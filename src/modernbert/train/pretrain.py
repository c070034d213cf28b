"""Masked-language-model pretraining: one loop over the phases of a recipe, resumed by running it again."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from modernbert import config as toml
from modernbert.data import Batch, Loader, Shards, Vocabulary, load_tokenizer, validation_batches
from modernbert.data.tokenizer import sha256, tokenizer_file
from modernbert.errors import ConfigError, DataError
from modernbert.files import replaced_file
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.model.heads import IGNORED
from modernbert.runtime import Precision, autocast, select_device
from modernbert.train import checkpoint
from modernbert.train.optimizer import StableAdamW, parameter_groups
from modernbert.train.recipe import Phase, PretrainRecipe
from modernbert.train.stopping import StopRequest
from modernbert.train.tracking import Metrics

logger = logging.getLogger(__name__)


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
    """What one optimizer step reports."""

    loss: float
    tokens: int
    slots: int
    learning_rate: float
    grad_norm: float


def pretrain(recipe: PretrainRecipe) -> Path | None:
    """Train through all phases, or go on where the run directory stopped.

    Returns the folder of the final model, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the directory holds a run of another recipe, or the loss is no longer finite.
        DataError: a shard folder is missing, empty, or of another tokenizer.
        CheckpointError: a checkpoint cannot be written, or every one that is there is damaged.
    """
    final = recipe.run.directory / "final"
    _claim_directory(recipe)
    if final.exists():
        logger.info("The run in %s is complete.", recipe.run.directory)
        return final
    with StopRequest() as stop:
        return Pretraining(recipe).run(stop)


class Pretraining:
    """The state of a run in memory: model, optimizer, data and progress."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        self.recipe = recipe
        self.device = select_device(recipe.run.device)
        self.vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
        self.sources = {name: Shards.open(folder) for name, folder in recipe.data.items()}
        tokenizer_hash = sha256(recipe.tokenizer)
        for shards in self.sources.values():
            shards.check_vocabulary(self.vocabulary, tokenizer_hash)
        self.split = {name: shards.split(recipe.validation.fraction) for name, shards in self.sources.items()}
        torch.manual_seed(recipe.seed)
        self.model = MaskedLM(self._model_config()).to(self.device).train()
        phases = list(recipe.phases.values())
        self.optimizer = StableAdamW(
            parameter_groups(self.model, recipe.optimizer.weight_decay),
            lr=phases[0].schedule.peak_lr,
            peak_lr=phases[0].schedule.peak_lr,
            betas=recipe.optimizer.betas,
            eps=recipe.optimizer.eps,
        )
        self.progress = Progress()
        self.metrics = Metrics(recipe.run.directory / "metrics.jsonl")
        self._loader_state: dict[str, Any] | None = None
        self._validation_loss: float | None = None
        if found := checkpoint.newest(self.checkpoints):
            self._resume(found)

    @property
    def checkpoints(self) -> Path:
        return self.recipe.run.directory / "checkpoints"

    @property
    def total_tokens(self) -> int:
        return sum(phase.tokens for phase in self.recipe.phases.values())

    def run(self, stop: StopRequest) -> Path | None:
        """Go through the phases that are left. None if `stop` was raised on the way."""
        logger.info(
            "%s: %s parameters on %s, %s tokens in %d phases",
            self.recipe.run.directory,
            f"{sum(p.numel() for p in self.model.parameters()):,}",
            self.device,
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
        final = self.recipe.run.directory / "final"
        self.model.save_pretrained(final, tokenizer=tokenizer_file(self.recipe.tokenizer).parent)
        logger.info("The model is in %s.", final)
        return final

    def _run_phase(self, name: str, phase: Phase, stop: StopRequest) -> bool:
        run, validation = self.recipe.run, self.recipe.validation
        self._set_rope(phase)
        for group in self.optimizer.param_groups:
            group["peak_lr"] = phase.schedule.peak_lr
        loader = self._loader(phase)
        since, seconds = [], 0.0
        while self.progress.phase_tokens < phase.tokens:
            began = time.perf_counter()
            update = self._update(loader, phase)
            self.progress = self.progress.after(update.tokens)
            self._loader_state = loader.state()
            seconds += time.perf_counter() - began
            since.append(update)
            self._validation_loss = None
            step, ended = self.progress.step, self.progress.phase_tokens >= phase.tokens
            if step % run.log_every_steps == 0 or ended:
                self._report(name, since, seconds)
                since, seconds = [], 0.0
            if step % validation.every_steps == 0 or ended:
                self._validate(name, phase)
            if step % run.checkpoint_every_steps == 0 or ended or stop.requested:
                self._save()
            if stop.requested:
                logger.info("Stopped and saved at step %d; the same command goes on from there.", step)
                return False
        return True

    def _update(self, loader: Loader, phase: Phase) -> Update:
        """One optimizer step over the global batch: a sum over its masked tokens divided by their number."""
        tokens = phase.batch_tokens.at(self.progress.phase_updates)
        batches = self._microbatches(loader, rows=max(1, tokens // phase.max_length), max_length=phase.max_length)
        predicted = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
        if not predicted:
            raise DataError(f"No token of step {self.progress.step + 1} is masked; raise batch_tokens or mask_ratio.")
        torch.manual_seed(self.recipe.seed + self.progress.step + 1)  # dropout: a function of the step alone
        total = torch.zeros((), device=self.device)
        for batch in batches:
            labels = batch.labels.to(self.device)
            with autocast(self.device, self.recipe.run.precision):
                loss = self.model.loss(batch.input_ids.to(self.device), batch.sequences.to(self.device), labels)
            share = loss * ((labels != IGNORED).sum() / predicted)
            share.backward()
            total += share.detach()
        read = sum(batch.input_ids.numel() for batch in batches)
        learning_rate = phase.schedule.learning_rate(self.progress.phase_tokens + read, phase.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(float(total)) or not math.isfinite(norm):
            raise ConfigError(
                f"The loss is not finite at step {self.progress.step + 1}: lower schedule.peak_lr or lengthen its "
                f"warm-up; the last good checkpoint is in {self.checkpoints}."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        slots = sum(batch.num_rows for batch in batches) * phase.max_length
        return Update(float(total), read, slots, learning_rate, norm)

    def _microbatches(self, loader: Loader, rows: int, max_length: int) -> list[Batch]:
        at_once = self.recipe.run.microbatch_tokens // max_length
        return [loader.next_batch(min(at_once, rows - done)) for done in range(0, rows, at_once)]

    def _loader(self, phase: Phase) -> Loader:
        loader = Loader(
            {name: self.split[name].train for name in phase.mixture},
            phase.mixture,
            self.vocabulary,
            max_length=phase.max_length,
            mask_ratio=phase.mask_ratio,
            seed=self.recipe.seed,
        )
        if self._loader_state is not None:
            loader.restore(self._loader_state)
        return loader

    def _set_rope(self, phase: Phase) -> None:
        thetas = {"global_rope_theta": phase.global_rope_theta, "local_rope_theta": phase.local_rope_theta}
        self.model.config = self.model.model.config = self.model.config.model_copy(update=thetas)

    def _model_config(self) -> EncoderConfig:
        return self.recipe.model.config(
            vocab_size=self.vocabulary.size,
            pad_token_id=self.vocabulary.pad_id,
            cls_token_id=self.vocabulary.cls_id,
            sep_token_id=self.vocabulary.sep_id,
            mask_token_id=self.vocabulary.mask_id,
            max_position_embeddings=max(phase.max_length for phase in self.recipe.phases.values()),
        )

    def _report(self, phase: str, updates: list[Update], seconds: float) -> None:
        tokens, slots = sum(u.tokens for u in updates), sum(u.slots for u in updates)
        speed = tokens / seconds
        loss = sum(u.loss for u in updates) / len(updates)
        left = (self.total_tokens - self.progress.tokens) / speed
        done = min(1.0, self.progress.tokens / self.total_tokens)
        logger.info(
            "step %6d  %s  loss %.4f  lr %.2e  %s tokens/s  %3.0f %%  %s left",
            self.progress.step, phase, loss, updates[-1].learning_rate, f"{speed:,.0f}", 100 * done, _clock(left),
        )  # fmt: skip
        self.metrics.write(
            {
                "step": self.progress.step,
                "phase": phase,
                "tokens": self.progress.tokens,
                "loss": loss,
                "learning_rate": updates[-1].learning_rate,
                "batch_tokens": updates[-1].slots,
                "grad_norm": updates[-1].grad_norm,
                "fill": tokens / slots,
                "tokens_per_second": speed,
            }
        )

    def _validate(self, name: str, phase: Phase) -> None:
        results = {
            source: evaluate(self.model, batches, self.vocabulary, self.recipe.run.precision)
            for source, batches in self._validation_batches(phase).items()
        }
        for source, result in results.items():
            logger.info(
                "step %6d  %s  validation on %s: loss %.4f, accuracy %.1f %%, %.3f bits per byte",
                self.progress.step, name, source, result["loss"], 100 * result["accuracy"], result["bits_per_byte"],
            )  # fmt: skip
        predictions = sum(result["predictions"] for result in results.values())
        self._validation_loss = sum(r["loss"] * r["predictions"] for r in results.values()) / predictions
        self.metrics.write(
            {"step": self.progress.step, "phase": name, "tokens": self.progress.tokens, "validation": results}
        )

    def _validation_batches(self, phase: Phase) -> Mapping[str, list[Batch]]:
        validation = self.recipe.validation
        return {
            name: validation_batches(
                self.split[name].validation,
                self.vocabulary,
                max_length=phase.max_length,
                tokens=validation.tokens,
                mask_ratio=validation.mask_ratio,
            )
            for name in phase.mixture
        }

    def _save(self) -> None:
        run = self.recipe.run
        checkpoint.save(
            self.checkpoints,
            model=self.model,
            optimizer=self.optimizer,
            state=asdict(self.progress) | {"loader": self._loader_state, "validation_loss": self._validation_loss},
            recipe=toml.dump(self.recipe),
            tokenizer=tokenizer_file(self.recipe.tokenizer).parent,
            keep=checkpoint.Keep(run.keep_checkpoints, run.keep_best, run.keep_every_tokens),
        )

    def _resume(self, folder: Path) -> None:
        state = checkpoint.restore(folder, self.model, self.optimizer)
        self._loader_state = state["loader"]
        self.progress = Progress(**{field.name: state[field.name] for field in fields(Progress)})
        self.metrics.forget_after(self.progress.step)
        logger.info("Going on from %s.", folder)


@torch.no_grad()
def evaluate(model: MaskedLM, batches: list[Batch], vocabulary: Vocabulary, precision: Precision) -> dict[str, float]:
    """Loss (nats per masked token), accuracy, and bits per byte of the masked tokens. The model keeps its mode."""
    device = next(model.parameters()).device
    byte_lengths = torch.from_numpy(vocabulary.byte_lengths).to(device)
    training = model.training
    model.eval()
    nats = correct = count = num_bytes = 0.0
    for batch in batches:
        labels = batch.labels.to(device)
        masked = labels != IGNORED
        with autocast(device, precision):
            logits = model.logits_at(batch.input_ids.to(device), batch.sequences.to(device), masked).float()
        wanted = labels[masked]
        nats += float(F.cross_entropy(logits, wanted, reduction="sum"))
        correct += int((logits.argmax(-1) == wanted).sum())
        num_bytes += int(byte_lengths[wanted].sum())
        count += len(wanted)
    model.train(training)
    return {
        "loss": nats / count,
        "accuracy": correct / count,
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "predictions": count,
    }


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
    elif directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and holds no run; choose another run.directory.")
    with replaced_file(path) as partial:
        partial.write_text(toml.dump(recipe), encoding="utf-8")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
