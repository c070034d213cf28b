"""`modernbert evaluate glue` and `tasks`: fine-tuning on public tasks, and the scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modernbert.cli.console import Json, Overrides, print_json, print_table
from modernbert.errors import ConfigError

if TYPE_CHECKING:
    from modernbert.evaluate.task_specs import Score

app = typer.Typer()


@app.command(
    "glue",
    epilog="""Examples:

    modernbert evaluate glue output/mini/run/final --data glue

    modernbert evaluate glue answerdotai/ModernBERT-base --data hub --seed 0 --seed 1 --seed 2

    modernbert evaluate glue my-model --data glue --task RTE --mnli my-mnli-model training.learning_rate=1e-4""",
)
def evaluate_glue(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    overrides: Overrides = None,
    data: Annotated[str, typer.Option(help="A folder with CoLA, SST-2, ... as GLUE's files, or hub.")] = "glue",
    output: Annotated[Path, typer.Option(help="Folder of the runs; complete ones are not repeated.")] = Path(
        "output/glue"
    ),
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; may be repeated. [default: 0]")] = None,
    random: Annotated[bool, typer.Option("--random", help="Also from random weights, to compare.")] = False,
    size: Annotated[
        str | None, typer.Option(help="Published settings to use: base or large. [default: by the model's width]")
    ] = None,
    mnli: Annotated[
        str | None, typer.Option(help="A model fine-tuned on MNLI, the start for RTE, MRPC and STS-B.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune on the tasks of GLUE with the published settings; tasks without data are listed.

    Overrides are those of a fine-tuning recipe, for every task. Ctrl-C saves; the same command resumes.
    """
    from modernbert.evaluate.glue import PUBLISHED
    from modernbert.evaluate.glue import evaluate_glue as measure

    if size not in (None, "base", "large"):
        raise ConfigError(f"There are no published settings for {size!r}; choose base or large.")
    wanted: Literal["base", "large"] | None = None if size is None else "large" if size == "large" else "base"
    report = measure(
        model, data, output, tasks=task or (), seeds=seed or (0,), size=wanted, mnli=mnli, overrides=overrides or (),
        beside_random=random,
    )  # fmt: skip
    if report is None:
        raise typer.Exit(130)
    if as_json:
        print_json(report.as_record())
        return
    _print_scores(report.scores, report.published)
    typer.echo("\nThe scores of other models are from arXiv 2412.13663, table 5.")
    if report.missing:
        typer.echo(f"\nNot measured, as files are missing: {_listed(report.missing)}.")
    typer.echo()
    rows = [(f"{name}, published", f"{average:.1f}") for name, average in PUBLISHED.items()]
    if report.average is not None:
        rows.append((model, f"{report.average:.1f}"))
    else:
        typer.echo(
            f"The mean of the measured tasks is {report.mean_of_measured:.1f}. It cannot be compared with the "
            "published averages, which are over eight tasks:\n"
        )
    print_table(("average of eight tasks", "GLUE"), rows)


@app.command(
    "tasks",
    epilog="""Examples:

    modernbert evaluate tasks output/mini/run/final --data tasks

    modernbert evaluate tasks my-model --data tasks --task CoNLL-2003 --seed 0 --seed 1 training.epochs=3 --json""",
)
def evaluate_tasks(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    overrides: Overrides = None,
    data: Annotated[
        Path, typer.Option(help="A folder with conll2003, ja_ner_wikipedia, glue, jglue and jaquad, or some of them.")
    ] = Path("tasks"),
    output: Annotated[Path, typer.Option(help="Folder of the runs; complete ones are not repeated.")] = Path(
        "output/tasks"
    ),
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; may be repeated. [default: 0]")] = None,
    random: Annotated[bool, typer.Option("--random", help="Also train from random weights, for comparison.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune on entities, similarity, choices and questions in English and Japanese, and score on the test sets.

    CoNLL-2003, Japanese NER, STS-B, JSTS, JNLI, JCommonsenseQA, JSQuAD, JaQuAD; those without data are listed.
    Overrides change the fine-tuning recipe of every task. Ctrl-C saves; the same command resumes.
    """
    from modernbert.evaluate.tasks import as_record
    from modernbert.evaluate.tasks import evaluate_tasks as measure

    found = measure(
        model, data, output, tasks=task or (), seeds=seed or (0,), overrides=overrides or (), beside_random=random
    )
    if found is None:
        raise typer.Exit(130)
    scores, missing = found
    if as_json:
        print_json(as_record(model, scores, missing))
        return
    _print_scores(scores)
    if missing:
        typer.echo(f"\nNot measured, as files are missing: {_listed(missing)}.")


def _print_scores(scores: Sequence["Score"], others: Mapping[str, Mapping[str, float]] | None = None) -> None:
    """Print a row for each task: the score, that from random weights, and those of other models, in percent."""
    others = others or {}
    random = ["random weights"] if any(score.random for score in scores) else []
    print_table(
        ("task", "score", *random, *others, "baseline", "metrics", "examples", "rate", "decay", "epochs", "notes"),
        [
            (
                score.task,
                _percent(score.values),
                *(_percent(score.random or ()) for _ in random),
                *(f"{one[score.task]:.1f}" if score.task in one else "" for one in others.values()),
                "" if score.baseline is None else f"{100 * score.baseline:.1f}",
                ", ".join(
                    f"{name.replace('_', ' ')} {100 * fmean(values):.1f}" for name, values in score.metrics.items()
                ),
                f"{score.examples:,} ({score.set})",
                f"{score.settings['learning_rate']:g}",
                f"{score.settings['weight_decay']:g}",
                f"{score.settings['epochs']}",
                score.note,
            )
            for score in scores
        ],
    )


def _percent(values: Sequence[float]) -> str:
    """The mean over seeds, and the standard deviation if there are several."""
    shown = f"{100 * fmean(values):.1f}" if values else ""
    return shown if len(values) < 2 else f"{shown} ± {100 * stdev(values):.1f}"


def _listed(missing: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} ({', '.join(files)})" for name, files in missing.items())
