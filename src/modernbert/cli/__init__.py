"""The command `modernbert`: parses, calls one public function, prints. Heavy imports live inside the commands."""

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modernbert.cli import (
    bench,
    corpus,
    embed,
    evaluate,
    export,
    ranking,
    search,
    serve,
    train,
    use,
)
from modernbert.cli.console import Json, print_json
from modernbert.errors import ConfigError, ModernBertError

PANELS = {  # the panel of each command in the help, in this order
    "Use a model": ("fill-mask", "predict", "embed", "rerank", "search", "serve"),
    "Train": ("demo", "finetune", "pretrain", "mine", "score", "plan", "grow", "average"),
    "Data": ("corpus", "inspect", "tokenizer"),
    "Measure and inspect": ("evaluate", "bench", "plot", "doctor"),
    "Exchange with other programs": ("import", "export"),
}

FIRST_COMMANDS = """ModernBERT from raw text to a model that loads everywhere. The most common commands:

  modernbert demo                                               train a small model from raw text, in minutes
  modernbert fill-mask "The sky is [MASK]." --model MODEL       try a model
  modernbert finetune reviews.csv model=MODEL                   a classifier from labelled texts, with a report
  modernbert predict "A film to remember." --model output/reviews
  modernbert pretrain recipes/tiny/pretrain.toml                a masked language model from shards

MODEL is a folder or a hub id, such as answerdotai/ModernBERT-base.
All commands: modernbert --help. One command, with examples: modernbert COMMAND --help."""


class _InPanels(TyperGroup):
    """A group that lists its commands in the order of the panels."""

    def list_commands(self, ctx: Any) -> list[str]:  # a Context of click, or of the one inside typer
        order = [name for names in PANELS.values() for name in names]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))


app = typer.Typer(
    cls=_InPanels,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (corpus, train, ranking, use, embed, search, serve):
    app.add_typer(group.app)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(bench.app, name="bench")
app.add_typer(export.app, name="export")


@app.callback(invoke_without_command=True)
def modernbert(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    """ModernBERT from raw text to a model that loads everywhere.

    Results go to stdout, progress to stderr. A user's error is one sentence and exit status 2.
    """
    if version:
        from modernbert import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(FIRST_COMMANDS)


@app.command(
    epilog="""Examples:

    modernbert doctor

    modernbert doctor --json > report.json

    modernbert doctor output/embedder --fix"""
)
def doctor(
    folder: Annotated[
        str | None, typer.Argument(help="A model folder, to check which programs load it and compute the same.")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Add the keys that other programs need to its JSON files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what a bug report needs: versions, processor, GPUs, the attention backend, missing packages.

    For a model folder, print which programs load it, whether they compute the same, and what is missing for them.
    """
    if folder is not None:
        _doctor_of_folder(folder, fix, as_json)
        return
    if fix:
        raise ConfigError("--fix needs a model folder; give one.")
    from modernbert.doctor import describe, diagnose

    report = diagnose()
    if as_json:
        print_json(report)
    else:
        typer.echo(describe(report))


def _doctor_of_folder(folder: str, fix: bool, as_json: bool) -> None:
    from modernbert.model.interop import examine, repair

    changed = repair(folder) if fix else []
    reports = examine(folder)
    if as_json:
        print_json({"changed": changed, "programs": [asdict(one) for one in reports]})
        return
    if fix:
        typer.echo(f"changed: {', '.join(changed) or 'nothing'}")
    for one in reports:
        state = (
            "loads, same outputs"
            if one.loads and one.same
            else "loads, other outputs"
            if one.loads
            else "does not load"
        )
        typer.echo(f"{one.program:<30} {state}")
        for line in [*one.reasons, *(f"missing {key}" for key in one.missing)]:
            typer.echo(f"{'':<30}   {line}")


@app.command(
    epilog="""Examples:

    modernbert demo

    modernbert demo --corpus my-texts/*.txt --output output/mine"""
)
def demo(
    corpus: Annotated[list[str] | None, typer.Option(help="Your own text instead; may be repeated.")] = None,
    files: Annotated[list[str] | None, typer.Argument(help="More files of your own text.", hidden=True)] = None,
    output: Annotated[Path, typer.Option(help="The output folder; an earlier demo in it is replaced.")] = Path(
        "output/demo"
    ),
) -> None:
    """Train a small ModernBERT from raw text and fill in masks with it, in minutes, without network."""
    from modernbert.demo import run

    if not run([*(corpus or []), *(files or [])], output):
        raise typer.Exit(1)


def _place_in_panels(group: typer.Typer = app) -> None:
    """Set the help panel of each command, also of the commands of the modules added here."""
    panel_of = {name: panel for panel, names in PANELS.items() for name in names}
    for command in group.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        command.rich_help_panel = panel_of.get(name, "Further commands")
    for inner in group.registered_groups:
        if isinstance(inner.name, str):
            inner.rich_help_panel = panel_of.get(inner.name, "Further commands")
        elif inner.typer_instance is not None:
            _place_in_panels(inner.typer_instance)


_place_in_panels()


def main() -> None:
    """Run a command. A user's error becomes one sentence on stderr and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("modernbert").setLevel(logging.INFO)
    try:
        app()
    except ModernBertError as error:
        typer.echo(f"modernbert: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("modernbert: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe may close it
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that cannot be written, a name that is too long
        typer.echo(f"modernbert: {error}: check the path, its permissions and the free disk space.", err=True)
        sys.exit(2)
