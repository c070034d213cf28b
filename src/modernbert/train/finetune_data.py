"""The data of a fine-tuning run: read, split and encoded before any training."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modernbert.errors import ConfigError, DataError
from modernbert.model.folder import find_folder, read_config
from modernbert.stream.batching import shuffled
from modernbert.tasks.kinds import make_task
from modernbert.tasks.task import Encoded, Task
from modernbert.text.records import Source
from modernbert.text.tokenizer import check_fits, load_tokenizer
from modernbert.train.finetune_recipe import FinetuneRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sets:
    """The training set, the validation set (it selects the best model) and the test set."""

    train: Encoded[Any]
    validation: Encoded[Any] | None
    test: Encoded[Any] | None
    skipped: Mapping[str, Mapping[str, int]]  # of each set, how many examples were left out for which reason


Prepared = tuple[Task[Any, Any], Sets]


def prepare(recipe: FinetuneRecipe) -> Prepared:
    """Read and encode all data, before any training."""
    folder = find_folder(recipe.model)
    config = read_config(folder)
    most = config.max_position_embeddings
    max_length = recipe.max_length or most
    if max_length > most:
        raise ConfigError(f"max_length is {max_length}, but {recipe.model} reads {most} tokens; lower it.")
    tokenizer = load_tokenizer(folder)
    check_fits(tokenizer, config.vocab_size, recipe.model)
    task = make_task(recipe.task, recipe.task_settings(), tokenizer, max_length)
    if recipe.training.metric not in (None, *task.metric_names):
        raise ConfigError(
            f"training.metric {recipe.training.metric!r} is not a metric of this task: choose one of "
            f"{', '.join(task.metric_names)}."
        )
    skipped: dict[str, dict[str, int]] = {}
    train, validation = _read(task, recipe.data.train, "train", skipped), None
    task.check(train)
    if recipe.data.validation is None and recipe.data.held_out:
        train, validation = split(task, train, recipe.data.held_out)
    task.learn_labels(train)
    if recipe.data.validation is not None:
        validation = _read(task, recipe.data.validation, "validation", skipped)
    test = None if recipe.data.test is None else _read(task, recipe.data.test, "test", skipped)
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


def _read(task: Task[Any, Any], source: Source, name: str, skipped: dict[str, dict[str, int]]) -> list[Any]:
    examples = task.examples(source)
    read = list(examples)
    if examples.skipped:
        skipped[name] = dict(examples.skipped)
        reasons = ", ".join(f"{count:,} for {reason}" for reason, count in examples.skipped.items())
        logger.warning("%s: %s", source.path, f"left out {reasons}.")
    return read


def split(task: Task[Any, Any], examples: Sequence[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """Hold out a part of every class, independent of the seed of the run. Equal texts stay together.

    If all examples of a label would be held out, the first one stays in the training set.

    Raises:
        DataError: there are too few examples.
    """
    strata: dict[str, dict[str, list[int]]] = {}
    home: dict[str, dict[str, list[int]]] = {}
    for index, example in enumerate(examples):
        group = task.group(example)
        groups = home.setdefault(group, strata.setdefault(task.stratum(example), {}))
        groups.setdefault(group, []).append(index)
    held_out_groups: list[list[int]] = []
    for groups in strata.values():
        members = list(groups.values())
        num_wanted, num_taken = fraction * sum(map(len, members)), 0
        for number in shuffled(len(members), 0, 0):
            if num_taken + len(members[number]) / 2 > num_wanted:
                break
            num_taken += len(members[number])
            held_out_groups.append(members[number])
    held_out = {index for part in held_out_groups for index in part}
    learned = {label for index, one in enumerate(examples) if index not in held_out for label in task.labels_of(one)}
    for part in sorted(held_out_groups):
        labels = {label for index in part for label in task.labels_of(examples[index])}
        if labels - learned:
            learned |= labels
            held_out.difference_update(part)
    if not held_out or len(held_out) == len(examples):
        texts = len({task.group(example) for example in examples})
        count = len({label for example in examples for label in task.labels_of(example)})
        raise DataError(
            f"{len(examples)} examples ({texts} different texts, {count} labels) are too few to hold some out and "
            "train on every label; name a validation set in data.validation, or set data.held_out = 0."
        )
    return (
        [example for index, example in enumerate(examples) if index not in held_out],
        [example for index, example in enumerate(examples) if index in held_out],
    )
