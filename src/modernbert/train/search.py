"""Trying every combination of a grid, one table of all of them, and the run of the best."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from modernbert.errors import ConfigError
from modernbert.files import replaced_file
from modernbert.train.finetune import prepare, run
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.stopping import StopRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One combination, and what it reached on the validation set."""

    learning_rate: float
    weight_decay: float
    epochs: int
    metrics: Mapping[str, float]
    seconds: float


def search(recipe: FinetuneRecipe) -> Path | None:
    """Try the grid with the first seed, then run the recipe with the best combination and all seeds.

    Trials and their tables, search.md and search.json, lie in a folder beside the output; the test set is only read by
    the last run. Given again, it goes on where it stopped. None if the user asked to stop.

    Raises:
        ConfigError: there is no validation set to choose by.
    """
    if recipe.data.validation is None and not recipe.data.held_out:
        raise ConfigError("A search needs a validation set: name one in data.validation, or set data.held_out.")
    folder = recipe.output.with_name(f"{recipe.output.name}-search")
    quiet = recipe.model_copy(update={"seeds": recipe.seeds[:1], "data": recipe.data.model_copy(update={"test": None})})
    grid = list(product(recipe.search.learning_rate, recipe.search.weight_decay, recipe.search.epochs))
    prepared = prepare(quiet)
    trials: list[Trial] = []
    with StopRequest() as stop:
        for number, (learning_rate, weight_decay, epochs) in enumerate(grid, 1):
            name = f"lr-{learning_rate:g}_decay-{weight_decay:g}_epochs-{epochs}"
            logger.info("Trial %d of %d: %s", number, len(grid), name)
            values = {"learning_rate": learning_rate, "weight_decay": weight_decay, "epochs": epochs}
            training = recipe.training.model_copy(update=values)
            output = run(quiet.model_copy(update={"training": training, "output": folder / name}), stop, prepared)
            if output is None:
                return None
            (output / "model.safetensors").unlink(missing_ok=True)  # 48 models are of no use
            report = json.loads((output / "report.json").read_text(encoding="utf-8"))
            metrics = {metric: found["value"] for metric, found in report["metrics"]["validation"].items()}
            seconds = report["speed"]["training_seconds"]
            trials.append(Trial(learning_rate, weight_decay, epochs, metrics, seconds))
        task, _ = prepared
        ranked = ranking(trials, recipe.training.metric or task.metric_names[0])
        _write_tables(ranked, folder)
        best = ranked[0]
        chosen = {"learning_rate": best.learning_rate, "weight_decay": best.weight_decay, "epochs": best.epochs}
        logger.info("The table is in %s; the best one now with all seeds: %s", folder / "search.md", chosen)
        return run(recipe.model_copy(update={"training": recipe.training.model_copy(update=chosen)}), stop)


def ranking(trials: list[Trial], metric: str) -> list[Trial]:
    """Best first; of equal ones the one that was tried first."""
    return sorted(trials, key=lambda trial: trial.metrics[metric] if metric == "error" else -trial.metrics[metric])


def _write_tables(trials: list[Trial], folder: Path) -> None:
    metrics = list(trials[0].metrics)
    heads = ["learning rate", "weight decay", "epochs", *(name.replace("_", " ") for name in metrics), "seconds"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for trial in trials:
        values = [f"{trial.metrics[name]:.4f}" for name in metrics]
        cells = [f"{trial.learning_rate:g}", f"{trial.weight_decay:g}", str(trial.epochs), *values]
        lines.append(f"| {' | '.join(cells)} | {trial.seconds:.1f} |")
    with replaced_file(folder / "search.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with replaced_file(folder / "search.json") as partial:
        partial.write_text(json.dumps([asdict(trial) for trial in trials], indent=2) + "\n", encoding="utf-8")
