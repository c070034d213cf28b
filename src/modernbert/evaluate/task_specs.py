"""Specifications of evaluation tasks, and the function that fine-tunes a model on one and scores it."""

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
class TaskSpec:
    """A task: its files under the data folder, their columns, and the settings of training and scoring.

    The score is the mean of `metrics`. These are metrics of the fine-tuning report on the test set, or on the
    validation set if there is no test set; `validation/accuracy` names the set. `positive_f1` is F1 of the class
    `positive`.
    """

    name: str
    task: str
    train: Source
    validation: Source | None
    test: Source | None
    metrics: tuple[str, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)  # and other keys of the section `data` of a recipe
    training: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    positive: str | None = None
    note: str = ""  # what a reader of the table should know
    prepare: Callable[[Path, Path], Path] | None = None  # (data, work) -> folder of the files that it creates
    prepared_from: tuple[str, ...] = ()  # the input files of `prepare`

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the data folder must hold; none for data sets of the hub."""
        sources = (source for source in (self.train, self.validation, self.test) if source is not None)
        return self.prepared_from or tuple(source.path for source in sources if source.format != "hub")


@dataclass(frozen=True)
class Score:
    """The scores of a model on a task for each seed, of the baseline, and of random weights."""

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
        """The standard deviation over seeds, if there are several."""
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


def missing_files(spec: TaskSpec, data: Path) -> list[str]:
    """The files of a task that are not in the data folder."""
    return [path for path in spec.files if not (data / path).exists()]


def recipe_for(
    spec: TaskSpec, model: str, data: Path, output: Path, seed: int, overrides: Iterable[str] = ()
) -> FinetuneRecipe:
    """The fine-tuning run of one seed.

    Raises:
        ConfigError: an override does not fit.
    """
    sources = {"train": spec.train, "validation": spec.validation, "test": spec.test}
    values = {
        "task": spec.task,
        "model": model,
        "output": str(output),
        "seeds": [seed],
        "data": {name: _under(data, source) for name, source in sources.items() if source is not None}
        | dict(spec.columns),
        "training": dict(spec.training),
        **spec.recipe,
    }
    return parse(FinetuneRecipe, values, spec.name, overrides)


def score_task(
    spec: TaskSpec,
    models: Mapping[int, str],
    data: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    beside_random: bool = False,
) -> Score | None:
    """Fine-tune on a task once for each seed, from the model that `models` maps it to, and score.

    With `beside_random`, also fine-tune from random weights. Every run has a folder `seed-N` in `output` or in its
    subfolder `random`; complete runs are not repeated. None if the user requested a stop.

    Raises:
        DataError: files are wrong.
        ConfigError: an override does not fit.
        CheckpointError: there is no such model.
    """
    if spec.prepare is not None:
        data = spec.prepare(data, output / "data")

    def reports_of(output: Path, overrides: Sequence[str]) -> list[_CompletedRun] | None:
        found = []
        for seed, model in models.items():
            recipe = recipe_for(spec, model, data, output / f"seed-{seed}", seed, overrides)
            folder = finetune(recipe)
            if folder is None:
                return None
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            found.append(_CompletedRun(spec, recipe, folder, report))
        return found

    reports = reports_of(output, overrides)
    randoms = reports_of(output / "random", [*overrides, "random_weights=true"]) if beside_random else ()
    if reports is None or randoms is None:
        return None
    first = reports[0]
    baselines = [first.baseline(name) for name in spec.metrics]
    known = [one for one in baselines if one is not None]
    return Score(
        spec.name,
        first.last,
        first.report["sets"][first.last]["examples"],
        {name: tuple(report.value(name) for report in reports) for name in spec.metrics},
        fmean(known) if len(known) == len(baselines) else None,
        tuple(fmean(report.value(name) for name in spec.metrics) for report in randoms) or None,
        first.recipe.model,
        first.recipe.training.model_dump(include={"learning_rate", "weight_decay", "epochs", "batch_examples"}),
        spec.note,
    )


@dataclass(frozen=True)
class _CompletedRun:
    """A complete run of a task."""

    spec: TaskSpec
    recipe: FinetuneRecipe
    folder: Path
    report: Mapping[str, Any]

    @property
    def last(self) -> str:
        """The set that is scored."""
        return "test" if "test" in self.report["metrics"] else "validation"

    def value(self, name: str) -> float:
        """A metric of the task specification."""
        if name == "positive_f1":
            return self._positive_f1([record["predicted"] for record in self._predictions()])
        return self._metric(name)["value"]

    def baseline(self, name: str) -> float | None:
        """The same metric of predictions made without the texts, or None if it is unknown."""
        if name == "positive_f1":
            labels = self._labels()
            return self._positive_f1([max(labels, key=labels.__getitem__)] * len(self._predictions()))
        metric = self._metric(name)
        return metric["baseline"] if "baseline" in metric else metric["guess"]  # the name in older versions

    def _metric(self, name: str) -> Mapping[str, Any]:
        group, _, metric = name.rpartition("/")
        return self.report["metrics"][group or self.last][metric]

    def _positive_f1(self, predicted: Sequence[str]) -> float:
        assert self.spec.positive is not None
        labels = known_labels(self._labels())
        positive = labels.get(composed(self.spec.positive))
        if positive is None:
            raise DataError(
                f"{self.spec.name} has no label {self.spec.positive!r}; it has {', '.join(labels.values())}."
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
