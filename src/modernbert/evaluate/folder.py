"""How good a fine-tuned folder is on labelled data that it has never seen."""

from collections.abc import Iterable
from pathlib import Path

from modernbert.config import load, parse
from modernbert.errors import CheckpointError, ConfigError
from modernbert.model.folder import find_folder, read_architecture, read_config
from modernbert.model.heads import TaskModel
from modernbert.runtime import select_device
from modernbert.tasks.kinds import make_task
from modernbert.tasks.outputs import outputs
from modernbert.tasks.recipe import FinetuneRecipe, TaskName
from modernbert.text.records import told_format
from modernbert.text.tokenizer import load_tokenizer
from modernbert.train.results import Measured, measured

_TASKS: dict[str, TaskName] = {
    "ModernBertForTokenClassification": "tokens",
    "ModernBertForQuestionAnswering": "answer",
    "ModernBertForMultipleChoice": "choose",
}
_PROBLEMS: dict[str | None, TaskName] = {"regression": "regress", "multi_label_classification": "multi-label"}


def measure_folder(source: str | Path, data: Path, overrides: Iterable[str] = (), *, device: str = "auto") -> Measured:
    """Predictions of a folder for labelled data, and their metrics with confidence intervals, as its report has them.

    The columns have the names that the folder's own recipe.toml gives them, or the usual ones; `overrides` change them,
    as `data.text=sentence` does.

    Raises:
        CheckpointError: the folder holds no fine-tuned model.
        ConfigError: an override does not fit.
        DataError: the data is wrong, or has a label that the model does not know.
    """
    folder = find_folder(source)
    config = read_config(folder)
    recipe = _recipe(folder, data, overrides)
    reads = config.max_position_embeddings
    task = make_task(recipe, load_tokenizer(folder), config.read_tokens or reads)
    if read_architecture(folder) != task.head.architecture:
        raise CheckpointError(
            f"{source} holds no model for the task {recipe.task!r}; train one: `modernbert finetune`."
        )
    task.recall(config)
    assert recipe.data.test is not None
    examples = list(task.examples(recipe.data.test))
    task.look_at(examples)
    encoded = task.encode(examples)
    model: TaskModel = task.head.from_pretrained(folder, device=select_device(device))
    model.eval()
    found = [said.numpy() for said in outputs(model, encoded.sequences)]
    return measured(task, encoded, task.predictions(encoded, found), 0.0)


def _recipe(folder: Path, data: Path, overrides: Iterable[str]) -> FinetuneRecipe:
    """The recipe of a folder, or the usual one for its kind of model, with the data in the place of its test set."""
    told = told_format(data)
    if (folder / "recipe.toml").exists():
        own = load(FinetuneRecipe, folder / "recipe.toml")
        values = own.model_dump(mode="json", exclude_none=True)
        train = own.data.train
        like = told is None or told == (told_format(Path(train.path)) if train.format == "auto" else train.format)
        options = {
            key: value for key, value in values["data"]["train"].items() if key not in ("path", "limit", "split")
        }
    else:
        config = read_config(folder)
        task = _TASKS.get(read_architecture(folder) or "", _PROBLEMS.get(config.problem_type, "classify"))
        values = {"task": task, "model": str(folder), "output": "output/measured", "data": {"train": str(data)}}
        like, options = False, {}
    if told is None and not like and not any(one.startswith("data.test.format") for one in overrides):
        raise ConfigError(f"The name of {data} does not tell its format; add data.test.format=csv, jsonl, conll, ...")
    values["data"]["test"] = (options if like else {}) | {"path": str(data)}
    return parse(FinetuneRecipe, values, str(folder), overrides)
