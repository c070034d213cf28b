"""The report of a ranker's training: report.md to read, report.json to compute with, and the curve of the run."""

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
from modernbert.tasks.ranking.measures import Quality, System
from modernbert.tasks.ranking.rankers import Scored
from modernbert.text.collection import Collection
from modernbert.train.markdown import cell, settings_block, table
from modernbert.train.ranking_recipe import RankingRecipe

SELECTS = "nDCG@10"
_SHOWN = ("nDCG@10", "RR", "R@10", "R@100")
_WORST = 10


@dataclass(frozen=True)
class SeedRun:
    """One run with one seed. `best` is nDCG@10 of its best evaluation; None where nothing was evaluated."""

    seed: int
    steps: int
    tokens: int
    seconds: float
    best_step: int
    best: float | None
    curve: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Validated:
    """The kept model on the validation collection, with what BM25 and the model before training reach there."""

    collection: Collection
    run: Sequence[Scored]
    system: System
    baselines: Mapping[str, Mapping[str, Quality]]


def write_ranking_report(
    recipe: RankingRecipe,
    loss: str,
    examples: Sequence[RankingExample],
    runs: Sequence[SeedRun],
    kept: SeedRun,
    validated: Validated | None,
    folder: Path,
) -> None:
    """Write the report of a run, whose model of the seed `kept` is in `folder`."""
    draw_curve(runs, SELECTS, folder / "learning-curve.png")
    values = {
        "task": recipe.task,
        "model": recipe.model,
        "loss": loss,
        "examples": len(examples),
        "sources": dict(Counter(example.source for example in examples)),
        "validation": None
        if validated is None
        else {
            "collection": validated.collection.name,
            "queries": len(validated.collection.queries),
            "documents": len(validated.collection.documents),
            "trained": {name: asdict(one) for name, one in validated.system.quality.items()},
            **{
                name: {measure: asdict(one) for measure, one in quality.items()}
                for name, quality in validated.baselines.items()
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
        "best_seed": kept.seed,
        "settings": recipe.model_dump(mode="json", exclude_none=True),
        "versions": {"modernbert": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": cpu_name() if not torch.cuda.is_available() else torch.cuda.get_device_name(),
    }
    (folder / "report.md").write_text(_markdown(recipe, values, runs, kept, validated), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _markdown(
    recipe: RankingRecipe,
    values: Mapping[str, Any],
    runs: Sequence[SeedRun],
    kept: SeedRun,
    validated: Validated | None,
) -> str:
    parts = [f"# {recipe.task}: {cell(recipe.model, 200)}\n"]
    if validated is not None:
        parts += _quality(validated, runs, kept)
    parts.append("![How the run went](learning-curve.png)\n")
    if validated is not None:
        parts += _worst(validated)
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


def _quality(validated: Validated, runs: Sequence[SeedRun], kept: SeedRun) -> list[str]:
    collection = validated.collection
    parts = [
        f"## Validation: {cell(collection.name, 120)}, {len(collection.queries):,} queries, "
        f"{len(collection.documents):,} documents\n"
    ]
    systems = {**validated.baselines, "trained": validated.system.quality}
    rows = [
        [name, *(f"{100 * one[m].value:.1f} ({100 * one[m].low:.1f} to {100 * one[m].high:.1f})" for m in _SHOWN)]
        for name, one in systems.items()
    ]
    parts.append(table(["", *_SHOWN], rows))
    parts.append(
        "Times 100; intervals (95 %) are from drawing the queries again. These queries chose the model, so other "
        "queries will do a little worse: measure with `modernbert evaluate retrieval`.\n"
    )
    best = [100 * run.best for run in runs if run.best is not None]
    if len(best) > 1:
        spread = f"{fmean(best):.1f} ± {stdev(best):.1f}"
        parts.append(f"{SELECTS} of {len(best)} seeds: {spread}; the model is that of seed {kept.seed}.\n")
    return parts


def _worst(validated: Validated) -> list[str]:
    collection, values = validated.collection, validated.system.by_query[SELECTS]
    names, texts = list(collection.documents), list(collection.documents.values())
    queries = list(collection.queries)
    rows = []
    for place in sorted(range(len(values)), key=lambda one: values[one])[:_WORST]:
        query = queries[place]
        found = texts[validated.run[place][0][0]].content if validated.run[place] else ""
        relevant = collection.relevant(query)
        wanted = collection.documents[relevant[0]].content if relevant else ""
        rank = next(
            (str(at) for at, (one, _) in enumerate(validated.run[place], 1) if names[one] in relevant), "not found"
        )
        asked = collection.queries[query]
        rows.append([cell(asked, 100), f"{100 * values[place]:.0f}", cell(found, 100), cell(wanted, 100), rank])
    return [
        "## Queries that it answers worst\n",
        table(["query", SELECTS, "first document", "a relevant one", "first relevant at"], rows),
    ]
