"""Complete fine-tuning runs compared with the Trainer of transformers: quality over seeds, and the time of an epoch.

Both use the same encoded examples, the same initial weights (including random weights of the new head), schedule, batch
size and gradient clipping. The Trainer pads a batch to its longest sequence and uses torch's fused AdamW. The same code
measures both, and their best epochs are compared.
"""

import logging
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modernbert.bench.remaining import log_remaining
from modernbert.bench.report import parse_json, write_report
from modernbert.bench.timing import machine, use_threads
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.packed import IGNORED
from modernbert.progress import Progress
from modernbert.runtime import select_device, select_precision
from modernbert.tasks.task import Item, Task
from modernbert.train.distributed import Processes
from modernbert.train.finetune import Finetuning, check_packages
from modernbert.train.finetune_data import Sets, prepare
from modernbert.train.finetune_folder import claim_folder
from modernbert.train.finetune_recipe import FinetuneRecipe, Training
from modernbert.train.stopping import StopRequest

logger = logging.getLogger(__name__)

EngineName = Literal["modernbert", "Trainer"]
_CLASSES: Mapping[str, str] = {
    "classify": "AutoModelForSequenceClassification",
    "multi-label": "AutoModelForSequenceClassification",
    "regress": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
}
_RESULT = "result.json"
_OWN_SETTINGS = (
    "batch_tokens", "layer_decay", "freeze_embeddings", "freeze_layers", "class_weights", "patience",
    "evaluations_per_epoch",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One engine with one seed. The time of an epoch does not include evaluation."""

    engine: EngineName
    seed: int
    metrics: Mapping[str, float]  # of the best epoch, on the validation set
    seconds_per_epoch: float


@dataclass(frozen=True)
class Summary:
    """One engine over its seeds: mean and standard deviation of each metric, and the median time of an epoch."""

    engine: EngineName
    metrics: Mapping[str, tuple[float, float | None]]
    seconds_per_epoch: float
    speed: float  # as a multiple of the speed of the Trainer


@dataclass(frozen=True)
class FinetuningReport:
    """The results of both engines on one task."""

    task: str
    model: str
    examples: int
    tokens: int
    dtype: str
    threads: int
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]


def bench_finetuning(recipe: FinetuneRecipe, threads: int | None) -> FinetuningReport | None:
    """Fine-tune with every seed, with this package and the Trainer in turn. None if the user requested a stop.

    Every run writes its result into a folder beside the output; a second call does not repeat finished runs.

    Raises:
        ConfigError: transformers or accelerate is missing, the Trainer lacks a setting, or the folder has runs of
            another recipe or other data.
        DataError: a file or an example is wrong.
    """
    _check(recipe)
    threads = use_threads(threads)
    device = select_device(recipe.machine.device)
    task, sets = prepare(recipe)
    if sets.validation is None:
        raise ConfigError("The comparison needs a validation set: name one in data.validation, or set data.held_out.")
    runs = []
    logger.info("%d runs of %d epochs", 2 * len(recipe.seeds), recipe.training.epochs)
    with StopRequest() as stop:
        for number, seed in enumerate(recipe.seeds):
            turns: tuple[EngineName, ...] = ("modernbert", "Trainer")
            for engine in turns if number % 2 == 0 else turns[::-1]:
                run = _run_once(engine, recipe, task, sets, seed, stop)
                if run is None:
                    return None
                runs.append(run)
                if left := len(turns) * len(recipe.seeds) - len(runs):
                    epoch = statistics.fmean(run.seconds_per_epoch for run in runs)
                    log_remaining(left * recipe.training.epochs * epoch)
    report = FinetuningReport(
        task=recipe.task,
        model=recipe.model,
        examples=len(sets.train.examples),
        tokens=sum(item.num_tokens for item in sets.train.items),
        dtype=select_precision(device, recipe.machine.precision),
        threads=threads,
        machine=machine(("transformers", "accelerate")),
        settings=recipe.training.model_dump(),
        runs=tuple(runs),
        summaries=summarize(runs),
    )
    write_report(report, folder_of(recipe) / "report.json")
    return report


def summarize(runs: Sequence[Run]) -> tuple[Summary, ...]:
    """The results of each engine over its seeds."""
    of: dict[EngineName, list[Run]] = {}
    for run in runs:
        of.setdefault(run.engine, []).append(run)
    epochs = {name: statistics.median(run.seconds_per_epoch for run in found) for name, found in of.items()}
    return tuple(
        Summary(
            engine,
            {name: _mean_and_deviation([run.metrics[name] for run in found]) for name in found[0].metrics},
            epochs[engine],
            epochs["Trainer"] / epochs[engine],
        )
        for engine, found in of.items()
    )


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _check(recipe: FinetuneRecipe) -> None:
    for package in ("transformers", "accelerate"):
        if find_spec(package) is None:
            raise ConfigError(f"The Trainer needs {package}: {install_command('bench')}.")
    check_packages()
    if recipe.task not in _CLASSES:
        raise ConfigError(f"Only {', '.join(_CLASSES)} can be compared with the Trainer, not {recipe.task!r}.")
    plain = Training()
    for name in _OWN_SETTINGS:
        if getattr(recipe.training, name) != getattr(plain, name):
            raise ConfigError(f"The Trainer has no training.{name}; remove it to compare.")
    if recipe.training.schedule == "one_minus_sqrt":
        raise ConfigError("The Trainer has no schedule one_minus_sqrt; choose linear or constant to compare.")


def folder_of(recipe: FinetuneRecipe) -> Path:
    """The folder of the runs and the report, beside the output of `modernbert finetune`."""
    return recipe.output.with_name(f"{recipe.output.name}-beside-trainer")


def _run_once(
    engine: EngineName, recipe: FinetuneRecipe, task: Task[Any, Any], sets: Sets, seed: int, stop: StopRequest
) -> Run | None:
    """The result of a seed, from its folder or from a new run."""
    folder = folder_of(recipe) / engine.lower() / f"seed-{seed}"
    of_seed = recipe.model_copy(update={"seeds": (seed,), "output": folder})
    claim_folder(of_seed, _RESULT)
    path = folder / _RESULT
    if path.exists():
        return TypeAdapter(Run).validate_python(parse_json(path.read_bytes()))
    finetuning = Finetuning(of_seed, task, sets, seed, Processes(0, 1, select_device(recipe.machine.device)))
    run = _train_ours(finetuning, stop) if engine == "modernbert" else _train_with_trainer(finetuning, stop)
    if run is not None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
        logger.info("%s, seed %d: %s; %.1f s an epoch", engine, seed, shown, run.seconds_per_epoch)
        write_report(run, path)
    return run


def _train_ours(finetuning: Finetuning, stop: StopRequest) -> Run | None:
    if not finetuning.train(stop):
        return None
    progress = finetuning.progress
    [best] = [
        line["validation"]
        for line in finetuning.metrics.read()
        if line["step"] == progress.best_step and "validation" in line
    ]
    return Run("modernbert", finetuning.seed, best, finetuning.stopwatch.seconds / progress.epoch)


def _scores(finetuning: Finetuning) -> Mapping[str, float]:
    scores = finetuning.scores()
    assert scores is not None  # there is a validation set
    return scores


def _train_with_trainer(finetuning: Finetuning, stop: StopRequest) -> Run | None:
    """Train `finetuning` with the Trainer instead. An epoch lasts from its first batch to its last update."""
    import transformers

    training, recipe = finetuning.recipe.training, finetuning.recipe
    epochs: list[float] = []
    found: list[Mapping[str, float]] = []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # transformers has no types for mypy
        began = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= stop.requested
            bar.update()

        def on_epoch_end(self, *_: Any, model: Any, **__: Any) -> None:
            epochs.append(time.perf_counter() - self.began)
            if not stop.requested:
                finetuning.model.load_state_dict(model.state_dict())
                found.append(_scores(finetuning))

    with tempfile.TemporaryDirectory() as scratch:
        finetuning.model.save_pretrained(Path(scratch) / "start")
        model = getattr(transformers, _CLASSES[recipe.task]).from_pretrained(
            Path(scratch) / "start", attn_implementation="sdpa", dtype=torch.float32
        )
        settings = transformers.TrainingArguments(
            output_dir=str(Path(scratch) / "run"),
            seed=finetuning.seed,
            num_train_epochs=training.epochs,
            per_device_train_batch_size=training.batch_examples,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay / training.learning_rate,  # AdamW multiplies it by the learning rate
            max_grad_norm=training.max_grad_norm,
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            lr_scheduler_type="constant_with_warmup" if training.schedule == "constant" else "linear",
            warmup_steps=training.warmup,
            use_cpu=finetuning.processes.device.type == "cpu",
            bf16=finetuning.precision == "bf16",
            dataloader_pin_memory=finetuning.processes.device.type == "cuda",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model=model,
            args=settings,
            train_dataset=list(finetuning.sets.train.items),
            data_collator=partial(pad_items, per_token=finetuning.task.head.per_token),
            callbacks=[Watch()],
        )
        trainer.remove_callback(transformers.PrinterCallback)  # stdout is for the report
        updates = training.epochs * math.ceil(len(finetuning.sets.train.items) / training.batch_examples)
        with Progress(total=updates, unit="updates", desc=f"Trainer, seed {finetuning.seed}", leave=False) as bar:
            trainer.train()
    if stop.requested:
        return None
    best = max(found, key=finetuning.selection_score)
    return Run("Trainer", finetuning.seed, best, statistics.fmean(epochs))


def pad_items(items: Iterable[Item], *, per_token: bool) -> dict[str, Tensor]:
    """Single sequences as a padded batch, with the tensor names of transformers."""
    chosen = list(items)
    ids = [torch.from_numpy(item.sequences[0]).long() for item in chosen]
    labels = [torch.from_numpy(item.label) for item in chosen]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(of) for of in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED) if per_token else torch.stack(labels),
    }
