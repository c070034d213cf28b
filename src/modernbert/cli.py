"""The command `modernbert`: parses, calls one public function, prints. Heavy imports live inside the commands."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modernbert.errors import ConfigError, DataError, ModernBertError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train and evaluate tokenizers.")
app.add_typer(tokenizer_app, name="tokenizer")
bench_app = typer.Typer(no_args_is_help=True, help="Measure speed beside transformers on this machine.")
app.add_typer(bench_app, name="bench")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure trained models.")
app.add_typer(evaluate_app, name="evaluate")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout instead of text.")]
Recipe = Annotated[Path, typer.Argument(help="A TOML recipe.", metavar="RECIPE.toml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides of the recipe.", metavar="[SECTION.KEY=VALUE]...")
]
Corpus = Annotated[
    list[str], typer.Argument(help="JSON lines (.gz, .zst), Parquet, text files, folders, globs, or python:MODULE.")
]


@app.callback(invoke_without_command=True)
def modernbert(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """ModernBERT from raw text to a model that loads everywhere.

    Results go to stdout, progress to stderr. A mistake of yours is one sentence and exit status 2.
    """
    if version:
        from modernbert import __version__

        typer.echo(__version__)


@tokenizer_app.command(
    "train",
    epilog="""Examples:

    modernbert tokenizer train corpus.jsonl.gz --vocab-size 50368 --output my-tokenizer

    modernbert tokenizer train texts/ --kind unigram --vocab-size 32000 --output ja-tokenizer""",
)
def tokenizer_train(
    corpus: Corpus,
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    vocab_size: Annotated[int, typer.Option(help="Entries in all, special tokens included.")] = 50368,
    kind: Annotated[str, typer.Option(help="bpe (byte-level) or unigram (languages without spaces).")] = "bpe",
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    limit_bytes: Annotated[int | None, typer.Option(help="Stop reading after so many bytes of text.")] = None,
) -> None:
    """Train a tokenizer with ModernBERT's special tokens."""
    from modernbert.data.reading import first_bytes, read_texts
    from modernbert.data.tokenizer import train_tokenizer

    if kind not in ("bpe", "unigram"):
        raise ConfigError(f"There is no tokenizer kind {kind!r}; choose bpe or unigram.")
    texts = first_bytes(read_texts(corpus, text_key), limit_bytes)
    tokenizer = train_tokenizer(texts, output, vocab_size=vocab_size, kind=kind)  # type: ignore[arg-type]
    typer.echo(f"{output}: {tokenizer.get_vocab_size(with_added_tokens=True):,} entries")


@tokenizer_app.command(
    "evaluate",
    epilog="""Examples:

    modernbert tokenizer evaluate my-tokenizer held-out.jsonl.gz

    modernbert tokenizer evaluate answerdotai/ModernBERT-base texts/ --json""",
)
def tokenizer_evaluate(
    tokenizer: Annotated[str, typer.Argument(help="A tokenizer folder or hub id.")],
    corpus: Corpus,
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    limit_bytes: Annotated[int | None, typer.Option(help="Stop reading after so many bytes of text.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how well a tokenizer fits some texts."""
    from modernbert.data.reading import first_bytes, read_texts
    from modernbert.data.tokenizer import evaluate_tokenizer, load_tokenizer

    texts = first_bytes(read_texts(corpus, text_key), limit_bytes)
    report = asdict(evaluate_tokenizer(load_tokenizer(tokenizer), texts))
    _print_record(report, as_json)


@app.command(
    epilog="""Examples:

    modernbert corpus recipes/tiny/corpus.toml

    modernbert corpus corpus.toml workers=8 output=/data/shards executor=ray"""
)
def corpus(recipe: Recipe, overrides: Overrides = None) -> None:
    """Turn text into token shards, filtered and deduplicated where the recipe says so, and a report to look at.

    Run it again to finish what was interrupted.
    """
    from modernbert.config import load
    from modernbert.data.corpus import CorpusRecipe, build_corpus
    from modernbert.data.report import write_report

    loaded = load(CorpusRecipe, recipe, overrides or ())
    manifests = build_corpus(loaded)
    for manifest in manifests:
        skipped = "".join(f", {count:,} skipped: {reason}" for reason, count in manifest.skipped.items())
        typer.echo(
            f"{loaded.output / manifest.source}: {manifest.documents:,} documents, {manifest.tokens:,} tokens, "
            f"{manifest.bytes:,} bytes{skipped}"
        )
    typer.echo(f"report: {write_report(loaded, manifests)}")


@app.command(
    epilog="""Examples:

    modernbert inspect output/tiny/shards/library --length 1024

    modernbert inspect shards/encyclopedia --length 8192 --json"""
)
def inspect(
    shards: Annotated[Path, typer.Argument(help="A shard folder.")],
    length: Annotated[int, typer.Option(help="Tokens of a row.")] = 1024,
    as_json: Json = False,
) -> None:
    """Report documents, tokens, rows and how full they are, over one epoch."""
    from modernbert.data.inspect import inspect as measure

    if length < 8:
        raise ConfigError(f"A row of {length} tokens is too short; give at least 8.")
    found = asdict(measure(shards, length))
    if as_json:
        _print_json(found)
        return
    histogram = found.pop("histogram")
    found["fill"] = f"{found['fill']:.2%}"
    _print_record(found, as_json=False)
    most = max(bin_["documents"] for bin_ in histogram)
    for bin_ in histogram:
        bar = "█" * round(40 * bin_["documents"] / most)
        typer.echo(f"{bin_['start']:>9,} to {bin_['stop'] - 1:>9,} tokens {bin_['documents']:>11,}  {bar}")


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
        typer.Option("--from", help="A model folder or hub id to start from, under its own or another tokenizer."),
    ] = None,
) -> None:
    """Pretrain through all phases of a recipe. The same command goes on where a run stopped.

    Ctrl-C saves a checkpoint and ends with status 130; a second Ctrl-C ends at once.
    """
    from modernbert.config import load
    from modernbert.train.pretrain import pretrain as run
    from modernbert.train.recipe import PretrainRecipe

    changes = [*(overrides or ()), *([] if start is None else [f"model.start={json.dumps(start)}"])]
    final = run(load(PretrainRecipe, recipe, changes))
    if final is None:
        raise typer.Exit(130)
    typer.echo(str(final))


@app.command(
    epilog="""Examples:

    modernbert plan recipes/base/pretrain.toml --gpus 8 --device h100

    modernbert plan recipes/base/pretrain.toml --hours pretrain=194.2 --plot plan.png

    modernbert plan recipes/small/pretrain.toml --gpus 1 --device rtx4090 --json"""
)
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(help="Devices, one process each.")] = 8,
    device: Annotated[str, typer.Option(help="a100-40, a100, h100, h200, b200, l40s or rtx4090.")] = "h100",
    cost_per_hour: Annotated[float | None, typer.Option(help="Of one device, in any currency.")] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="Share of the peak that is reached. [default: the published base's]")
    ] = None,
    hours: Annotated[
        list[str] | None, typer.Option(help="PHASE=HOURS that were measured: shows the share of the peak. Repeatable.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Where the tokenizer is not here. [default: 50368]")] = None,
    shards: Annotated[Path | None, typer.Option(help="A shard folder whose document lengths to take.")] = None,
    histogram: Annotated[Path | None, typer.Option(help="Document lengths from `modernbert inspect --json`.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the schedule: .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what a recipe will take, without running it: steps, operations, memory, hours, cost, largest microbatch.

    Neither the tokenizer nor the shards need to be here.
    """
    from modernbert.config import load
    from modernbert.train.plan import Cluster, describe
    from modernbert.train.plan import plan as reckon
    from modernbert.train.recipe import PretrainRecipe

    loaded = load(PretrainRecipe, recipe, overrides or ())
    cluster = Cluster.of(device, gpus, utilisation, cost_per_hour)
    found = reckon(loaded, cluster, hours=hours or (), vocab_size=vocab_size, shards=shards, histogram=histogram)
    if plot is not None:
        from modernbert.train.plot import plot_plan

        plot_plan(found, loaded, plot)
        typer.echo(f"drawn in {plot}", err=True)
    if as_json:
        _print_json(asdict(found))
    else:
        typer.echo(describe(found))


@app.command(
    "fill-mask",
    epilog="""Examples:

    modernbert fill-mask "The capital of Japan is [MASK]." --top-k 3

    modernbert fill-mask --file questions.txt --model output/tiny/run/final --json

    echo "import [MASK]" | modernbert fill-mask - --model output/demo/run/final""",
)
def fill_mask(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts with [MASK]; - reads lines from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with one text a line.")] = None,
    model: Annotated[str, typer.Option(help="A model folder or hub id.")] = "answerdotai/ModernBERT-base",
    top_k: Annotated[int, typer.Option(help="Candidates for each [MASK].")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Fill in masked words."""
    wanted = _texts(texts or [], file)
    from modernbert.inference import FillMask

    results = FillMask.from_pretrained(model, device=device)(wanted, top_k)
    if as_json:
        _print_json(
            [
                {"text": text, "masks": [[asdict(candidate) for candidate in mask] for mask in masks]}
                for text, masks in zip(wanted, results, strict=True)
            ]
        )
        return
    for text, masks in zip(wanted, results, strict=True):
        typer.echo(text)
        for number, mask in enumerate(masks, 1):
            if len(masks) > 1:
                typer.echo(f"  [MASK] {number}")
            for candidate in mask:
                typer.echo(f"  {candidate.probability:6.1%}  {candidate.token.strip() or repr(candidate.token)}")


@app.command(
    "import",
    epilog="""Examples:

    modernbert import ep0-ba52988-rank0.pt my-model --preset base --tokenizer answerdotai/ModernBERT-base

    modernbert import checkpoint.pt my-model --config config.json --tokenizer my-tokenizer""",
)
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the research code.")],
    output: Annotated[Path, typer.Argument(help="The model folder to write.")],
    preset: Annotated[str, typer.Option(help="base or large, where no config.json is given.")] = "base",
    config: Annotated[Path | None, typer.Option(help="A config.json that describes the model.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="The tokenizer folder or hub id to put beside it.")] = None,
) -> None:
    """Turn a checkpoint of the ModernBERT research code into a model folder, without unpickling code."""
    from modernbert.model.research import import_research_checkpoint

    import_research_checkpoint(checkpoint, output, preset=preset, config=config, tokenizer=tokenizer)
    typer.echo(str(output))


@app.command(
    epilog="""Examples:

    modernbert grow output/base/run/final output/large/start --preset large

    modernbert grow small-model start --config config.json --depth-map published"""
)
def grow(
    small: Annotated[str, typer.Argument(help="The model folder or hub id to start from.")],
    output: Annotated[Path, typer.Argument(help="The model folder to write.")],
    preset: Annotated[str | None, typer.Option(help="base or large: the new shape.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json with the new shape.")] = None,
    depth_map: Annotated[
        str, typer.Option(help="same-kind or published: which layer each layer starts from.")
    ] = "same-kind",
    seed: Annotated[int, typer.Option(help="For what has no origin.")] = 0,
) -> None:
    """Make a larger model from a smaller one by tiling its weights, to pretrain it further."""
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
    output: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("runs.png"),
) -> None:
    """Draw loss, validation, learning rate, batch size, speed, gradient norm and packing of one or several runs."""
    from modernbert.train.plot import plot_runs

    plot_runs(runs, output)
    typer.echo(str(output))


@app.command(
    epilog="""Examples:

    modernbert average output/tiny/run --best 3 --output output/tiny/average

    modernbert average first-model second-model --output mean"""
)
def average(
    sources: Annotated[list[Path], typer.Argument(help="One run directory, or model folders.")],
    output: Annotated[Path, typer.Option(help="The model folder to write.")],
    best: Annotated[int, typer.Option(help="Of a run: so many checkpoints by validation loss, and the last one.")] = 3,
) -> None:
    """Average checkpoints: the best of a run and its last one, or the folders that are named."""
    from modernbert.train.average import average_run

    folders = average_run(sources, output, best)
    for folder in folders:
        typer.echo(f"averaged {folder}", err=True)
    typer.echo(str(output))


@app.command(
    epilog="""Examples:

    modernbert doctor

    modernbert doctor --json > report.json"""
)
def doctor(as_json: Json = False) -> None:
    """Print what a bug report needs: versions, processor, GPUs, the attention backend and why, what is missing."""
    from modernbert.doctor import diagnose

    report = diagnose()
    if as_json:
        _print_json(report)
        return
    for section, values in report.items():
        typer.echo(section)
        for name, value in values.items():
            typer.echo(f"  {name:<24} {value}")


@app.command(
    epilog="""Examples:

    modernbert demo

    modernbert demo --corpus my-texts/*.txt --output output/mine"""
)
def demo(
    corpus: Annotated[list[str] | None, typer.Option(help="Your own text instead; may be repeated.")] = None,
    files: Annotated[list[str] | None, typer.Argument(help="More files of your own text.", hidden=True)] = None,
    output: Annotated[Path, typer.Option(help="The folder to work in; it is made anew.")] = Path("output/demo"),
) -> None:
    """Train a small ModernBERT from raw text to filled masks, in minutes, with no network."""
    from modernbert.demo import run

    if not run([*(corpus or []), *(files or [])], output):
        raise typer.Exit(1)


@evaluate_app.command(
    "positions",
    epilog="""Examples:

    modernbert evaluate positions output/mini/run --output positions.svg

    modernbert evaluate positions output/mini/run --model output/mini/run/final --length 4096 --json""",
)
def evaluate_positions(
    run: Annotated[Path, typer.Argument(help="A run directory; its held-out documents are read.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A model folder; may be repeated. The ends of the phases unless given.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a row, all of one document.")] = 8192,
    rows: Annotated[int, typer.Option(help="Rows at most.")] = 24,
    output: Annotated[Path | None, typer.Option(help="A picture: .png, .svg or .pdf.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Loss by position in long held-out documents, before and after a context extension."""
    from modernbert.evaluate.positions import loss_by_position, plot_positions

    found = loss_by_position(run, model or (), length=length, rows=rows, device=device)
    if output is not None:
        plot_positions(found, output)
    if as_json:
        _print_json(asdict(found))
        return
    typer.echo(f"{found.rows} rows of {found.length:,} tokens; loss in nats per masked token\n")
    typer.echo(f"| {'positions':<17} |" + "".join(f" {curve.model} |" for curve in found.curves))
    typer.echo("|---|" + "---|" * len(found.curves))
    starts = found.curves[0].starts
    for number, (start, stop) in enumerate(zip(starts, (*starts[1:], found.length), strict=True)):
        losses = "".join(f" {curve.loss[number]:.3f} ± {curve.error[number]:.3f} |" for curve in found.curves)
        typer.echo(f"| {f'{start:,} to {stop - 1:,}':<17} |{losses}")
    if output is not None:
        typer.echo(f"\n{output}")


@bench_app.command(
    "inference",
    epilog="""Examples:

    modernbert bench inference

    modernbert bench inference --dtype fp32 --threads 1 --work "8 x 512" --json""",
)
def bench_inference(
    preset: Annotated[str, typer.Option(help="base or large.")] = "base",
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    threads: Annotated[int, typer.Option(help="Threads of both.")] = 2,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each work.")] = 5,
    work: Annotated[list[str] | None, typer.Option(help="Only this work; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Encode batches with random weights, alternating with transformers."""
    from modernbert.bench.inference import bench_inference as measure

    _print_bench(asdict(measure(preset, dtype, threads, rounds, tuple(work or ()))), as_json)


@bench_app.command(
    "training",
    epilog="""Examples:

    modernbert bench training

    modernbert bench training --model base --threads 1 --work "4 x 1024" --rounds 3

    modernbert bench training --dtype fp32 --json""",
)
def bench_training(
    model: Annotated[str, typer.Option(help="mini (6 layers, 256 wide) or base.")] = "mini",
    dtype: Annotated[str, typer.Option(help="bf16 (autocast) or fp32.")] = "bf16",
    threads: Annotated[int, typer.Option(help="Threads of both.")] = 2,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each work.")] = 7,
    work: Annotated[list[str] | None, typer.Option(help="Only this work; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Masked-LM training steps, alternating with transformers."""
    from modernbert.bench.training import bench_training as measure

    if dtype not in ("bf16", "fp32"):
        raise ConfigError(f"There is no dtype {dtype!r}; choose bf16 or fp32.")
    precision: Literal["bf16", "fp32"] = "bf16" if dtype == "bf16" else "fp32"
    _print_bench(asdict(measure(model, precision, threads, rounds, tuple(work or ()))), as_json)


@bench_app.command(
    "logits",
    epilog="""Examples:

    modernbert bench logits

    modernbert bench logits --rows 2048 --json""",
)
def bench_logits(
    rows: Annotated[int, typer.Option(help="Masked rows.")] = 8192,
    as_json: Json = False,
) -> None:
    """Peak memory of decoder and cross-entropy at base's sizes, in chunks and the plain way (Linux)."""
    from modernbert.bench.training import bench_logits as measure

    found = measure(rows)
    if as_json:
        _print_json(found)
        return
    for name, peak in found.items():
        typer.echo(f"{name:<12} {peak / 2**20:,.0f} MiB")


@bench_app.command(
    "loader",
    epilog="""Examples:

    modernbert bench loader

    modernbert bench loader --gigabytes 1 --folder /data --json""",
)
def bench_loader(
    gigabytes: Annotated[float, typer.Option(help="Size of the larger corpus; the other has a hundredth.")] = 10.0,
    folder: Annotated[Path, typer.Option(help="Where a temporary folder with the corpora is made.")] = Path(),
    tokens: Annotated[int, typer.Option(help="Tokens of a round.")] = 10_000_000,
    rounds: Annotated[int, typer.Option(help="Rounds from the disk, and as many from the page cache.")] = 5,
    as_json: Json = False,
) -> None:
    """Pack and mask synthetic shards on one core: tokens a second and memory, beside a corpus of a hundredth."""
    from modernbert.bench.loader import bench_loader as measure

    report = asdict(measure(gigabytes, folder, tokens, rounds))
    if as_json:
        _print_json(report)
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in report["machine"].items()) + "\n")
    columns = (
        "corpus, GB", "documents", "row", "tokens/s from disk: median (range)", "from page cache: median (range)",
        "first batch, s", "anonymous MB before", "anonymous MB, peak", "resident MB, peak",
    )  # fmt: skip
    typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in report["results"]:
        speeds = (result[place] for place in ("from_disk", "from_page_cache"))
        memory = (result[f"{name}_bytes"] for name in ("anonymous_before", "anonymous_peak", "resident_peak"))
        cells = [
            f"{result['gigabytes']:g}", f"{result['documents']:,}", f"{result['max_length']:,}",
            *(f"{s['median']:,.0f} ({s['slowest']:,.0f} to {s['fastest']:,.0f})" for s in speeds),
            f"{result['first_batch_seconds']:.2f}", *(f"{value / 1e6:,.0f}" for value in memory),
        ]  # fmt: skip
        typer.echo(f"| {' | '.join(cells)} |")


def _print_bench(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(report)
        return
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    typer.echo(f"{report['model']}, {report['dtype']}. {machine}\n")
    typer.echo("| work | contestant | real tokens/s: median | slowest | fastest | ratio |\n|---|---|---|---|---|---|")
    for result in report["results"]:
        for timing in result["timings"]:
            ratio = f"{result['ratio']:.2f} x" if timing is result["timings"][0] else ""
            speeds = (timing[key] for key in ("tokens_per_second", "slowest", "fastest"))
            shown = " | ".join(f"{speed:,.0f}" for speed in speeds)
            typer.echo(f"| {result['work']} | {timing['contestant']} | {shown} | {ratio} |")
    typer.echo("")
    for result in report["results"]:
        for name, error in (result.get("errors") or {}).items():
            typer.echo(f"{result['work']}: error of {name} against fp32: {error:.2e}")
        for name, peak in (result.get("peak_bytes") or {}).items():
            typer.echo(f"{result['work']}: peak memory of {name} above the weights: {peak / 2**20:,.0f} MiB")


def _texts(texts: list[str], file: Path | None) -> list[str]:
    found: list[str] = []
    for text in texts:
        found += sys.stdin.read().splitlines() if text == "-" else [text]
    if file is not None:
        try:
            found += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as text: {error}.") from None
    found = [text for text in found if text.strip()]
    if not found:
        raise DataError("There is no text; give one with [MASK] in it, or --file, or - for stdin.")
    return found


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _print_record(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(values)
        return
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
        typer.echo(f"{name.replace('_', ' '):<24} {shown}")


def main() -> None:
    """Run a command. A user's mistake becomes one sentence on stderr and exit status 2."""
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
    except BrokenPipeError:  # the reader of a pipe has left, which is its right
        sys.stderr.close()
        sys.exit(1)
