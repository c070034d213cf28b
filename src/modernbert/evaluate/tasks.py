"""Specifications of entity, similarity, inference, choice and question tasks in English and Japanese."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError, DataError
from modernbert.evaluate.task_specs import Score, TaskSpec, missing_files, score_task
from modernbert.files import atomic_directory
from modernbert.text.records import Record, Source, read_records

_WIKIPEDIA = "ja_ner_wikipedia/ner.json"


def split_entities(data: Path, work: Path) -> Path:
    """Split the Japanese entities by article into three files: 80 % training, 10 % validation, 10 % test.

    A hash of the number of an article determines its set, so the split is the same everywhere.
    """
    if (work / "train.jsonl").is_file():
        return work
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for record in read_records(Source(path=str(data / _WIKIPEDIA))):
        if not isinstance(record, Record) or "curid" not in record.values:
            raise DataError(f"{record.origin} has no curid, the number of the article; use the original file.")
        digest = hashlib.sha256(str(record.values["curid"]).encode()).digest()
        part = {0: "test", 1: "validation"}.get(int.from_bytes(digest[:4], "big") % 10, "train")
        parts[part].append(json.dumps(dict(record.values), ensure_ascii=False))
    with atomic_directory(work) as partial:
        for name, lines in parts.items():
            (partial / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return work


def _conll(name: str) -> Source:
    return Source(path=f"conll2003/{name}.txt", format="conll")


def _jglue(task: str, split: str) -> Source:
    return Source(path=f"jglue/{task}-v1.3/{split}-v1.3.json", format="json")


def _sts(path: str, *columns: str) -> Source:
    return Source(
        path=f"glue/STS-B/{path}", literal_quotes=True, columns=columns or None, further_columns=bool(columns)
    )


_PAIRS = {"text": "sentence1", "pair": "sentence2"}
_ENTITIES = {"learning_rate": 8e-5, "epochs": 5, "batch_examples": 32}
_QUESTIONS = {"learning_rate": 8e-5, "epochs": 3, "batch_examples": 32}

# Published settings exist for GLUE only. These are within their grid; overrides change them.
TASKS = (
    TaskSpec(
        "CoNLL-2003", "tokens", _conll("train"), _conll("valid"), _conll("test"), ("f1",), training=_ENTITIES,
    ),
    TaskSpec(
        "Japanese NER", "tokens",
        Source(path="train.jsonl"), Source(path="validation.jsonl"), Source(path="test.jsonl"), ("f1",),
        training=_ENTITIES, note="split 8:1:1 by article", prepare=split_entities, prepared_from=(_WIKIPEDIA,),
    ),
    TaskSpec(
        "STS-B", "regress", _sts("train.tsv"), _sts("dev.tsv"),
        _sts("original/sts-test.tsv", "genre", "file", "year", "index", "score", "sentence1", "sentence2"),
        ("spearman",), columns={**_PAIRS, "label": "score"}, training={"learning_rate": 8e-5, "epochs": 10},
    ),
    TaskSpec(
        "JSTS", "regress", _jglue("jsts", "train"), _jglue("jsts", "valid"), _jglue("jsts", "test"), ("spearman",),
        columns=_PAIRS, training={"learning_rate": 8e-5, "epochs": 5},
    ),
    TaskSpec(
        "JNLI", "classify", _jglue("jnli", "train"), _jglue("jnli", "valid"), _jglue("jnli", "test"), ("accuracy",),
        columns=_PAIRS, training={"learning_rate": 5e-5, "epochs": 3},
    ),
    TaskSpec(
        "JCommonsenseQA", "choose", _jglue("jcommonsenseqa", "train"), _jglue("jcommonsenseqa", "valid"),
        _jglue("jcommonsenseqa", "test"), ("accuracy",),
        columns={"choices": [f"choice{number}" for number in range(5)]},
        training={"learning_rate": 5e-5, "epochs": 5, "batch_examples": 16},
    ),
    TaskSpec(
        "JSQuAD", "answer", Source(path="jaquad/train", format="squad"), _jglue("jsquad", "valid"),
        _jglue("jsquad", "test"), ("exact", "f1"), training=_QUESTIONS, note="trained on JaQuAD",
    ),
    TaskSpec(
        "JaQuAD", "answer",
        Source(path="jaquad/train", format="squad"), None, Source(path="jaquad/dev", format="squad"), ("exact", "f1"),
        columns={"held_out": 0.05}, training=_QUESTIONS,
        note="tested on dev, selected on 5 % of train",
    ),
)  # fmt: skip


def evaluate_tasks(
    model: str,
    data: Path,
    output: Path,
    *,
    tasks: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    overrides: Sequence[str] = (),
    beside_random: bool = False,
) -> tuple[tuple[Score, ...], dict[str, list[str]]] | None:
    """Fine-tune on every task whose files are in the folder `data`, and score on its test set.

    With `beside_random` every task is also run from random weights of the same architecture.
    Returns the scores, and the missing files of tasks that could not be run; None if the user requested a stop (run
    again to resume).

    Raises:
        ConfigError: there is no such task, or an override does not fit.
        DataError: no task has its files, or a file is wrong.
        CheckpointError: there is no such model.
    """
    names = {task.name.lower() for task in TASKS}
    for name in tasks:
        if name.lower() not in names:
            raise ConfigError(f"There is no task {name!r}; there are {', '.join(task.name for task in TASKS)}.")
    chosen = [task for task in TASKS if not tasks or task.name.lower() in {name.lower() for name in tasks}]
    missing_by_task = {task.name: missing_files(task, data) for task in chosen}
    missing = {name: files for name, files in missing_by_task.items() if files}
    if len(missing) == len(chosen):
        [first, *_] = next(iter(missing.values()))
        raise DataError(f"{data} holds none of these tasks: {first} and others are missing; give their folder.")
    scores = []
    for task in chosen:
        if task.name in missing:
            continue
        runs = output / task.name.lower().replace(" ", "-")
        score = score_task(task, dict.fromkeys(seeds, model), data, runs, overrides, beside_random=beside_random)
        if score is None:
            return None
        scores.append(score)
    return tuple(scores), missing


def as_record(model: str, scores: Sequence[Score], missing: dict[str, list[str]]) -> dict[str, Any]:
    """Everything, as plain values."""
    return {"model": model, "tasks": [score.as_record() for score in scores], "missing": missing}
