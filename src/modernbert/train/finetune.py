"""Fine-tuning: one loop over packed batches of labelled examples, resumed by running it again."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modernbert import config as toml
from modernbert.errors import ConfigError, DataError
from modernbert.model.folder import find_folder, read_config
from modernbert.model.heads import TaskModel
from modernbert.run_metrics import Metrics
from modernbert.runtime import Precision, autocast, select_device, select_precision
from modernbert.stream.batching import Batches, batches_of, batches_within, shuffled
from modernbert.tasks.kinds import make_task
from modernbert.tasks.outputs import outputs
from modernbert.tasks.recipe import FinetuneRecipe, Training
from modernbert.tasks.task import Encoded, Item, Task
from modernbert.text.tokenizer import check_fits, load_tokenizer
from modernbert.train import checkpoint
from modernbert.train.finetune_folder import claim_folder, completed
from modernbert.train.finetune_report import write_report
from modernbert.train.optimizer import StableAdamW
from modernbert.train.results import Measured, SeedResult, measured
from modernbert.train.run_folder import in_use
from modernbert.train.stopping import StopRequest

logger = logging.getLogger(__name__)

PACKAGES = ("scipy", "matplotlib")  # of the extra `finetune`


@dataclass(frozen=True)
class Sets:
    """What is trained on, what chooses the best model, and what measures it in the end."""

    train: Encoded[Any]
    validation: Encoded[Any] | None
    test: Encoded[Any] | None
    skipped: Mapping[str, Mapping[str, int]]  # of each set, how many examples were left out for which reason


Prepared = tuple[Task[Any, Any], Sets]


class DivergedError(ConfigError):
    """The loss is not finite."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training, evaluations not included
    best: float | None = None
    best_step: int = 0
    since_best: int = 0  # evaluations
    done: bool = False


def finetune(recipe: FinetuneRecipe) -> Path | None:
    """Train, choose the best model, measure it and write the output folder; go on where it stopped.

    Returns the folder, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the folder holds a run of another recipe, or the recipe does not fit the model or the task.
        DataError: a file or an example is wrong.
        CheckpointError: there is no such model.
    """
    with StopRequest() as stop:
        return run(recipe, stop)


def run(recipe: FinetuneRecipe, stop: StopRequest, prepared: Prepared | None = None) -> Path | None:
    """`finetune`, unless and until `stop` is raised, on data that may be prepared already."""
    check_packages()
    claim_folder(recipe)
    with in_use(recipe.output):
        return _in_folder(recipe, stop, prepared)


def _in_folder(recipe: FinetuneRecipe, stop: StopRequest, prepared: Prepared | None) -> Path | None:
    if (recipe.output / "report.json").exists():
        logger.info("The run in %s is complete.", recipe.output)
        return recipe.output
    task, sets = prepared or prepare(recipe)
    results: list[SeedResult] = []
    best_model: TaskModel | None = None
    for seed in recipe.seeds:
        finetuning = Finetuning(recipe, task, sets, seed)
        if not finetuning.train(stop):
            return None
        model = finetuning.best_model()
        result = finetuning.result(model)
        if best_model is None or result.worth > max(other.worth for other in results):
            best_model = model
        results.append(result)
    assert best_model is not None
    _write(recipe, task, sets, best_model, results)
    logger.info("The model and its report are in %s.", recipe.output)
    return recipe.output


def prepare(recipe: FinetuneRecipe) -> Prepared:
    """Read and encode all data, before any training."""
    folder = find_folder(recipe.model)
    config = read_config(folder)
    reads = config.max_position_embeddings
    max_length = recipe.max_length or reads
    if max_length > reads:
        raise ConfigError(f"max_length is {max_length}, but {recipe.model} reads {reads} tokens; lower it.")
    tokenizer = load_tokenizer(folder)
    check_fits(tokenizer, config.vocab_size, recipe.model)
    task = make_task(recipe, tokenizer, max_length)
    if recipe.training.metric not in (None, *task.metric_names):
        raise ConfigError(
            f"training.metric {recipe.training.metric!r} is none of this task: take one of "
            f"{', '.join(task.metric_names)}."
        )
    skipped: dict[str, dict[str, int]] = {}
    train, validation = _read(task, "train", skipped), None
    task.check(train)
    if recipe.data.validation is None and recipe.data.held_out:
        train, validation = split(task, train, recipe.data.held_out)
    task.learn_labels(train)
    if recipe.data.validation is not None:
        validation = _read(task, "validation", skipped)
    test = None if recipe.data.test is None else _read(task, "test", skipped)
    sets = Sets(
        task.encode(train),
        None if validation is None else task.encode(validation),
        None if test is None else task.encode(test),
        skipped,
    )
    for name, encoded in (("training", sets.train), ("validation", sets.validation), ("test", sets.test)):
        if encoded is not None:
            notes = "".join(f", {count:,} {what}" for what, count in encoded.notes.items() if count)
            logger.info("%s set: %s examples%s", name, f"{len(encoded.examples):,}", notes)
            if encoded.lost:
                logger.warning(
                    "%s set: %s spans begin or end inside a token and cannot be predicted; the first is %s.",
                    name, f"{len(encoded.lost):,}", encoded.lost[0],
                )  # fmt: skip
    return task, sets


def check_packages() -> None:
    """See that what the metrics and the report need is there, before hours of training.

    Raises:
        ConfigError: a package is missing.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(f"Fine-tuning needs {package}: pip install 'modernbert[finetune]'.")


def _read(task: Task[Any, Any], name: str, skipped: dict[str, dict[str, int]]) -> list[Any]:
    examples = task.examples(getattr(task.recipe.data, name))
    found = list(examples)
    if examples.skipped:
        skipped[name] = dict(examples.skipped)
        reasons = ", ".join(f"{count:,} for {reason}" for reason, count in examples.skipped.items())
        logger.warning("%s: %s", getattr(task.recipe.data, name).path, f"left out {reasons}.")
    return found


def split(task: Task[Any, Any], examples: Sequence[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """Hold out a part of every class, the same one whatever the seed of the run. Equal texts stay together.

    A label of which everything would be held out keeps the first example that has it in the training set.

    Raises:
        DataError: there are too few examples.
    """
    strata: dict[str, dict[str, list[int]]] = {}
    home: dict[str, dict[str, list[int]]] = {}
    for index, example in enumerate(examples):
        group = task.group(example)
        groups = home.setdefault(group, strata.setdefault(task.stratum(example), {}))
        groups.setdefault(group, []).append(index)
    parted: list[list[int]] = []  # groups that are held out
    for groups in strata.values():
        members = list(groups.values())
        wanted, taken = fraction * sum(map(len, members)), 0
        for number in shuffled(len(members), 0, 0):
            if taken + len(members[number]) / 2 > wanted:
                break
            taken += len(members[number])
            parted.append(members[number])
    held = {index for part in parted for index in part}
    learned = {label for index, one in enumerate(examples) if index not in held for label in task.labels_of(one)}
    for part in sorted(parted):
        labels = {label for index in part for label in task.labels_of(examples[index])}
        if labels - learned:
            learned |= labels
            held.difference_update(part)
    if not held or len(held) == len(examples):
        texts = len({task.group(example) for example in examples})
        count = len({label for example in examples for label in task.labels_of(example)})
        raise DataError(
            f"{len(examples)} examples ({texts} different texts, {count} labels) are too few to hold some out and "
            "train on every label; name a validation set in data.validation, or set data.held_out = 0."
        )
    return (
        [example for index, example in enumerate(examples) if index not in held],
        [example for index, example in enumerate(examples) if index in held],
    )


class Finetuning:
    """The state of one run, with one seed: model, optimizer and progress."""

    def __init__(self, recipe: FinetuneRecipe, task: Task[Any, Any], sets: Sets, seed: int) -> None:
        self.recipe, self.task, self.sets, self.seed = recipe, task, sets, seed
        self.directory = recipe.output / "training" / f"seed-{seed}"
        self.device = select_device(recipe.machine.device)
        self.precision = choose_precision(recipe)
        training = recipe.training
        torch.manual_seed(seed)
        model: TaskModel = task.head.from_pretrained(
            recipe.model, dtype=torch.float32, changes=task.changes() | _head_changes(recipe)
        )
        if recipe.random_weights:
            model = redrawn(model)
        self.model = model.to(self.device).train()
        freeze(self.model, training)
        self.metrics = Metrics(self.directory / "metrics.jsonl")
        assert self.model.tokenizer_source is not None
        self.checkpoints = checkpoint.Checkpoints(
            self.directory / "checkpoints", toml.dump(recipe), self.model.tokenizer_source, checkpoint.Keep(1)
        )
        self.progress = Progress()
        self.directory.mkdir(parents=True, exist_ok=True)
        found = checkpoint.newest(self.checkpoints.directory)
        if found:
            state = checkpoint.restore_weights(found, self.model)
            self.progress = Progress(**{one.name: state[one.name] for one in fields(Progress)})
            logger.info("Going on from step %d of seed %d.", self.progress.step, seed)
        self.metrics.forget_after(self.progress.step)
        self.optimizer = StableAdamW(
            layer_groups(self.model, training), lr=training.learning_rate, peak_lr=training.learning_rate
        )
        if found:
            checkpoint.restore_moments(found, self.model, self.optimizer)
        weights = task.weights(sets.train.examples)
        self.weights = None if weights is None else weights.to(self.device)
        self.metric = training.metric or task.metric_names[0]

    def train(self, stop: StopRequest) -> bool:
        """All epochs that are left. False if `stop` was raised on the way."""
        from tqdm import tqdm

        training, items = self.recipe.training, self.sets.train.items
        bar = tqdm(total=training.epochs * len(items), unit="ex", desc=f"seed {self.seed}", leave=False)
        since: list[float] = []
        while not self.progress.done:
            batches = self._batches(self.progress.epoch)
            ends = {
                math.ceil(number * len(batches) / training.evaluations_per_epoch)
                for number in range(1, training.evaluations_per_epoch + 1)
            }
            if self.progress.batch >= len(batches):
                raise ConfigError(f"{self.recipe.output} holds a run on other data; choose another output.")
            every = max(1, len(batches) // 20)
            seen = self.progress.epoch * len(items) + sum(map(len, batches[: self.progress.batch]))
            for batch in batches[self.progress.batch :]:
                bar.update(seen - bar.n)
                since.append(self._update([items[index] for index in batch], seen))
                seen += len(batch)
                evaluated = self.progress.batch in ends
                if evaluated or self.progress.batch % every == 0:
                    self._report(since, seen / len(items))
                    since = []
                if evaluated:
                    self._evaluate(seen / len(items), bar)
                if self.progress.batch == len(batches):
                    over = self.progress.epoch + 1 == training.epochs
                    self.progress = replace(
                        self.progress, epoch=self.progress.epoch + 1, batch=0, done=over or self.progress.done
                    )
                if evaluated or stop.requested:
                    self._save()
                if stop.requested and not self.progress.done:
                    self.checkpoints.wait()
                    bar.close()
                    logger.info(
                        "Stopped and saved at step %d; the same command goes on from there.", self.progress.step
                    )
                    return False
                if self.progress.done:
                    break
        self.checkpoints.wait()
        bar.close()
        return True

    def best_model(self) -> TaskModel:
        """The model of the best evaluation; the last one where there is no validation set."""
        folder = self.directory / "best"
        if not folder.exists():
            return self.model.eval()
        model = self.task.head.from_pretrained(folder, device=self.device)
        model.tokenizer_source = self.model.tokenizer_source
        return model

    def result(self, model: TaskModel) -> SeedResult:
        """How good the model is on what it was not trained on."""
        sets = {"validation": self.sets.validation, "test": self.sets.test}
        measured = {name: self.measured(model, encoded) for name, encoded in sets.items() if encoded is not None}
        return SeedResult(
            seed=self.seed,
            worth=-math.inf if self.progress.best is None else self.progress.best,
            best_step=self.progress.best_step,
            steps=self.progress.step,
            tokens=self.progress.tokens,
            seconds=self.progress.seconds,
            measured=measured,
            curve=self.metrics.read(),
        )

    def scores(self) -> dict[str, float]:
        """The metrics of the model as it is, on the validation set, which there must be."""
        encoded = self.sets.validation
        assert encoded is not None
        self.model.eval()
        predictions = self._predict(self.model, encoded, self.precision)
        self.model.train()
        return self.task.metrics(encoded.examples, predictions)

    def worth(self, scores: Mapping[str, float]) -> float:
        """What makes one evaluation better than another: more of it."""
        return -scores[self.metric] if self.metric == "error" else scores[self.metric]

    def measured(self, model: TaskModel, encoded: Encoded[Any]) -> Measured:
        """Predictions for a set, their metrics, and how long they took: in fp32, as the folder predicts."""
        began = time.perf_counter()
        predictions = self._predict(model, encoded, "fp32")
        seconds = time.perf_counter() - began
        return measured(self.task, encoded, predictions, seconds)

    def _predict(self, model: TaskModel, encoded: Encoded[Any], precision: Precision) -> list[Any]:
        found = outputs(model, encoded.sequences, self.recipe.machine.microbatch_tokens, precision, finite=False)
        return self.task.predictions(encoded, [said.numpy() for said in found])

    def _batches(self, epoch: int) -> Batches:
        training, items = self.recipe.training, self.sets.train.items
        order = shuffled(len(items), self.seed, epoch)
        if training.batch_tokens is None:
            return batches_of(order, training.batch_examples)
        return batches_within(order, [item.num_tokens for item in items], training.batch_tokens)

    def _update(self, items: list[Item], seen: int) -> float:
        """One optimizer step. `seen` examples were read before it."""
        began = time.perf_counter()
        training = self.recipe.training
        torch.manual_seed(_dropout_seed(self.seed, self.progress.step + 1))  # a function of the step alone
        weights = self.weights
        total = self.task.total(items, None if weights is None else weights.cpu())
        loss = 0.0
        lengths = [item.num_tokens for item in items]
        for part in batches_within(range(len(items)), lengths, self.recipe.machine.microbatch_tokens):
            with autocast(self.device, self.precision):
                share = self.task.loss(self.model, [items[index] for index in part], total, weights)
            share.backward()
            loss += float(share.detach())
        if not math.isfinite(loss):
            self.checkpoints.wait()
            raise DivergedError(
                f"The loss is not finite at step {self.progress.step + 1}: lower training.learning_rate, "
                "or lengthen training.warmup."
            )
        end = training.epochs * len(self.sets.train.items)
        factor = schedule_factor(training, (seen + len(items) / 2) / end)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.step(training.max_grad_norm or None)
        self.optimizer.zero_grad()
        self.progress = replace(
            self.progress,
            batch=self.progress.batch + 1,
            step=self.progress.step + 1,
            tokens=self.progress.tokens + sum(lengths),
            seconds=self.progress.seconds + time.perf_counter() - began,
        )
        return loss

    def _report(self, losses: list[float], epoch: float) -> None:
        self.metrics.write(
            {
                "step": self.progress.step,
                "epoch": epoch,
                "loss": sum(losses) / len(losses),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "tokens_per_second": self.progress.tokens / self.progress.seconds,
            }
        )

    def _evaluate(self, epoch: float, bar: Any) -> None:
        """Measure the validation set, keep the model if it is the best, and end if it was not for too long."""
        if self.sets.validation is None:
            return
        found = self.scores()
        self.metrics.write({"step": self.progress.step, "epoch": epoch, "validation": found})
        score = self.worth(found)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        bar.write(f"seed {self.seed}, epoch {epoch:.2f}: {shown}", file=bar.fp)
        best = self.progress.best
        if best is None or score > best:
            self.model.save_pretrained(self.directory / "best")
            self.progress = replace(self.progress, best=score, best_step=self.progress.step, since_best=0)
            return
        since, patience = self.progress.since_best + 1, self.recipe.training.patience
        self.progress = replace(self.progress, since_best=since, done=patience is not None and since >= patience)

    def _save(self) -> None:
        """Begin to save all that a resumed run needs."""
        state = asdict(self.progress) | {"phase": 0, "phase_end": False, "validation_loss": None}
        self.checkpoints.save(checkpoint.Snapshot.of(self.model, self.optimizer, state, copied=True))


def _dropout_seed(seed: int, step: int) -> int:
    """Another number of 64 bits for each seed and step. Seeds below 2^32 lie 2^32 steps apart."""
    high, low = divmod(seed, 2**32)
    return ((low << 32) + high * 0x9E3779B97F4A7C15 + step) % 2**64


def choose_precision(recipe: FinetuneRecipe) -> Precision:
    """What the recipe says, or what is fast on its device."""
    chosen = recipe.machine.precision
    return select_precision(select_device(recipe.machine.device)) if chosen == "auto" else chosen


def schedule_factor(training: Training, progress: float) -> float:
    """The learning rate at a part of the run (0 to 1), as a part of its peak."""
    if progress < training.warmup:
        return progress / training.warmup
    left = (1 - progress) / (1 - training.warmup)
    if training.schedule == "constant":
        return 1.0
    return left if training.schedule == "linear" else 1 - math.sqrt(1 - left)


def redrawn(model: TaskModel) -> TaskModel:
    """The same architecture and tokenizer with fresh weights."""
    fresh = type(model)(model.config)  # type: ignore[call-arg]  # every task's own class takes its configuration alone
    fresh.tokenizer_source = model.tokenizer_source
    return fresh


def freeze(model: TaskModel, training: Training) -> None:
    """Keep the embeddings and the first layers as they are.

    Raises:
        ConfigError: there are not so many layers.
    """
    layers = model.model.layers
    if training.freeze_layers > len(layers):
        raise ConfigError(
            f"training.freeze_layers is {training.freeze_layers}, but the model has {len(layers)} layers."
        )
    frozen: list[nn.Module] = list(layers[: training.freeze_layers])
    if training.freeze_embeddings or frozen:
        frozen.append(model.model.embeddings)
    for module in frozen:
        module.requires_grad_(False)


def layer_groups(model: TaskModel, training: Training) -> list[dict[str, Any]]:
    """Parameters by their depth, whose learning rate falls from the head down; norms and biases do not decay."""
    num_layers = len(model.model.layers)
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("model.embeddings."):
            below = num_layers + 1
        elif name.startswith("model.layers."):
            below = num_layers - int(name.split(".")[2])
        else:
            below = 0
        if parameter.requires_grad:
            groups.setdefault((below, parameter.dim() >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": (peak := training.learning_rate * training.layer_decay**below),
            "lr": peak,
            "weight_decay": training.weight_decay if decays else 0.0,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda one: one[0])
    ]


def _head_changes(recipe: FinetuneRecipe) -> dict[str, Any]:
    changes: dict[str, Any] = {"classifier_dropout": recipe.training.dropout}
    return changes if recipe.pooling is None else changes | {"classifier_pooling": recipe.pooling}


def _write(
    recipe: FinetuneRecipe, task: Task[Any, Any], sets: Sets, model: TaskModel, results: Sequence[SeedResult]
) -> None:
    """The whole output folder at once, in place of the one of the run."""
    task.finish(model)
    with completed(recipe) as partial:
        model.save_pretrained(partial)
        with (partial / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for result in results:
                for line in result.curve:
                    file.write(json.dumps({"seed": result.seed, **line}) + "\n")
        write_report(recipe, task, sets, results, partial)
