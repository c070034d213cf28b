"""The overhead of the pretraining loop: `pretrain` on synthetic shards compared with its training step alone."""

import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from modernbert import config as toml
from modernbert.bench.cuda import Target, cuda_machine, free_memory
from modernbert.bench.models import PRESETS, describe
from modernbert.bench.timing import Speed, machine
from modernbert.errors import ConfigError, DataError
from modernbert.model import MaskedLM
from modernbert.packed import IGNORED
from modernbert.run_metrics import Metrics
from modernbert.runtime import autocast, select_precision
from modernbert.stream.loader import Loader
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train.optimizer import StableAdamW, parameter_groups
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import PretrainRecipe
from modernbert.train.start import initial_model

logger = logging.getLogger(__name__)

_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_MEDIAN, _SIGMA, _LONGEST = 350, 1.1, 65_536  # tokens of a document, lognormal
_REPORTS = 12  # lines of metrics in a measured run
_GROUP_SECONDS = 0.4
_WARM_UP_REPORTS = 3  # first lines that are not counted


@dataclass(frozen=True)
class LoopShape:
    """What to train: a preset, the tokens of an update, and the length of a packed sequence."""

    model: str
    batch_tokens: int
    max_length: int


SHAPES = {
    "base": LoopShape("base", 98_304, 1024),
    "large": LoopShape("large", 57_344, 1024),
    "28m": LoopShape("28m", 32_768, 512),
    "mini": LoopShape("mini", 32_768, 512),
    "tiny": LoopShape("tiny", 512, 64),
}


@dataclass(frozen=True)
class LoopReport:
    """Tokens per second of a run (from its metrics), and of the training step alone on a batch of the same loader."""

    model: str
    dtype: str
    machine: dict[str, str]
    device: str
    batch_tokens: int
    max_length: int
    steps: int
    loop_tokens_per_second: Speed
    bare_tokens_per_second: Speed  # forward, backward, optimizer
    ratio: float  # of the medians, run over step
    run_seconds: float  # including the start and the saving of the model
    benchmark: str = "loop"


def bench_loop(model: str, device: str, target: Target | None, seconds: float, steps: int | None = None) -> LoopReport:
    """Time the training step of a preset, then a run of about `seconds` (or `steps`) with the same batches.

    Raises:
        ConfigError: the preset is unknown, or the time is too short.
    """
    if model not in SHAPES:
        raise ConfigError(f"There is no preset {model!r} to train; choose {', '.join(SHAPES)}.")
    if seconds <= 0 or (steps is not None and steps < _REPORTS):
        raise ConfigError(f"Give more than 0 seconds, and at least {_REPORTS} steps.")
    shape = SHAPES[model]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        recipe = toml.load(PretrainRecipe, write_run(folder, shape, steps=_REPORTS, device=device))
        wait = target.wait if target else lambda: None
        bare = _step_alone(recipe, torch.device("cpu") if target is None else target.device, wait)
        rate = statistics.median(bare)
        if steps is None:
            steps = max(2 * _REPORTS, int(seconds * rate / shape.batch_tokens))
        recipe = toml.load(PretrainRecipe, write_run(folder, shape, steps=steps, device=device))
        logger.info("step alone: %s tokens/s; now a run of %d steps", f"{rate:,.0f}", steps)
        began = time.perf_counter()
        pretrain(recipe)
        run_seconds = time.perf_counter() - began
        speeds = [line["tokens_per_second"] for line in _lines(folder / "run" / "metrics.jsonl")]
        if target is not None:
            free_memory(target)
    loop = speeds[min(_WARM_UP_REPORTS, len(speeds) - 1) :]
    return LoopReport(
        model=describe(model, PRESETS[model]),
        dtype=select_precision(torch.device("cpu") if target is None else target.device, recipe.run.precision),
        machine=cuda_machine(target) if target else machine(()),
        device=target.name if target else "CPU",
        batch_tokens=shape.batch_tokens,
        max_length=shape.max_length,
        steps=steps,
        loop_tokens_per_second=_speed(loop),
        bare_tokens_per_second=_speed(bare),
        ratio=statistics.median(loop) / rate,
        run_seconds=run_seconds,
    )


def _speed(rates: list[float]) -> Speed:
    return Speed(statistics.median(rates), min(rates), max(rates))


@dataclass(frozen=True)
class ResumeReport:
    """A run that was stopped by a signal and finished by the same command."""

    model: str
    stopped_at_step: int
    last_step: int
    last_loss: float
    tokens_per_second: float  # from the last line of its metrics
    seconds: float  # of both calls
    benchmark: str = "pretrain"


def run_with_resume(folder: Path, shape: LoopShape, *, steps: int, device: str) -> ResumeReport:
    """Run `modernbert pretrain` in a process, stop it with SIGTERM after two lines of metrics, and run it again.

    Raises:
        DataError: the run failed, did not stop, did not resume, or ended without a finite loss or a model.
    """
    recipe = write_run(folder, shape, steps=steps, device=device)
    metrics = folder / "run" / "metrics.jsonl"
    command = [sys.executable, "-m", "modernbert", "pretrain", str(recipe)]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    while process.poll() is None and len(_lines(metrics)) < 2:
        time.sleep(0.05)
    process.terminate()
    process.wait()
    before = _lines(metrics)
    saved = sorted((folder / "run" / "checkpoints").glob("*"))
    if (folder / "run" / "final").exists() or len(before) < 2 or not saved:
        raise DataError(f"The run ended with status {process.returncode} before it could be stopped and saved.")
    status = subprocess.run(command, check=False).returncode
    after = _lines(metrics)
    last = after[-1]
    if status or after[: len(before)] != before or last["step"] <= before[-1]["step"]:
        raise DataError(f"The run did not resume from step {before[-1]['step']}: status {status}.")
    if not math.isfinite(last["loss"]):
        raise DataError(f"The loss is {last['loss']} at step {last['step']}.")
    MaskedLM.from_pretrained(folder / "run" / "final")
    return ResumeReport(
        model=describe(shape.model, PRESETS[shape.model]),
        stopped_at_step=before[-1]["step"],
        last_step=last["step"],
        last_loss=last["loss"],
        tokens_per_second=last["tokens_per_second"],
        seconds=time.perf_counter() - began,
    )


def _lines(metrics: Path) -> list[dict[str, Any]]:
    return [line for line in Metrics(metrics).read() if "tokens_per_second" in line]


def write_run(
    folder: Path, shape: LoopShape, *, steps: int, device: str = "auto", checkpoints: int | None = None
) -> Path:
    """Write a tokenizer, shards of random ids and a recipe into a folder; returns the path of the recipe.

    An existing tokenizer and existing shards are kept. The run writes a checkpoint every `checkpoints` steps, if given.
    """
    preset = PRESETS[shape.model]
    tokenizer, shards = folder / "tokenizer", folder / "shards"
    if not tokenizer.exists():
        _write_tokenizer(tokenizer, preset.vocab_size)
        _write_shards(shards, preset.vocab_size, max(1_000_000, 40 * shape.batch_tokens))
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    values: dict[str, Any] = {
        "tokenizer": str(tokenizer),
        "data": {"random": str(shards)},
        "model": {name: getattr(preset, name) for name in sizes},
        "run": {
            "directory": str(folder / "run"),
            "device": device,
            "microbatch_tokens": shape.batch_tokens,
            "log_every_steps": max(1, steps // _REPORTS),
            "checkpoint_every_steps": checkpoints or 1_000_000,
        },
        "validation": {"fraction": 0.01, "every_steps": 1_000_000, "tokens": shape.max_length},
        "phases": {
            "pretrain": {
                # Packed sequences are not always full, so the run has a few more steps.
                "tokens": steps * shape.batch_tokens,
                "max_length": shape.max_length,
                "mixture": {"random": 1.0},
                "schedule": {"kind": "constant", "peak_lr": 1e-4, "warmup_tokens": 10 * shape.batch_tokens},
                "batch_tokens": shape.batch_tokens,
            }
        },
    }
    recipe = folder / "pretrain.toml"
    recipe.write_text(toml.dump(toml.parse(PretrainRecipe, values, "the benchmark")), encoding="utf-8")
    return recipe


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    words = {name: index for index, name in enumerate(_SPECIAL)}
    words |= {f"w{index}": index for index in range(len(_SPECIAL), vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(_SPECIAL))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_shards(folder: Path, vocab_size: int, tokens: int) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(np.log(_MEDIAN), _SIGMA, 1000 + tokens // 200).clip(8, _LONGEST).astype(np.int64)
    ends = lengths.cumsum()
    ends = ends[: max(200, int(np.searchsorted(ends, tokens)))]
    folder.mkdir(parents=True)
    ids = generator.integers(len(_SPECIAL), vocab_size, int(ends[-1]), dtype=np.uint16)
    ids.astype("<u2").tofile(folder / "00000.ds")
    ends.astype("<u8").tofile(folder / "00000.ds.index")


def _step_alone(recipe: PretrainRecipe, device: torch.device, wait: Callable[[], None]) -> list[float]:
    """Tokens per second of the training step on one batch that is already on the device, after warm-up steps."""
    vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
    [phase] = recipe.phases.values()
    [data] = recipe.data.values()
    split = Shards.open(data.path).split(recipe.validation.fraction)
    loader = Loader(
        {"random": split.train}, {"random": 1.0}, vocabulary,
        max_length=phase.max_length, mask_ratio=phase.mask_ratio, seed=recipe.seed,
    )  # fmt: skip
    batch = loader.next_batch(phase.batch_tokens.tokens // phase.max_length)
    model = initial_model(recipe, vocabulary).to(device).train()
    optimizer = StableAdamW(parameter_groups(model, recipe.optimizer.weight_decay), lr=1e-4, peak_lr=1e-4)
    rows = (batch.labels != IGNORED).nonzero().squeeze(1)
    targets = batch.labels[rows].to(device)
    on_device, tokens, sequences = rows.to(device), batch.input_ids.to(device), batch.sequences.to(device)

    def step() -> None:
        with autocast(device, select_precision(device, recipe.run.precision)):
            loss = model.loss_at(tokens, sequences, on_device, targets) / len(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    wait()
    began = time.perf_counter()
    step()
    wait()
    # Several steps are timed together, since waiting for the device is slower than one step of a small model.
    group = max(1, min(50, int(_GROUP_SECONDS / (time.perf_counter() - began))))
    rates = []
    for _ in range(5):
        wait()
        began = time.perf_counter()
        for _ in range(group):
            step()
        wait()
        rates.append(group * batch.input_ids.numel() / (time.perf_counter() - began))
    return rates
