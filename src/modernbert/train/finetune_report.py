"""The report of a fine-tuning run: report.md, report.json, figures and predictions."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from modernbert import __version__
from modernbert.plots.finetuning import draw_confusion, draw_curve, draw_numbers
from modernbert.runtime import cpu_name
from modernbert.tasks.task import ExampleResult, Task
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.markdown import cell, settings_block, table
from modernbert.train.results import SeedResult, SetResult

if TYPE_CHECKING:
    from modernbert.train.finetune_data import Sets

_WORST = 20


def write_report(
    recipe: FinetuneRecipe, task: Task[Any, Any], sets: "Sets", results: Sequence[SeedResult], folder: Path
) -> None:
    """Write the report of a run into `folder`, which holds the model of the best seed."""
    best = max(results, key=lambda result: result.selection_score)
    final = "test" if "test" in best.measured else "validation" if "validation" in best.measured else None
    metric = recipe.training.metric or task.metric_names[0]
    draw_curve(results, metric, folder / "learning-curve.png")
    if final is not None:
        _draw_predictions(best.measured[final], final, folder)
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for result in best.measured[final].results:
                file.write(json.dumps(result.record, ensure_ascii=False) + "\n")
    values = _values(recipe, task, sets, results, best)
    (folder / "report.md").write_text(_markdown(recipe, values, best, final), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _draw_predictions(measured: SetResult, name: str, folder: Path) -> None:
    if measured.confusion is not None:
        draw_confusion(*measured.confusion, f"{name} set", folder / "confusion.png")
    elif measured.results and isinstance(measured.results[0].record["expected"], float):
        expected = [one.record["expected"] for one in measured.results]
        predicted = [one.record["predicted"] for one in measured.results]
        draw_numbers(expected, predicted, f"{name} set", folder / "numbers.png")


def _values(
    recipe: FinetuneRecipe, task: Task[Any, Any], sets: "Sets", results: Sequence[SeedResult], best: SeedResult
) -> dict[str, Any]:
    """The content of report.json: everything except texts."""
    encoded = {"train": sets.train, "validation": sets.validation, "test": sets.test}
    baselines: dict[str, dict[str, float]] = {}
    for name in best.measured:
        encoded_set = encoded[name]
        assert encoded_set is not None
        baseline = task.baseline(sets.train.examples, encoded_set.examples)
        baselines[name] = {} if baseline is None else task.metrics(encoded_set.examples, baseline)
    return {
        "task": recipe.task,
        "model": recipe.model,
        "metrics": {
            name: {
                metric: {
                    "value": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "baseline": baselines[name].get(metric),
                    "seeds": [result.measured[name].metrics[metric].value for result in results],
                }
                for metric, interval in measured.metrics.items()
            }
            for name, measured in best.measured.items()
        },
        "by_label": {name: measured.by_label for name, measured in best.measured.items() if measured.by_label},
        "seeds": list(recipe.seeds),
        "best_seed": best.seed,
        "best_step": best.best_step,
        "steps": best.steps,
        "sets": {
            name: {
                "examples": len(one.examples),
                "tokens": sum(len(ids) for ids in one.sequences),
                "labels": task.count_labels(one.examples),
                "left_out": dict(sets.skipped.get(name, {})),
                **{what.replace(" ", "_"): count for what, count in one.notes.items()},
                **({"lost": list(one.lost)} if one.lost else {}),
            }
            for name, one in encoded.items()
            if one is not None
        },
        "speed": _speed(sets, best),
        "settings": recipe.model_dump(mode="json", exclude_none=True, exclude={"search"}),
        "versions": {"modernbert": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": cpu_name() if not torch.cuda.is_available() else torch.cuda.get_device_name(),
    }


def _speed(sets: "Sets", best: SeedResult) -> dict[str, float]:
    per_token = len(sets.train.examples) / sum(len(ids) for ids in sets.train.sequences)
    speed = {
        "training_seconds": best.seconds,
        "training_tokens_per_second": best.tokens / best.seconds,
        "training_examples_per_second": best.tokens / best.seconds * per_token,
    }
    for name, measured in best.measured.items():
        speed[f"{name}_seconds"] = measured.seconds
        speed[f"{name}_examples_per_second"] = len(measured.results) / measured.seconds
    return speed


def _markdown(recipe: FinetuneRecipe, values: Mapping[str, Any], best: SeedResult, final: str | None) -> str:
    parts = [f"# {recipe.task}: {cell(recipe.model, 200)}\n"]
    for name, metrics in values["metrics"].items():
        several = len(recipe.seeds) > 1
        parts.append(f"## {name.capitalize()} set, {values['sets'][name]['examples']:,} examples\n")
        heads = ["", "value", "95 % interval", "baseline"] + (["seeds, mean ± deviation"] if several else [])
        rows = []
        for metric, result in metrics.items():
            row = [
                metric.replace("_", " "),
                f"**{result['value']:.4f}**",
                f"{result['low']:.4f} to {result['high']:.4f}",
                "" if result["baseline"] is None else f"{result['baseline']:.4f}",
            ]
            rows.append(row + ([f"{fmean(result['seeds']):.4f} ± {stdev(result['seeds']):.4f}"] if several else []))
        parts.append(table(heads, rows))
    parts.append(
        "Intervals are bootstrapped over the examples; the baseline predicts without reading the texts."
        + (f" Values and the model are those of seed {best.seed}." if len(recipe.seeds) > 1 else "")
        + "\n"
    )
    if final is not None:
        measured = best.measured[final]
        if measured.by_label:
            parts.append(f"## Each label on the {final} set\n")
            rows = [
                [
                    cell(label, 60), f"{one['precision']:.4f}", f"{one['recall']:.4f}", f"{one['f1']:.4f}",
                    f"{one['expected']:,.0f}",
                ]
                for label, one in measured.by_label.items()
            ]  # fmt: skip
            parts.append(table(["label", "precision", "recall", "F1", "spans"], rows))
        if measured.confusion is not None:
            parts.append("![Expected classes by predicted ones](confusion.png)\n")
        elif isinstance(measured.results[0].record["expected"], float):
            parts.append("![Predicted over expected numbers](numbers.png)\n")
    parts.append("![Learning curve](learning-curve.png)\n")
    if final is not None:
        worst = worst_errors(best.measured[final].results)
        parts.append(f"## Worst errors on the {final} set\n")
        if worst:
            rows = [[cell(one.text, 160), cell(one.expected, 60), cell(one.predicted, 60)] for one in worst]
            parts.append(table(["text", "expected", "predicted"], rows))
        else:
            parts.append("There are none.\n")
    parts.append("## Data\n")
    rows = [
        [name, f"{one['examples']:,}", f"{one['tokens']:,}", _labels(one["labels"]), _notes(one)]
        for name, one in values["sets"].items()
    ]
    parts.append(table(["set", "examples", "tokens", "labels", "notes"], rows))
    parts += _lost(values["sets"])
    parts.append("## Speed\n")
    rows = [[name.replace("_", " "), f"{value:,.1f}"] for name, value in values["speed"].items()]
    parts.append(table(["", ""], rows))
    parts.append(f"On {values['machine']}, torch {values['versions']['torch']}.\n")
    parts.append(settings_block(values["settings"]))
    return "\n".join(parts)


def worst_errors(results: Sequence[ExampleResult]) -> list[ExampleResult]:
    """The results with the largest errors, largest first."""
    errors = [one for one in results if one.error > 0]
    return sorted(errors, key=lambda one: -one.error)[:_WORST]


def _labels(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda one: -one[1])
    shown = ", ".join(f"{cell(name, 30)} {count:,}" for name, count in most[:12])
    return shown + (f", and {len(most) - 12} more" if len(most) > 12 else "")


def _lost(sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The labels that no prediction can equal; report.json has all of them."""
    parts = []
    for name, one in sets.items():
        if lost := one.get("lost"):
            parts.append(f"### Lost spans of the {name} set: {len(lost):,}\n")
            parts.append(
                "They begin or end inside a token of the model, so no prediction can be equal to them; "
                "they count as not found. All of them are in report.json.\n"
            )
            parts.append("\n".join(f"- {cell(place, 160)}" for place in lost[:_WORST]) + "\n")
    return parts


def _notes(one: Mapping[str, Any]) -> str:
    other = ("examples", "tokens", "labels", "left_out", "lost")
    counts = {name: count for name, count in one.items() if name not in other}
    counts |= {f"left out: {cell(reason, 60)}": count for reason, count in one["left_out"].items()}
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
