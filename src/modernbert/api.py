"""Training from Python: the same runs as on the command line, with values instead of files."""

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modernbert.config import Config, load, parse
from modernbert.errors import ConfigError, ModernBertError
from modernbert.text.rows import Rows, write_rows

if TYPE_CHECKING:
    from modernbert.tasks.predictor import Predictor
    from modernbert.train.recipe import PretrainRecipe

logger = logging.getLogger(__name__)


class StoppedError(ModernBertError):
    """The user stopped the run. Everything is saved, and the same call resumes it."""


def pretrain(recipe: "PretrainRecipe | str | PathLike[str] | Mapping[str, Any]", *overrides: str) -> Path:
    """Pretrain a masked language model, or resume a stopped run. Returns the folder of the final model.

    Args:
        recipe: a recipe, the path of one in TOML, or its values as a mapping.
        overrides: `section.key=value`, as on the command line.

    Raises:
        ConfigError: the recipe is wrong, or its run directory holds another run.
        DataError: shards or tokenizer are missing or do not fit.
        StoppedError: Ctrl-C or SIGTERM ended the run early; everything is saved.
    """
    from modernbert.train.pretrain import pretrain as run
    from modernbert.train.recipe import PretrainRecipe

    if isinstance(recipe, PretrainRecipe):
        recipe = recipe.model_dump(mode="json", exclude_none=True)
    if isinstance(recipe, Mapping):
        found = parse(PretrainRecipe, recipe, "recipe", overrides)
    else:
        found = load(PretrainRecipe, Path(recipe), overrides)
    folder = run(found)
    if folder is None:
        raise StoppedError(f"The run in {found.run.directory} was stopped and saved; the same call resumes it.")
    return folder


def finetune(
    *,
    model: str | PathLike[str],
    task: str,
    train: Rows,
    validation: Rows = None,
    test: Rows = None,
    output: str | PathLike[str] | None = None,
    **settings: Any,
) -> "Predictor[Any]":
    """Train a model for a task, evaluate it, write its folder with a report, and return its predictor.

    Args:
        model: a folder or hub id.
        task: classify, multi-label, regress, tokens, answer, choose, embed, rerank, multi-vector or sparse. The last
            four learn from pairs, triples or lists (docs/retrieval-training.md); their `validation` is a collection.
        train: a path of any format that the command line reads; or rows: an iterable of mappings, a DataFrame of pandas
            or polars, or a `datasets.Dataset`.
        validation: likewise; it selects the best epoch. Without it a part of `train` is held out.
        test: likewise; it is used after training only.
        output: the folder of the run (default: output/TASK). Rows are stored beside it in OUTPUT-data, so that the run
            can be repeated and resumed.
        settings: any key of a fine-tuning recipe or of its sections: epochs=3, learning_rate=5e-5, text="sentence",
            max_length=512, seed=1 (docs/finetuning.md has the table).

    Raises:
        ConfigError: a setting does not exist or does not fit, or `output` holds another run.
        DataError: an example is wrong; files and lines are named.
        CheckpointError: the model does not exist.
        StoppedError: Ctrl-C or SIGTERM ended the run early; everything is saved.
    """
    from modernbert.tasks.kinds import predictor_class
    from modernbert.tasks.ranking.settings import RANKING_TASKS
    from modernbert.train.finetune import finetune as run
    from modernbert.train.finetune_recipe import FinetuneRecipe, Machine, Training, data_class

    if task in RANKING_TASKS:
        return _train_ranker(model, task, train, validation, test, output, settings)
    folder = Path(output) if output is not None else Path("output") / task
    values: dict[str, Any] = {"model": str(model), "task": task, "output": str(folder)}
    _sort_into(values, settings, {"data": data_class(task), "training": Training, "machine": Machine})
    data = values.setdefault("data", {})
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        if rows is not None:
            data[name] = _path_of(rows, folder, name)
    recipe = parse(FinetuneRecipe, values, "finetune")
    written = run(recipe)
    if written is None:
        raise StoppedError(f"The run in {folder} was stopped and saved; the same call resumes it.")
    predictor = predictor_class(task)
    assert predictor is not None, "each task that is trained has a predictor"
    return predictor.from_pretrained(written, device=recipe.machine.device)


def _train_ranker(
    model: str | PathLike[str],
    task: str,
    train: Rows,
    validation: Rows,
    test: Rows,
    output: str | PathLike[str] | None,
    settings: dict[str, Any],
) -> "Predictor[Any]":
    """`finetune` of an embedder or reranker: `loss` and `settings` are mappings, as in a recipe."""
    from modernbert.train.finetune_recipe import Machine, Training
    from modernbert.train.rank import predictor_of, train_ranker
    from modernbert.train.ranking_recipe import RankingData, RankingRecipe

    if test is not None or not (validation is None or isinstance(validation, str | PathLike)):
        raise ConfigError(
            f"The task {task!r} needs a collection for validation, as the path of its folder, and has no test set; "
            "measure with `modernbert evaluate retrieval`."
        )
    folder = Path(output) if output is not None else Path("output") / task
    values: dict[str, Any] = {"model": str(model), "task": task, "output": str(folder)}
    sections: dict[str, type[Config]] = {"data": RankingData, "training": Training, "machine": Machine}
    _sort_into(values, settings, sections)
    data = values.setdefault("data", {})
    if train is not None:
        data["train"] = _path_of(train, folder, "train")
    if validation is not None:
        data["validation"] = str(validation)
    recipe = parse(RankingRecipe, values, "finetune")
    written = train_ranker(recipe)
    if written is None:
        raise StoppedError(f"The run in {folder} was stopped and saved; the same call resumes it.")
    return predictor_of(task, written, recipe.machine.device)


def _sort_into(values: dict[str, Any], settings: dict[str, Any], sections: dict[str, type[Config]]) -> None:
    """Put each setting into the section of the recipe that has this key.

    Raises:
        ConfigError: the name of a section is given as a key.
    """
    for name, value in settings.items():
        section = next((section for section, kind in sections.items() if name in kind.model_fields), None)
        if name in sections:
            raise ConfigError(f"{name} is a section; give its keys by their names, such as epochs=3.")
        (values if section is None else values.setdefault(section, {}))[name] = value


def _path_of(rows: Any, folder: Path, name: str) -> str:
    """The given path, or the path of a file into which the rows are written."""
    if isinstance(rows, str | PathLike):
        return str(rows)
    return str(write_rows(rows, folder.with_name(f"{folder.name}-data"), name))
