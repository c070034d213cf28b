"""Evaluation of a fine-tuned folder on new labelled data."""

from collections.abc import Iterable
from pathlib import Path

from modernbert.config import load, parse
from modernbert.errors import CheckpointError, ConfigError
from modernbert.model.folder import find_folder, read_architecture, read_config
from modernbert.model.heads import TaskModel
from modernbert.runtime import select_device
from modernbert.tasks.folder_settings import FolderSettings
from modernbert.tasks.kinds import kind_of_model, make_task, trainable_tasks
from modernbert.tasks.outputs import outputs
from modernbert.text.records import format_of
from modernbert.text.tokenizer import load_tokenizer
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.results import SetResult, set_result


def measure_folder(source: str | Path, data: Path, overrides: Iterable[str] = (), *, device: str = "auto") -> SetResult:
    """Predictions of a folder for labelled data, and their metrics with confidence intervals, as in its report.

    The names of the columns are those of the folder's recipe.toml, or the default ones; `overrides` such as
    `data.text=sentence` change them.

    Raises:
        CheckpointError: the folder holds no fine-tuned model.
        ConfigError: an override does not fit.
        DataError: the data is wrong, or has a label that the model does not know.
    """
    folder = find_folder(source)
    config = read_config(folder)
    recipe = recipe_for(folder, data, overrides)
    reads = config.max_position_embeddings
    task = make_task(
        recipe.task, recipe.task_settings(), load_tokenizer(folder), FolderSettings.of(config).max_length or reads
    )
    if read_architecture(folder) != task.head.architecture:
        raise CheckpointError(
            f"{source} holds no model for the task {recipe.task!r}; train one with `modernbert finetune`."
        )
    task.restore_labels(config)
    assert recipe.data.test is not None
    examples = list(task.examples(recipe.data.test))
    task.prepare_metrics(examples)
    encoded = task.encode(examples)
    model: TaskModel = task.head.from_pretrained(folder, device=select_device(device))
    model.eval()
    logits = [one.numpy() for one in outputs(model, encoded.sequences)]
    return set_result(task, encoded, task.predictions(encoded, logits), 0.0)


def recipe_for(folder: Path, data: Path, overrides: Iterable[str] = ()) -> FinetuneRecipe:
    """The recipe of a folder, or the default one for its kind of model, with `data` as its test set."""
    format = format_of(data)
    if (folder / "recipe.toml").exists():
        recipe = load(FinetuneRecipe, folder / "recipe.toml")
        values = recipe.model_dump(mode="json", exclude_none=True)
        train = recipe.data.train
        same_format = format is None or format == (
            format_of(Path(train.path)) if train.format == "auto" else train.format
        )
        options = {
            key: value for key, value in values["data"]["train"].items() if key not in ("path", "limit", "split")
        }
    else:
        config = read_config(folder)
        task = kind_of_model(read_architecture(folder), config)
        values = {
            "task": task if task in trainable_tasks() else "classify",
            "model": str(folder),
            "output": "output/measured",
            "data": {"train": str(data)},
        }
        same_format, options = False, {}
    if format is None and not same_format and not any(one.startswith("data.test.format") for one in overrides):
        raise ConfigError(f"The name of {data} does not show its format; add data.test.format=csv, jsonl, conll, ...")
    values["data"]["test"] = (options if same_format else {}) | {"path": str(data)}
    return parse(FinetuneRecipe, values, str(folder), overrides)
