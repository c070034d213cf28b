"""Search for settings: try them on the validation set, list them in a table, and run the best one."""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from modernbert.errors import ConfigError
from modernbert.files import atomic_write
from modernbert.tasks.metrics import selection_score
from modernbert.train.finetune import run
from modernbert.train.finetune_data import Prepared, prepare
from modernbert.train.finetune_folder import FAILED, check_replaceable, claim_folder, remove_finetuning
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.loop import DivergedError
from modernbert.train.stopping import StopRequest
from modernbert.train.trials import JOURNAL, Grid, OptunaSampler, Setting, Settings, Trial, check_optuna

logger = logging.getLogger(__name__)


def search(recipe: FinetuneRecipe, overwrite: bool = False) -> Path | None:
    """Try settings with the first seed, then run the recipe with the best setting and all seeds.

    With `overwrite`, the trials of an earlier search are removed first, and then the run; other files stay.

    The settings are those of a grid, or `search.trials` samples of Optuna. Trials and their tables, search.md and
    search.json, are in a folder beside the output; the test set is only read by the last run. A trial whose loss is not
    finite has failed, and the search continues. A search that was stopped resumes. None if the user asked to stop.

    Raises:
        ConfigError: there is no validation set, the output folder holds other files, Optuna is missing,
            or every trial failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("A search runs in one process; start it without torchrun.")
    if recipe.data.validation is None and not recipe.data.held_out:
        raise ConfigError("A search needs a validation set: name one in data.validation, or set data.held_out.")
    if recipe.search.trials is not None:
        check_optuna()
    folder = recipe.output.with_name(f"{recipe.output.name}-search")
    if overwrite:
        check_replaceable(recipe.output)
    shared = _remove_search(folder) if overwrite else frozenset()
    if not overwrite and recipe.output.exists() and any(recipe.output.iterdir()) and not folder.exists():
        raise ConfigError(
            f"{recipe.output} is not empty, and the run of the best setting would be there; choose another output."
        )
    trial_recipe = recipe.model_copy(
        update={"seeds": recipe.seeds[:1], "data": recipe.data.model_copy(update={"test": None})}
    )
    prepared = prepare(trial_recipe)
    task, _ = prepared
    metric = recipe.training.metric or task.metric_names[0]
    settings: Settings = Grid(recipe.search)
    if recipe.search.trials is not None:
        settings = OptunaSampler(recipe.search, recipe.seeds[0], metric, folder)
    trials: list[Trial] = []
    with StopRequest() as stop:
        for number in range(settings.count):
            setting = settings.setting(number)
            logger.info("Trial %d of %d: %s", number + 1, settings.count, setting.name)
            trial = run_trial(trial_recipe, setting, folder / setting.name, stop, prepared, setting.name in shared)
            if trial is None:
                return None
            settings.report(number, trial)
            trials.append(trial)
            _write_tables(ranking(trials, metric), folder)
        best = ranking(trials, metric)[0]
        if best.failure is not None:
            raise ConfigError(
                f"All {len(trials)} trials failed: lower search.learning_rate or lengthen training.warmup."
            )
        logger.info(
            "The table is in %s; training the best setting with all seeds: %s", folder / "search.md", best.setting.name
        )
        return run(with_setting(recipe, best.setting, recipe.output), stop, overwrite=overwrite)


def _remove_search(folder: Path) -> frozenset[str]:
    """Remove the trials and tables of an earlier search, complete or not. Returns the trials that left other files."""
    removed = [trial for trial in sorted(folder.glob("lr-*_decay-*_epochs-*")) if remove_finetuning(trial)]
    for name in ("search.md", "search.json", JOURNAL) if removed else ():
        (folder / name).unlink(missing_ok=True)
    for emptied in (*removed, folder):
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()
    return frozenset(trial.name for trial in removed if trial.exists())


def with_setting(recipe: FinetuneRecipe, setting: Setting, output: Path) -> FinetuneRecipe:
    """The recipe of one setting."""
    training = recipe.training.model_copy(update=asdict(setting))
    return recipe.model_copy(update={"training": training, "output": output})


def run_trial(
    recipe: FinetuneRecipe, setting: Setting, output: Path, stop: StopRequest, prepared: Prepared, shared: bool = False
) -> Trial | None:
    """Run a trial, unless its folder already has the result. None if the user asked to stop.

    A `shared` folder also has files that are not of a trial.
    """
    recipe = with_setting(recipe, setting, output)
    claim_folder(recipe, shared=shared)
    failed = output / FAILED
    if not failed.exists():
        try:
            if run(recipe, stop, prepared) is None:
                return None
        except DivergedError as error:
            logger.warning("%s", error)
            shutil.rmtree(output / "training")
            with atomic_write(failed) as partial:
                partial.write_text(f"{error}\n", encoding="utf-8")
    if failed.exists():
        return Trial(setting, {}, None, failed.read_text(encoding="utf-8").strip())
    (output / "model.safetensors").unlink(missing_ok=True)  # only the metrics of a trial are needed
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    metrics = {name: metric["value"] for name, metric in report["metrics"]["validation"].items()}
    if not all(map(math.isfinite, metrics.values())):
        return Trial(setting, {}, None, "Its predictions are not finite.")
    return Trial(setting, metrics, report["speed"]["training_seconds"])


def ranking(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The trials from best to worst, then failed ones; equal ones keep their order."""

    def sort_key(trial: Trial) -> tuple[bool, float]:
        return trial.failure is not None, -selection_score(metric, trial.metrics.get(metric, 0.0))

    return sorted(trials, key=sort_key)


def _write_tables(trials: Sequence[Trial], folder: Path) -> None:
    names = list(trials[0].metrics)
    heads = ["learning rate", "weight decay", "epochs", *(name.replace("_", " ") for name in names), "seconds", ""]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for trial in trials:
        setting = trial.setting
        cells = [f"{setting.learning_rate:g}", f"{setting.weight_decay:g}", str(setting.epochs)]
        cells += [f"{trial.metrics[name]:.4f}" if name in trial.metrics else "" for name in names]
        cells += ["" if trial.seconds is None else f"{trial.seconds:.1f}", trial.failure or ""]
        lines.append(f"| {' | '.join(cells)} |")
    records = [
        asdict(trial.setting) | {"metrics": dict(trial.metrics), "seconds": trial.seconds, "failure": trial.failure}
        for trial in trials
    ]
    with atomic_write(folder / "search.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with atomic_write(folder / "search.json") as partial:
        partial.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
