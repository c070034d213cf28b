"""GLUE (Wang et al. 2018, arXiv 1804.07461): nine tasks with the published settings, scored on their dev sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from modernbert.errors import ConfigError, DataError
from modernbert.evaluate.task_specs import Score, TaskSpec, missing_files, score_task
from modernbert.model.folder import find_folder, read_config
from modernbert.text.records import Source

Size = Literal["base", "large"]

HUB = "nyu-mll/glue"

# Averages of eight tasks without WNLI, arXiv 2412.13663, table 1.
PUBLISHED = {
    "BERT base": 84.7,
    "RoBERTa base": 86.4,
    "DeBERTaV3 base": 88.1,
    "ModernBERT base": 88.4,
    "BERT large": 85.2,
    "RoBERTa large": 88.9,
    "DeBERTaV3 large": 91.4,
    "ModernBERT large": 90.4,
}

# Scores on the dev sets, arXiv 2412.13663, table 5, which copies those of the other models from their papers. Their
# means equal the averages above to 0.1, except for DeBERTaV3 base: 88.1 in table 1, and a mean of 88.3 in table 5.
_TABLE = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE")
PUBLISHED_SCORES = {
    model: dict(zip(_TABLE, scores, strict=True))
    for model, scores in {
        "BERT base": (59.0, 93.1, 89.5, 89.4, 91.4, 85.4, 91.6, 78.2),
        "RoBERTa base": (63.6, 94.8, 90.2, 91.2, 91.9, 87.6, 92.8, 78.7),
        "DeBERTaV3 base": (69.2, 95.6, 89.5, 91.6, 92.4, 90.0, 94.0, 83.8),
        "ModernBERT base": (65.1, 96.0, 92.2, 91.8, 92.1, 89.1, 93.9, 87.4),
        "BERT large": (56.2, 93.3, 87.8, 90.6, 90.9, 86.3, 92.8, 83.8),
        "RoBERTa large": (68.0, 96.4, 90.9, 92.4, 92.2, 90.2, 94.7, 86.6),
        "DeBERTaV3 large": (75.3, 96.9, 92.2, 93.0, 93.3, 91.8, 96.0, 92.7),
        "ModernBERT large": (71.4, 97.1, 91.7, 92.8, 92.7, 90.8, 95.2, 92.1),
    }.items()
}


@dataclass(frozen=True)
class Published:
    """The best learning rate, weight decay and epochs of a task, as published."""

    learning_rate: float
    weight_decay: float
    epochs: int


@dataclass(frozen=True)
class GlueTask:
    """One task: its columns in the original TSV files and in the hub data set, its metrics and published settings."""

    name: str
    subset: str  # on the hub
    text: str
    base: Published
    large: Published
    metrics: tuple[str, ...] = ("accuracy",)
    pair: str | None = None
    label: str = "label"
    hub_text: str | None = None  # if the hub has another name for the column
    hub_pair: str | None = None
    positive: tuple[str, str] | None = None  # the class whose F1 is scored, as named in the files and on the hub
    header: tuple[str, ...] | None = None  # columns of files without a header
    dev: tuple[str, ...] = ("dev",)  # without .tsv
    hub_dev: tuple[str, ...] = ("validation",)
    from_mnli: bool = False  # start from a model that was fine-tuned on MNLI, if there is one
    number: bool = False
    skip_bad: bool = False
    counted: bool = True  # in the average

    def spec(self, size: Size, hub: bool) -> TaskSpec:
        """The specification of the task, for files in a folder or for the hub."""
        settings = self.large if size == "large" else self.base

        def source(split: str) -> Source:
            if hub:
                return Source(path=HUB, format="hub", subset=self.subset, split=split)
            return Source(path=f"{self.name}/{split}.tsv", literal_quotes=True, columns=self.header)

        dev = [source(split) for split in (self.hub_dev if hub else self.dev)]
        columns = {
            "text": (hub and self.hub_text) or self.text,
            "label": "label" if hub else self.label,
        }
        if self.pair is not None:
            columns["pair"] = (hub and self.hub_pair) or self.pair
        training: dict[str, Any] = {
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
            "epochs": settings.epochs,
            "batch_examples": 64,
            "warmup": 0.06,
        }
        if "matthews" in self.metrics:
            training["metric"] = "matthews"
        return TaskSpec(
            name=self.name,
            task="regress" if self.number else "classify",
            train=source("train"),
            validation=dev[0],
            test=dev[1] if len(dev) > 1 else None,
            metrics=self.metrics,
            columns=columns,
            training=training,
            recipe={"skip_bad": self.skip_bad},
            positive=None if self.positive is None else self.positive[hub],
        )


# Settings: arXiv 2412.13663, appendix on GLUE. There are none for WNLI, which uses those of RTE.
_RTE = Published(5e-5, 1e-5, 3), Published(5e-5, 8e-6, 3)
TASKS = (
    GlueTask(
        "MNLI", "mnli", "sentence1", Published(5e-5, 5e-6, 1), Published(3e-5, 1e-5, 1),
        ("validation/accuracy", "test/accuracy"),  # matched and mismatched
        pair="sentence2", label="gold_label", hub_text="premise", hub_pair="hypothesis",
        dev=("dev_matched", "dev_mismatched"), hub_dev=("validation_matched", "validation_mismatched"),
    ),
    GlueTask(
        "CoLA", "cola", "sentence", Published(8e-5, 1e-6, 5), Published(3e-5, 8e-6, 5), ("matthews",),
        header=("source", "label", "mark", "sentence"),
    ),
    GlueTask("SST-2", "sst2", "sentence", Published(8e-5, 1e-5, 2), Published(1e-5, 1e-6, 3)),
    GlueTask(
        "MRPC", "mrpc", "#1 String", Published(5e-5, 5e-6, 10), Published(8e-5, 5e-6, 2), ("accuracy", "positive_f1"),
        pair="#2 String", label="Quality", hub_text="sentence1", hub_pair="sentence2", positive=("1", "equivalent"),
        from_mnli=True,
    ),
    GlueTask(
        "STS-B", "stsb", "sentence1", Published(8e-5, 5e-6, 10), Published(8e-5, 1e-5, 10), ("pearson", "spearman"),
        pair="sentence2", label="score", number=True, from_mnli=True,
    ),
    GlueTask(
        "QQP", "qqp", "question1", Published(5e-5, 5e-6, 10), Published(5e-5, 8e-6, 2), ("accuracy", "positive_f1"),
        pair="question2", label="is_duplicate", positive=("1", "duplicate"),
        skip_bad=True,  # some lines of the original files are broken
    ),
    GlueTask("QNLI", "qnli", "question", Published(8e-5, 5e-6, 2), Published(3e-5, 5e-6, 2), pair="sentence"),
    GlueTask("RTE", "rte", "sentence1", *_RTE, pair="sentence2", from_mnli=True),
    GlueTask("WNLI", "wnli", "sentence1", *_RTE, pair="sentence2", counted=False),
)  # fmt: skip


@dataclass(frozen=True)
class GlueReport:
    """Scores in the order of TASKS, and the missing files of tasks that could not be run."""

    model: str
    size: Size
    scores: tuple[Score, ...]
    missing: dict[str, list[str]]

    @property
    def average(self) -> float | None:
        """The average over the eight tasks of the published average, in percent; None unless all were run."""
        wanted = {task.name for task in TASKS if task.counted}
        counted = [100 * score.value for score in self.scores if score.task in wanted]
        return fmean(counted) if len(counted) == len(wanted) else None

    @property
    def mean_of_measured(self) -> float:
        """The mean over counted tasks that were run, in percent. It is not comparable with the published average."""
        wanted = {task.name for task in TASKS if task.counted}
        counted = [100 * score.value for score in self.scores if score.task in wanted]
        return fmean(counted or [100 * score.value for score in self.scores])

    @property
    def published(self) -> dict[str, dict[str, float]]:
        """Published scores of the models of this size, in percent, by model and task."""
        return {model: scores for model, scores in PUBLISHED_SCORES.items() if model.endswith(self.size)}

    def as_record(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "model": self.model,
            "size": self.size,
            "average": self.average,
            "mean_of_measured": self.mean_of_measured,
            "published_averages": PUBLISHED,
            "published_scores": PUBLISHED_SCORES,
            "tasks": [score.as_record() for score in self.scores],
            "missing": self.missing,
        }


def evaluate_glue(
    model: str,
    data: str,
    output: Path,
    *,
    tasks: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    size: Size | None = None,
    mnli: str | None = None,
    overrides: Sequence[str] = (),
    beside_random: bool = False,
) -> GlueReport | None:
    """Fine-tune on every task whose data exists, and score. None if the user requested a stop; run again to resume.

    `data` is `hub`, or a folder with the original files in a subfolder for each task. RTE, MRPC and STS-B start from a
    model fine-tuned on MNLI: the folder `mnli`, or the one of this run if MNLI is among its tasks. `size` selects the
    published settings; the default is large for a hidden size of 1,024 or more. The score is the best evaluation on the
    dev set, as published. With `beside_random` every task is also run from random weights.

    Raises:
        ConfigError: there is no such task, or an override does not fit.
        DataError: no task has its data, or a file is wrong.
        CheckpointError: there is no such model.
    """
    by_name = {task.name.lower(): task for task in TASKS}
    for name in tasks:
        if name.lower() not in by_name:
            raise ConfigError(f"GLUE has no task {name!r}; it has {', '.join(task.name for task in TASKS)}.")
    chosen = [task for task in TASKS if not tasks or task.name.lower() in {name.lower() for name in tasks}]
    if size is None:
        size = "large" if read_config(find_folder(model)).hidden_size >= 1024 else "base"
    hub, folder = data == "hub", Path(data)
    specs = {task.name: task.spec(size, hub) for task in chosen}
    missing_by_task = {name: missing_files(one, folder) for name, one in specs.items()}
    missing = {name: files for name, files in missing_by_task.items() if files}
    if len(missing) == len(chosen):
        [first, *_] = next(iter(missing.values()))
        raise DataError(f"{data} holds none of these tasks: {first} and others are missing; give the GLUE folder.")
    starts = dict.fromkeys(seeds, model)
    mnli_models = dict.fromkeys(seeds, mnli) if mnli is not None else {}
    scores = []
    for task in chosen:
        if task.name in missing:
            continue
        start = {seed: str(mnli_models.get(seed, model)) for seed in seeds} if task.from_mnli else starts
        runs = output / task.name.lower()
        score = score_task(specs[task.name], start, folder, runs, overrides, beside_random=beside_random)
        if score is None:
            return None
        scores.append(score)
        if task.name == "MNLI" and mnli is None:
            mnli_models = {seed: str(runs / f"seed-{seed}") for seed in seeds}
    return GlueReport(model, size, tuple(scores), missing)
