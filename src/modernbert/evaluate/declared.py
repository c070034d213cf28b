"""Tasks as declarations, and the one function that fine-tunes a model on them and scores it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from modernbert.config import parse
from modernbert.errors import DataError
from modernbert.tasks.metrics import binary_f1
from modernbert.tasks.reading import composed, known_labels
from modernbert.text.records import Source
from modernbert.train.finetune import finetune
from modernbert.train.finetune_recipe import FinetuneRecipe


@dataclass(frozen=True)
class Declaration:
    """A task: where its files lie under the data folder, what their columns are called, how it is trained and scored.

    The score is the mean of `metrics`, which are those of the fine-tuning report on the test set, or the validation set
    where there is no other; `validation/accuracy` names the set. `positive_f1` is F1 of the class `positive`.
    """

    name: str
    task: str
    train: Source
    validation: Source | None
    test: Source | None
    metrics: tuple[str, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)  # and whatever else a recipe's section data holds
    training: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    positive: str | None = None
    note: str = ""  # what a reader of the table should know
    prepare: Callable[[Path, Path], Path] | None = None  # (data, work) -> folder of the files, where they must be made
    prepared_from: tuple[str, ...] = ()  # the files that it makes them of

    @property
    def files(self) -> tuple[str, ...]:
        """What must lie in the data folder. Of the hub nothing does."""
        sources = (source for source in (self.train, self.validation, self.test) if source is not None)
        return self.prepared_from or tuple(source.path for source in sources if source.format != "hub")


@dataclass(frozen=True)
class Score:
    """The score of a model on a task for each seed, the baseline's, and the same from random weights."""

    task: str
    set: str
    examples: int
    metrics: Mapping[str, tuple[float, ...]]
    baseline: float | None
    random: tuple[float, ...] | None  # the value for each seed
    start: str
    settings: Mapping[str, Any]
    note: str

    @property
    def values(self) -> tuple[float, ...]:
        """The mean of the metrics, for each seed."""
        return tuple(fmean(of_seed) for of_seed in zip(*self.metrics.values(), strict=True))

    @property
    def value(self) -> float:
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Of the seeds, where there are several."""
        return stdev(self.values) if len(self.values) > 1 else None

    def as_record(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "task": self.task,
            "set": self.set,
            "examples": self.examples,
            "score": self.value,
            "deviation": self.deviation,
            "baseline": self.baseline,
            "random": None if self.random is None else list(self.random),
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "start": self.start,
            "settings": dict(self.settings),
            "note": self.note,
        }


def missing_files(declaration: Declaration, data: Path) -> list[str]:
    """The files of a task that are not in the data folder."""
    return [path for path in declaration.files if not (data / path).exists()]


def recipe_for(
    declaration: Declaration, model: str, data: Path, output: Path, seed: int, overrides: Iterable[str] = ()
) -> FinetuneRecipe:
    """The fine-tuning run of one seed.

    Raises:
        ConfigError: an override does not fit.
    """
    sources = {"train": declaration.train, "validation": declaration.validation, "test": declaration.test}
    values = {
        "task": declaration.task,
        "model": model,
        "output": str(output),
        "seeds": [seed],
        "data": {name: _under(data, source) for name, source in sources.items() if source is not None}
        | dict(declaration.columns),
        "training": dict(declaration.training),
        **declaration.recipe,
    }
    return parse(FinetuneRecipe, values, declaration.name, overrides)


def score_task(
    declaration: Declaration,
    models: Mapping[int, str],
    data: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    beside_random: bool = False,
) -> Score | None:
    """Fine-tune on a task once for each seed of `models`, from the model that it names, and score.

    With `beside_random`, the same from random weights, too. Every run has a folder `seed-N` in `output` (in its folder
    `random`); one that is complete is not run again. None if the user asked to stop.

    Raises:
        DataError: files are wrong.
        ConfigError: an override does not fit.
        CheckpointError: there is no such model.
    """
    if declaration.prepare is not None:
        data = declaration.prepare(data, output / "data")

    def reports_of(output: Path, overrides: Sequence[str]) -> list[_Reported] | None:
        found = []
        for seed, model in models.items():
            recipe = recipe_for(declaration, model, data, output / f"seed-{seed}", seed, overrides)
            folder = finetune(recipe)
            if folder is None:
                return None
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            found.append(_Reported(declaration, recipe, folder, report))
        return found

    reports = reports_of(output, overrides)
    randoms = reports_of(output / "random", [*overrides, "random_weights=true"]) if beside_random else ()
    if reports is None or randoms is None:
        return None
    first = reports[0]
    baselines = [first.baseline(name) for name in declaration.metrics]
    known = [one for one in baselines if one is not None]
    return Score(
        declaration.name,
        first.last,
        first.report["sets"][first.last]["examples"],
        {name: tuple(report.value(name) for report in reports) for name in declaration.metrics},
        fmean(known) if len(known) == len(baselines) else None,
        tuple(fmean(report.value(name) for name in declaration.metrics) for report in randoms) or None,
        first.recipe.model,
        first.recipe.training.model_dump(include={"learning_rate", "weight_decay", "epochs", "batch_examples"}),
        declaration.note,
    )


@dataclass(frozen=True)
class _Reported:
    """A complete run of a task."""

    declaration: Declaration
    recipe: FinetuneRecipe
    folder: Path
    report: Mapping[str, Any]

    @property
    def last(self) -> str:
        """The set that counts."""
        return "test" if "test" in self.report["metrics"] else "validation"

    def value(self, name: str) -> float:
        """A metric of the declaration."""
        if name == "positive_f1":
            return self._positive_f1([record["predicted"] for record in self._predictions()])
        return self._metric(name)["value"]

    def baseline(self, name: str) -> float | None:
        """The same metric of predictions that are made without the texts, or None if that is unknown."""
        if name == "positive_f1":
            labels = self._labels()
            return self._positive_f1([max(labels, key=labels.__getitem__)] * len(self._predictions()))
        metric = self._metric(name)
        return metric["baseline"] if "baseline" in metric else metric["guess"]  # as older versions called it

    def _metric(self, name: str) -> Mapping[str, Any]:
        group, _, metric = name.rpartition("/")
        return self.report["metrics"][group or self.last][metric]

    def _positive_f1(self, predicted: Sequence[str]) -> float:
        labels = known_labels(self._labels())
        positive = labels.get(composed(self.declaration.positive or ""))
        if positive is None:
            raise DataError(
                f"{self.declaration.name} has no label {self.declaration.positive!r}; it has "
                f"{', '.join(labels.values())}."
            )
        return binary_f1(predicted, [record["expected"] for record in self._predictions()], positive=positive)

    def _labels(self) -> dict[str, int]:
        return self.report["sets"]["train"]["labels"]

    def _predictions(self) -> list[dict[str, Any]]:
        lines = (self.folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]


def _under(data: Path, source: Source) -> dict[str, Any]:
    values = source.model_dump(exclude_none=True)
    return values if source.format == "hub" else values | {"path": str(data / source.path)}
