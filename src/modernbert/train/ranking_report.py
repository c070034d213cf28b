"""The report of a ranker's training: report.md, report.json, and the learning curve."""

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from modernbert import __version__
from modernbert.plots.finetuning import draw_curve
from modernbert.runtime import cpu_name
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.tasks.ranking.fusion import Scored
from modernbert.tasks.ranking.measures import Quality, System
from modernbert.text.collection import Collection
from modernbert.train.markdown import cell, settings_block, table
from modernbert.train.ranking_recipe import RankingRecipe

SELECTION_METRIC = "nDCG@10"
_METRICS = ("nDCG@10", "RR", "R@10", "R@100")
_WORST = 10


@dataclass(frozen=True)
class SeedRun:
    """One run with one seed. `best` is nDCG@10 of its best evaluation; None without an evaluation."""

    seed: int
    steps: int
    tokens: int
    seconds: float
    best_step: int
    best: float | None
    curve: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ValidationResult:
    """The results of the best model, of BM25 and of the model before training on the validation collection."""

    collection: Collection
    run: Sequence[Scored]
    system: System
    baselines: Mapping[str, Mapping[str, Quality]]


def write_ranking_report(
    recipe: RankingRecipe,
    loss: str,
    examples: Sequence[RankingExample],
    runs: Sequence[SeedRun],
    best: SeedRun,
    validation: ValidationResult | None,
    folder: Path,
) -> None:
    """Write the report into `folder`, which has the model of the seed `best`."""
    draw_curve(runs, SELECTION_METRIC, folder / "learning-curve.png")
    values = {
        "task": recipe.task,
        "model": recipe.model,
        "loss": loss,
        "examples": len(examples),
        "sources": dict(Counter(example.source for example in examples)),
        "validation": None
        if validation is None
        else {
            "collection": validation.collection.name,
            "queries": len(validation.collection.queries),
            "documents": len(validation.collection.documents),
            "trained": {name: asdict(one) for name, one in validation.system.quality.items()},
            **{
                name: {measure: asdict(one) for measure, one in quality.items()}
                for name, quality in validation.baselines.items()
            },
        },
        "seeds": [
            {
                "seed": run.seed,
                "steps": run.steps,
                "tokens": run.tokens,
                "seconds": round(run.seconds, 1),
                "best_step": run.best_step,
                "validation_ndcg_at_10": run.best,
                "curve": list(run.curve),
            }
            for run in runs
        ],
        "best_seed": best.seed,
        "settings": recipe.model_dump(mode="json", exclude_none=True),
        "versions": {"modernbert": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": cpu_name() if not torch.cuda.is_available() else torch.cuda.get_device_name(),
    }
    (folder / "report.md").write_text(_markdown(recipe, values, runs, best, validation), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _markdown(
    recipe: RankingRecipe,
    values: Mapping[str, Any],
    runs: Sequence[SeedRun],
    best: SeedRun,
    validation: ValidationResult | None,
) -> str:
    parts = [f"# {recipe.task}: {cell(recipe.model, 200)}\n"]
    if validation is not None:
        parts += _quality(validation, runs, best)
    parts.append("![Learning curve](learning-curve.png)\n")
    if validation is not None:
        parts += _worst(validation)
    parts.append("## Data\n")
    rows = [[cell(name, 120), f"{count:,}"] for name, count in values["sources"].items()]
    parts.append(table(["source", "examples"], rows))
    parts.append(f"The loss is {values['loss']}.\n")
    parts.append("## Speed\n")
    rows = [
        [str(run.seed), f"{run.steps:,}", f"{run.tokens:,}", f"{run.seconds:,.0f}", f"{run.tokens / run.seconds:,.0f}"]
        for run in runs
    ]
    parts.append(table(["seed", "updates", "tokens", "seconds", "tokens a second"], rows))
    parts.append(f"On {values['machine']}, torch {values['versions']['torch']}.\n")
    parts.append(settings_block(values["settings"]))
    return "\n".join(parts)


def _quality(validation: ValidationResult, runs: Sequence[SeedRun], best: SeedRun) -> list[str]:
    collection = validation.collection
    parts = [
        f"## Validation: {cell(collection.name, 120)}, {len(collection.queries):,} queries, "
        f"{len(collection.documents):,} documents\n"
    ]
    systems = {**validation.baselines, "trained": validation.system.quality}
    rows = [
        [name, *(f"{100 * one[m].value:.1f} ({100 * one[m].low:.1f} to {100 * one[m].high:.1f})" for m in _METRICS)]
        for name, one in systems.items()
    ]
    parts.append(table(["", *_METRICS], rows))
    parts.append(
        "Times 100; 95 % intervals are bootstrapped over queries. The model was selected by these queries, so results "
        "on other queries are a little lower: see `modernbert evaluate retrieval`.\n"
    )
    scores = [100 * run.best for run in runs if run.best is not None]
    if len(scores) > 1:
        spread = f"{fmean(scores):.1f} ± {stdev(scores):.1f}"
        parts.append(f"{SELECTION_METRIC} of {len(scores)} seeds: {spread}; the model is that of seed {best.seed}.\n")
    return parts


def _worst(validation: ValidationResult) -> list[str]:
    collection, values = validation.collection, validation.system.by_query[SELECTION_METRIC]
    names, texts = list(collection.documents), list(collection.documents.values())
    queries = list(collection.queries)
    rows = []
    for index in sorted(range(len(values)), key=lambda one: values[one])[:_WORST]:
        query = queries[index]
        first_document = texts[validation.run[index][0][0]].content if validation.run[index] else ""
        relevant = collection.relevant(query)
        relevant_document = collection.documents[relevant[0]].content if relevant else ""
        rank = next(
            (str(at) for at, (one, _) in enumerate(validation.run[index], 1) if names[one] in relevant), "not found"
        )
        query_text = collection.queries[query]
        rows.append(
            [
                cell(query_text, 100),
                f"{100 * values[index]:.0f}",
                cell(first_document, 100),
                cell(relevant_document, 100),
                rank,
            ]
        )
    return [
        "## Queries with the lowest scores\n",
        table(["query", SELECTION_METRIC, "first document", "a relevant one", "first relevant at"], rows),
    ]
