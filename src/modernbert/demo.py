"""`modernbert demo`: from raw text to filled masks, on the source code of the Python installation."""

import ast
import json
import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from modernbert.corpus.build import CorpusRecipe, Source, build_corpus
from modernbert.errors import DataError
from modernbert.packed import IGNORED
from modernbert.plots.runs import plot_loss
from modernbert.run_metrics import Metrics
from modernbert.runtime import fast_bf16
from modernbert.stream.loader import validation_batches
from modernbert.stream.shards import Shards
from modernbert.tasks.fill_mask import FillMask
from modernbert.text.documents import find_files, read_texts
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.text.tokenizer_training import train_tokenizer
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import PretrainRecipe

logger = logging.getLogger(__name__)

_EXCLUDED_MODULES = {
    "test",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "pydoc_data",
    "this",
    "antigravity",
    "encodings",
}
_MARKER = ".modernbert-demo"  # marks a folder in which a demo may replace its files
_OUTPUT_NAMES = ("tokenizer", "shards", "run", "docstrings.jsonl", "corpus.jsonl", "loss.png")
_REQUIRED_RATIO = 3.0


def run(corpus: Sequence[str], output: Path) -> bool:
    """Train a tokenizer and a model in three phases, show the loss, fill masks. False if the model learned too little.

    Raises:
        DataError: `output` is not the folder of a demo, or the corpus has no text.
    """
    began = time.perf_counter()
    _prepare_output(output)
    logger.info("1. Text")
    sources = _user_texts(corpus, output) if corpus else _standard_library(output)
    logger.info("2. Tokenizer")
    vocab_size = 4096
    train_tokenizer(
        read_texts([path for source in sources for path in source.paths]), output / "tokenizer", vocab_size=vocab_size
    )
    logger.info("3. Token shards")
    manifests = build_corpus(
        CorpusRecipe(tokenizer=str(output / "tokenizer"), output=output / "shards", sources=tuple(sources))
    )
    logger.info("4. Three phases: short sequences, longer ones with another RoPE theta, decay")
    recipe = _recipe(output, {manifest.source: float(manifest.tokens) for manifest in manifests})
    final = pretrain(recipe)
    if final is None:
        return False
    metrics = Metrics(recipe.run.directory / "metrics.jsonl").read()
    plot_loss(metrics, output / "loss.png")
    typer.echo(_terminal_plot([line["loss"] for line in metrics if "loss" in line]))
    typer.echo(f"The loss curve is in {output / 'loss.png'}.\n")
    _fill_held_out_lines(final, recipe)
    learned = _compare_with_baseline(metrics, recipe)
    typer.echo(f"The demo took {time.perf_counter() - began:.0f} seconds. Try the model yourself:")
    typer.echo(f'  modernbert fill-mask --model {final} "import [MASK]"')
    return learned


def _prepare_output(output: Path) -> None:
    """Create the folder, or remove the files of an earlier demo from it; other files stay."""
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file; choose another --output.")
    if output.exists() and any(output.iterdir()) and not (output / _MARKER).is_file():
        raise DataError(f"{output} is not the folder of a demo; choose another --output.")
    output.mkdir(parents=True, exist_ok=True)
    (output / _MARKER).touch()
    for path in (output / name for name in _OUTPUT_NAMES):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _standard_library(output: Path) -> list[Source]:
    """Two sources: code and docstrings of the standard library."""
    paths = []
    for name in sorted(sys.stdlib_module_names - _EXCLUDED_MODULES):
        try:
            find_files([f"python:{name}"])
        except DataError:  # modules written in C have no source
            continue
        paths.append(f"python:{name}")
    with (output / "docstrings.jsonl").open("w", encoding="utf-8") as file:
        for text in read_texts(paths):
            if documentation := "\n\n".join(_docstrings(text)):
                file.write(json.dumps({"text": documentation}) + "\n")
    return [
        Source(name="sources", paths=tuple(paths)),
        Source(name="docstrings", paths=(str(output / "docstrings.jsonl"),)),
    ]


def _docstrings(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > 40:
                yield text


def _user_texts(corpus: Sequence[str], output: Path) -> list[Source]:
    """The user's texts, split at blank lines into documents of a few thousand characters, some to be held out."""
    with (output / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for text in read_texts(corpus):
            for document in _split(text):
                file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
    return [Source(name="corpus", paths=(str(output / "corpus.jsonl"),))]


def _split(text: str, characters: int = 4000) -> Iterator[str]:
    part = ""
    for paragraph in text.split("\n\n"):
        if part and len(part) + len(paragraph) > characters:
            yield part
            part = ""
        part += ("\n\n" if part else "") + paragraph
    yield part


def _recipe(output: Path, mixture: dict[str, float]) -> PretrainRecipe:
    return PretrainRecipe.model_validate(
        {
            "tokenizer": str(output / "tokenizer"),
            "data": {name: output / "shards" / name for name in mixture},
            "run": {
                "directory": output / "run",
                "precision": "bf16" if fast_bf16() else "fp32",
                "microbatch_tokens": 4096,
                "log_every_steps": 20,
                "checkpoint_every_steps": 500,
            },
            "model": {
                "hidden_size": 192,
                "intermediate_size": 288,
                "num_hidden_layers": 5,
                "num_attention_heads": 3,
                "attention_output_dropout": 0.0,
            },
            "validation": {"fraction": 0.03, "every_steps": 250, "tokens": 32_768},
            "phases": {
                "pretrain": {
                    "tokens": 2_400_000,
                    "max_length": 128,
                    "mixture": mixture,
                    "schedule": {"kind": "constant", "peak_lr": 2e-3, "warmup_tokens": 100_000},
                    "batch_tokens": {"tokens": 4096, "start": 1024, "warmup_tokens": 800_000},
                },
                "context": {"tokens": 300_000, "max_length": 512, "global_rope_theta": 160_000.0},
                "decay": {"tokens": 500_000, "schedule": {"kind": "one_minus_sqrt"}},
            },
        }
    )


def _terminal_plot(losses: list[float], width: int = 64, height: int = 10) -> str:
    """The loss curve as text."""
    columns = [float(np.mean(part)) for part in np.array_split(losses, min(width, len(losses)))]
    low, high = min(columns), max(columns)
    levels = [round((height - 1) * (value - low) / max(high - low, 1e-9)) for value in columns]
    rows = []
    for level in range(height - 1, -1, -1):
        label = low + (high - low) * level / (height - 1)
        rows.append(f"{label:6.2f} │" + "".join("●" if found == level else " " for found in levels))
    return "\n".join([*rows, "  loss └" + "─" * len(columns) + " steps"])


def _fill_held_out_lines(final: Path, recipe: PretrainRecipe, count: int = 6) -> None:
    """Mask a word in lines of held-out documents, and show what the model predicts."""
    fill = FillMask.from_pretrained(final, device="cpu")
    chosen: list[tuple[str, str]] = []
    generator = np.random.default_rng(0)
    for data in recipe.data.values():
        held_out = Shards.open(data.path).split(recipe.validation.fraction).validation
        for index in generator.permutation(held_out.indices)[:12].tolist():
            text = fill.tokenizer.decode(held_out.shards.document(index).tolist(), skip_special_tokens=False)
            lines = [line for line in text.splitlines() if 30 <= len(line.strip()) <= 90 and len(line.split()) >= 5]
            if lines:
                words = lines[int(generator.integers(len(lines)))].split()
                place = int(generator.integers(1, len(words) - 1))
                chosen.append((" ".join([*words[:place], "[MASK]", *words[place + 1 :]]), words[place]))
    order = generator.permutation(len(chosen))[:count].tolist()
    for (text, expected), masks in zip([chosen[i] for i in order], fill([chosen[i][0] for i in order]), strict=True):
        predictions = "  ".join(f"{candidate.token.strip()} {candidate.probability:.0%}" for candidate in masks[0][:4])
        typer.echo(f"{text}\n    expected: {expected}    predicted: {predictions}")
    typer.echo("")


def _compare_with_baseline(metrics: list[dict[str, Any]], recipe: PretrainRecipe) -> bool:
    """Compare the held-out accuracy with that of always predicting the most frequent training token."""
    vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
    max_length = list(recipe.phases.values())[-1].max_length
    counts: Counter[int] = Counter()
    labels: list[int] = []
    for data in recipe.data.values():
        split = Shards.open(data.path).split(recipe.validation.fraction)
        for index in split.train.indices.tolist():
            counts.update(split.train.shards.document(index).tolist())
        batches = validation_batches(
            split.validation, vocabulary, max_length=max_length, tokens=recipe.validation.tokens, mask_ratio=0.15
        )
        labels += [label for batch in batches for label in batch.labels.tolist() if label != IGNORED]
    [(frequent, _)] = counts.most_common(1)
    baseline = labels.count(frequent) / len(labels)
    results = [line for line in metrics if "validation" in line][-1]["validation"].values()
    correct = sum(result["accuracy"] * result["predictions"] for result in results)
    accuracy = correct / sum(result["predictions"] for result in results)
    token = load_tokenizer(recipe.tokenizer).decode([frequent])
    typer.echo(
        f"Held-out accuracy at 15 % masked: {accuracy:.1%}. Baseline, always the most frequent token {token!r}: "
        f"{baseline:.1%}. The model reaches {accuracy / baseline:.1f} times the baseline."
    )
    if accuracy < _REQUIRED_RATIO * baseline:
        logger.error("The model learned too little: at least %.0f times the baseline was expected.", _REQUIRED_RATIO)
        return False
    return True
