"""Small labelled files with labels that follow from the texts, a recipe that learns them, and a way to stop a run."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modernbert.config import parse
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.stopping import StopRequest

WORDS = ["parser", "indent", "month", "action", "string", "number", "default", "group", "line", "values"]
COLOURS = {"red": ["fire", "blood"], "green": ["grass", "leaf"], "blue": ["sea", "sky"]}


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts in which one word determines the colour."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        label = draw.choice(list(COLOURS))
        words = [draw.choice(WORDS) for _ in range(draw.randint(0, 6))]
        words.insert(draw.randint(0, len(words)), draw.choice(COLOURS[label]))
        found.append((" ".join(words), label))
    return found


def write_csv(path: Path, rows: list[Any], columns: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def recipe(model: Path, output: Path, task: str = "classify", **changes: Any) -> FinetuneRecipe:
    """A recipe that a tiny model learns with in seconds."""
    training = {"epochs": 8, "batch_examples": 16, "learning_rate": 3e-3} | changes.pop("training", {})
    values = {
        "task": task,
        "model": str(model),
        "output": str(output),
        "training": training,
        "machine": {"device": "cpu"},
    }
    return parse(FinetuneRecipe, values | changes, "a test")


def report(folder: Path) -> dict[str, Any]:
    """The report.json of a run."""
    return json.loads((folder / "report.json").read_text())


def predicted(folder: Path) -> list[dict[str, Any]]:
    """The records of the predictions file of a run."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights to the bit."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(x, second[name]) for name, x in first.items())


class StopAfter(StopRequest):
    """Requests a stop after a number of checks."""

    def __init__(self, checks):
        self.left = checks
        self._previous = {}

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0
