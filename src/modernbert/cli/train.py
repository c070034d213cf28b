"""Commands that create models, plan runs and plot them."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.console import Json, Labelled, Overrides, Recipe, print_folder, print_json, print_table
from modernbert.errors import ConfigError

app = typer.Typer()

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove the run in the folder, also a complete one, and start again.")
]


@app.command(
    epilog="""Examples:

    modernbert pretrain recipes/tiny/pretrain.toml

    modernbert pretrain pretrain.toml run.directory=runs/second optimizer.weight_decay=1e-6

    modernbert pretrain domain.toml --from answerdotai/ModernBERT-base

    torchrun --nproc-per-node 8 --max-restarts 3 -m modernbert pretrain recipes/base/pretrain.toml"""
)
def pretrain(
    recipe: Recipe,
    overrides: Overrides = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="A model folder or hub id to start from; its tokenizer may be replaced."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pretrain through all phases of a recipe. The same command resumes a stopped run.

    Ctrl-C saves a checkpoint and exits with status 130; a second Ctrl-C exits immediately.
    """
    from modernbert.config import load
    from modernbert.train.pretrain import pretrain as run
    from modernbert.train.recipe import PretrainRecipe

    changes = [*(overrides or ()), *([] if start is None else [f"model.start={json.dumps(start)}"])]
    final = run(load(PretrainRecipe, recipe, changes), overwrite and _is_first_start())
    if final is None:
        raise typer.Exit(130)
    print_folder(final)


@app.command(
    epilog="""Examples:

    modernbert finetune reviews.csv model=answerdotai/ModernBERT-base

    modernbert finetune reviews.toml

    modernbert finetune reviews.toml output=output/second training.epochs=5 seeds=[1,2,3]

    torchrun --nproc-per-node 8 --max-restarts 3 -m modernbert finetune reviews.toml

    modernbert finetune reviews.toml --search

    modernbert finetune reviews.toml --search search.trials=20 search.learning_rate=[1e-5,1e-4]"""
)
def finetune(
    recipe: Labelled,
    overrides: Overrides = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid examples, and count them.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Try the grid of the recipe, or search.trials samples, then run the best.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model for a task from labelled examples. The same command resumes a stopped run.

    Instead of a recipe, give labelled texts with the columns text and label (CSV, TSV, JSON lines, Parquet; also .gz
    and .zst) to train a classifier in output/NAME-OF-THE-FILE; overrides are the same as for a recipe.

    The output folder holds the model, report.md, report.json, predictions.jsonl and figures. Ctrl-C saves and exits
    with status 130; a second Ctrl-C exits immediately.
    """
    from modernbert.train.finetune import finetune as run
    from modernbert.train.finetune_recipe import read_recipe
    from modernbert.train.ranking_recipe import is_ranking, read_ranking_recipe

    changes = [*(overrides or ()), *(["skip_bad=true"] if skip_bad else [])]
    if is_ranking(recipe, changes):
        from modernbert.train.rank import train_ranker

        if search:
            raise ConfigError("--search does not support rankers; run the recipe with overrides instead.")
        folder = train_ranker(read_ranking_recipe(recipe, changes), overwrite and _is_first_start())
        if folder is None:
            raise typer.Exit(130)
        print_folder(folder)
        return
    loaded = read_recipe(recipe, changes)
    if search:
        from modernbert.train.search import search as try_settings

        folder = try_settings(loaded, overwrite)
    else:
        folder = run(loaded, overwrite and _is_first_start())
    if folder is None:
        raise typer.Exit(130)
    _print_metrics(folder)
    print_folder(folder)


def _is_first_start() -> bool:
    """False if torchrun restarted the processes after a failure: then the run resumes."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"


def _print_metrics(folder: Path) -> None:
    """Print the metrics of a fine-tuning run and the baseline to stderr."""
    if os.environ.get("RANK", "0") != "0":
        return
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rows = [
        (
            f"{metric.replace('_', ' ')}, {name} set",
            f"{found['value']:.4f}",
            f"{found['low']:.4f} to {found['high']:.4f}",
            "" if found.get("baseline") is None else f"{found['baseline']:.4f}",
        )
        for name, metrics in report["metrics"].items()
        for metric, found in metrics.items()
    ]
    if rows:
        print_table(("", "value", "95 % interval", "baseline"), rows, err=True)


@app.command(
    epilog="""Examples:

    modernbert plan recipes/base/pretrain.toml --gpus 8 --device h100

    modernbert plan recipes/base/pretrain.toml --hours pretrain=194.2 --plot plan.png

    modernbert plan recipes/mini/pretrain.toml --device cpu

    modernbert plan recipes/small/pretrain.toml --gpus 1 --device rtx4090 --json"""
)
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, typer.Option(help="Number of devices, one process each. [default: as many as fit, at most 8]")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="a100-40, a100, h100, h200, b200, l40s, rtx4090, or cpu: this machine. "
            "[default: cpu if the recipe sets it, otherwise h100]"
        ),
    ] = None,
    cost_per_hour: Annotated[float | None, typer.Option(help="Cost of one device per hour, in any currency.")] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(help="Fraction of the peak speed. [default: that of the published base; cpu: 0.65]"),
    ] = None,
    hours: Annotated[
        list[str] | None, typer.Option(help="Measured PHASE=HOURS, to show the fraction of the peak; may be repeated.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Size of the vocabulary, if the tokenizer does not exist. [default: 50368]")
    ] = None,
    shards: Annotated[Path | None, typer.Option(help="A shard folder with representative document lengths.")] = None,
    histogram: Annotated[Path | None, typer.Option(help="Document lengths from `modernbert inspect --json`.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot the schedule: .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate the steps, epochs, operations, memory, hours and cost of a recipe, without running it.

    The tokenizer and the shards do not need to exist.
    """
    from modernbert.config import load
    from modernbert.plan.description import describe
    from modernbert.plan.plan import Cluster
    from modernbert.plan.plan import plan as estimate
    from modernbert.train.recipe import PretrainRecipe

    loaded = load(PretrainRecipe, recipe, overrides or ())
    chosen = device or ("cpu" if loaded.run.device == "cpu" else "h100")
    cluster = Cluster.of(chosen, gpus, utilisation, cost_per_hour)
    found = estimate(loaded, cluster, hours=hours or (), vocab_size=vocab_size, shards=shards, histogram=histogram)
    if plot is not None:
        from modernbert.plan.figure import plot_plan

        plot_plan(found, loaded, plot)
        typer.echo(f"figure: {plot}", err=True)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(describe(found))


@app.command(
    epilog="""Examples:

    modernbert grow output/base/run/final output/large/start --preset large

    modernbert grow small-model start --config config.json --depth-map published"""
)
def grow(
    small: Annotated[str, typer.Argument(help="The model folder or hub id to start from.")],
    output: Annotated[Path, typer.Argument(help="The model folder to write.")],
    preset: Annotated[str | None, typer.Option(help="base or large: the preset of the larger model.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json of the larger model.")] = None,
    depth_map: Annotated[
        str, typer.Option(help="same-kind or published: the layer from which each layer is copied.")
    ] = "same-kind",
    seed: Annotated[int, typer.Option(help="Seed of weights that are not copied.")] = 0,
) -> None:
    """Create a larger model from a smaller one by tiling its weights, to pretrain it further."""
    from modernbert.model.grow import grow_folder

    grow_folder(small, output, preset=preset, config=config, depth_map=depth_map, seed=seed)
    typer.echo(str(output))


@app.command(
    epilog="""Examples:

    modernbert plot output/tiny/run

    modernbert plot runs/first runs/second --output comparison.svg"""
)
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The figure: .png, .svg or .pdf. [default: runs.png in the run, or here]"),
    ] = None,
) -> None:
    """Plot loss, validation, learning rate, batch size, speed, gradient norm and packing of one or several runs."""
    from modernbert.plots.runs import plot_runs

    figure = output or (runs[0] if len(runs) == 1 else Path()) / "runs.png"
    plot_runs(runs, figure)
    typer.echo(str(figure))


@app.command(
    epilog="""Examples:

    modernbert average output/tiny/run --best 3 --output output/tiny/average

    modernbert average first-model second-model --output mean"""
)
def average(
    sources: Annotated[list[Path], typer.Argument(help="One run directory, or model folders.")],
    output: Annotated[Path, typer.Option(help="The model folder to write.")],
    best: Annotated[
        int,
        typer.Option(help="For a run: number of checkpoints with the lowest validation loss, besides the last one."),
    ] = 3,
) -> None:
    """Average checkpoints: the best ones of a run and its last one, or the given folders."""
    from modernbert.train.average import average_run

    folders = average_run(sources, output, best)
    for folder in folders:
        typer.echo(f"averaged {folder}", err=True)
    typer.echo(str(output))


@app.command(
    "import",
    epilog="""Examples:

    modernbert import ep0-ba52988-rank0.pt my-model --preset base --tokenizer answerdotai/ModernBERT-base

    modernbert import checkpoint.pt my-model --config config.json --tokenizer my-tokenizer""",
)
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the research code.")],
    output: Annotated[Path, typer.Argument(help="The model folder to write.")],
    preset: Annotated[str, typer.Option(help="base or large, if no config.json is given.")] = "base",
    config: Annotated[Path | None, typer.Option(help="A config.json that describes the model.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer folder or hub id to copy into the folder.")
    ] = None,
) -> None:
    """Convert a checkpoint of the ModernBERT research code to a model folder, without unpickling code."""
    from modernbert.model.research import import_research_checkpoint

    import_research_checkpoint(checkpoint, output, preset=preset, config=config, tokenizer=tokenizer)
    typer.echo(str(output))
