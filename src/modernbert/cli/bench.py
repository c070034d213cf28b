"""`modernbert bench`: how fast everything is, beside others, on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modernbert.cli import bench_accelerate, bench_levels
from modernbert.cli.console import Corpus, Json, Labelled, Overrides, print_json, print_table

if TYPE_CHECKING:
    from modernbert.bench.report import Report

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed beside transformers on this machine.",
    epilog="""Examples:

    modernbert bench inference --model base --threads 2

    modernbert bench training --model base --device cuda""",
)
bench_accelerate.register(app)
bench_levels.register(app)


Model = Annotated[str, typer.Option(help="mini (6 layers, 256 wide), base or large with random weights, or a folder.")]
Dtype = Annotated[str, typer.Option(help="bf16 or fp32.")]
Threads = Annotated[int | None, typer.Option(help="Threads of every contestant; all that torch takes unless given.")]
Works = Annotated[list[str] | None, typer.Option("--work", help="Only this work; may be repeated.")]
Output = Annotated[Path | None, typer.Option(help="Write the report as JSON, for `compare`.", metavar="FILE.json")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: CUDA where there is a device.")]
ProfileOption = Annotated[
    bool,
    typer.Option("--profile", help="On CUDA: the kernels that take longest, and the shares of products and attention."),
]
Figure = Annotated[Path | None, typer.Option(help="Draw it, as PNG and as SVG.", metavar="FILE.png")]


@app.command(
    "inference",
    epilog="""Examples:

    modernbert bench inference

    modernbert bench inference --dtype fp32 --threads 1 --work "8 x 512" --json

    modernbert bench inference --model output/demo/run/final --peer all --output new.json --figure new.png

    modernbert bench inference --published --documents 64 --work "512 fixed" --work "512 variable"

    modernbert bench inference --device cuda --peer all --profile --output gpu.json""",
)
def bench_inference(
    model: Model = "base",
    dtype: Dtype = "bf16",
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each work.")] = 5,
    work: Works = None,
    published: Annotated[bool, typer.Option("--published", help="Also the four sets of the paper.")] = False,
    documents: Annotated[int, typer.Option(help="Documents of each of these sets; the paper has 8,192.")] = 16,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Beside transformers: transformers-compiled, sentence-transformers, onnxruntime, openvino, or all; "
            "on CUDA transformers-compiled and packed-encoders; may be repeated."
        ),
    ] = None,
    device: Device = "cpu",
    profile: ProfileOption = False,
    output: Output = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Encode batches, alternating with transformers and other peers. Outputs are compared before anything is timed."""
    from modernbert.bench.cuda import select_target
    from modernbert.bench.cuda_inference import bench_cuda_inference
    from modernbert.bench.figure import draw_report, figure_paths
    from modernbert.bench.inference import bench_inference as measure
    from modernbert.bench.report import write_report

    if figure is not None:
        figure_paths(figure)
    target = select_target(device)
    sets = documents if published else None
    if target is None:
        refuse_profile(profile)
        report = measure(model, dtype, threads, rounds, work or (), peer or (), sets)
    else:
        report = bench_cuda_inference(
            model, dtype, rounds, target, work or (), peer or (), sets, profiled=profile, on_result=kept_in(output)
        )
    if output is not None:
        write_report(report, output)
    if figure is not None:
        draw_report(report, figure)
    print_report(report, as_json)


@app.command(
    "training",
    epilog="""Examples:

    modernbert bench training

    modernbert bench training --model base --threads 1 --work "4 x 1024" --rounds 3

    modernbert bench training --dtype fp32 --json --figure training.png

    modernbert bench training --model base --device cuda --profile""",
)
def bench_training(
    model: Model = "mini",
    dtype: Annotated[str, typer.Option(help="bf16 (autocast) or fp32.")] = "bf16",
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each work.")] = 7,
    work: Works = None,
    device: Device = "cpu",
    profile: ProfileOption = False,
    output: Output = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Masked-LM training steps, alternating with transformers. Gradients are compared before anything is timed."""
    from modernbert.bench.cuda import select_target
    from modernbert.bench.cuda_training import bench_cuda_training
    from modernbert.bench.figure import draw_report, figure_paths
    from modernbert.bench.report import write_report
    from modernbert.bench.training import bench_training as measure

    if figure is not None:
        figure_paths(figure)
    target = select_target(device)
    if target is None:
        refuse_profile(profile)
        report = measure(model, dtype, threads, rounds, work or ())
    else:
        report = bench_cuda_training(
            model, dtype, rounds, target, work or (), profiled=profile, on_result=kept_in(output)
        )
    if output is not None:
        write_report(report, output)
    if figure is not None:
        draw_report(report, figure)
    print_report(report, as_json)


@app.command(
    "finetune",
    epilog="""Examples:

    modernbert bench finetune recipes/tasks/sst-2.toml model=output/mini/run/final seeds=[0,1,2]

    modernbert bench finetune texts.toml training.epochs=1 machine.precision=fp32 --threads 2 --json""",
)
def bench_finetune(
    recipe: Labelled,
    overrides: Overrides = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Fine-tune beside the Trainer of transformers: quality over the seeds of a recipe, and the time of an epoch."""
    from modernbert.bench.finetuning import bench_finetuning as measure
    from modernbert.train.finetune_recipe import read_recipe

    report = measure(read_recipe(recipe, overrides or ()), threads)
    if report is None:
        raise typer.Exit(130)
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, f"{report.dtype}, threads: {report.threads}", report.machine)
    names = list(report.summaries[0].metrics)
    print_table(
        ("contestant", *(name.replace("_", " ") for name in names), "seconds an epoch", "speed"),
        (
            (
                summary.contestant,
                *(_with_deviation(*summary.metrics[name]) for name in names),
                f"{summary.seconds_per_epoch:.1f}",
                f"{summary.speed:.2f} x",
            )
            for summary in report.summaries
        ),
    )
    seeds = len(report.runs) // len(report.summaries)
    typer.echo(f"\n{report.examples:,} examples of {report.tokens:,} tokens in an epoch; seeds: {seeds}")


@app.command(
    "contrastive",
    epilog="""Examples:

    modernbert mine output/retrieval/cranfield --first 5 --output triples.jsonl

    modernbert bench contrastive output/retrieval/dense triples.jsonl

    modernbert bench contrastive output/retrieval/dense triples.jsonl --pairs 64 --threads 1 --json""",
)
def bench_contrastive_(
    model: Annotated[str, typer.Argument(help="The folder of an encoder or embedder.")],
    triples: Annotated[str, typer.Argument(help="A file with query, positive and negative.")],
    pairs: Annotated[int, typer.Option(help="Queries of the step.")] = 128,
    max_length: Annotated[int, typer.Option(help="Tokens of a text.")] = 128,
    mini_batch: Annotated[int, typer.Option(help="Sequences that sentence-transformers embeds at once.")] = 16,
    tokens_at_once: Annotated[int, typer.Option(help="Tokens that this package embeds at once.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Counted steps of each.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Of torch. [default: all]")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    as_json: Json = False,
) -> None:
    """A cached contrastive step (GradCache) beside that of sentence-transformers, with the same gradients."""
    from modernbert.bench.contrastive import bench_contrastive
    from modernbert.bench.report import write_report

    report = bench_contrastive(
        model, triples, pairs=pairs, max_length=max_length, mini_batch=mini_batch, tokens_at_once=tokens_at_once,
        rounds=rounds, threads=threads,
    )  # fmt: skip
    if output is not None:
        write_report(report, output)
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, f"fp32, threads: {report.threads}", report.machine)
    typer.echo(f"{report.pairs} pairs with a negative, {report.tokens:,} tokens\n")
    print_table(
        ("engine", "pairs/s: median (range)", "ratio", "peak memory", "loss", "error of gradients"),
        [
            (
                one.engine,
                f"{one.pairs_per_second.median:.2f} ({one.pairs_per_second.slowest:.2f} to "
                f"{one.pairs_per_second.fastest:.2f})",
                f"{one.ratio:.2f} x",
                "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:,.0f} MiB",
                f"{one.loss:.5f}",
                "" if one.gradient_error is None else f"{one.gradient_error:.1e}",
            )
            for one in report.steps
        ],
    )


@app.command(
    "scaling",
    epilog="""Examples:

    modernbert bench scaling

    modernbert bench scaling --threads 1 --threads 4 --length 128 --length 8192 --output scaling.json

    modernbert bench scaling --dtype fp32 --rounds 5 --figure scaling.png""",
)
def bench_scaling(
    model: Model = "base",
    dtype: Dtype = "bf16",
    threads: Annotated[
        list[int] | None, typer.Option(help="Only so many; may be repeated. Otherwise 1, 2, 4 ... and all.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Only so many tokens; may be repeated. Otherwise 16, 32 ... 8,192.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each length.")] = 3,
    device: Device = "cpu",
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Cost of a token as sequences grow and threads are added, alternating with transformers."""
    from modernbert.bench.cuda import select_target
    from modernbert.bench.cuda_inference import bench_cuda_scaling
    from modernbert.bench.figure import draw_scaling, figure_paths
    from modernbert.bench.report import write_report
    from modernbert.bench.scaling import bench_scaling as measure
    from modernbert.errors import ConfigError

    if figure is not None:
        figure_paths(figure)
    target = select_target(device)
    if target is not None and threads:
        raise ConfigError("A CUDA device has no threads to scale by; leave --threads out.")
    if target is None:
        report = measure(model, dtype, rounds, threads or (), length or ())
    else:
        report = bench_cuda_scaling(model, dtype, rounds, target, length or ())
    if output is not None:
        write_report(report, output)
    if figure is not None:
        draw_scaling(report, figure)
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, report.dtype, report.machine)
    typer.echo(
        "| tokens | threads | contestant | microseconds a token: median (range) | error |\n|---|---|---|---|---|"
    )
    for point in report.points:
        cost = point.cost
        shown = f"{cost.median:,.1f} ({cost.lowest:,.1f} to {cost.highest:,.1f})" if cost else "not ranked"
        error = "not finite" if point.error is None else f"{point.error:.1e}"
        typer.echo(f"| {point.tokens:,} | {point.threads} | {point.contestant} | {shown} | {error} |")


@app.command(
    "loop",
    epilog="""Examples:

    modernbert bench loop --model 28m --device cuda

    modernbert bench loop --model tiny --seconds 5 --json""",
)
def bench_loop(
    model: Annotated[str, typer.Option(help="The preset that is trained: base, large, 28m, mini or tiny.")] = "28m",
    device: Device = "cpu",
    seconds: Annotated[float, typer.Option(help="About how long the run takes, its start left out.")] = 10.0,
    steps: Annotated[int | None, typer.Option(help="Updates of the run, instead.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    as_json: Json = False,
) -> None:
    """A `pretrain` run on random tokens beside its bare step: how much of the speed the loop keeps."""
    from modernbert.bench.cuda import select_target
    from modernbert.bench.loop import bench_loop as measure
    from modernbert.bench.report import write_report

    target = select_target(device)
    on_cuda = target is not None and not target.dry
    found = measure(model, "cuda" if on_cuda else "cpu", target, seconds, steps)
    if output is not None:
        write_report(found, output)
    print_rendered(asdict(found), as_json)


@app.command(
    "attention",
    epilog="""Examples:

    modernbert bench attention

    modernbert bench attention --length 1024 --length 8192 --json""",
)
def bench_attention(
    device: Annotated[str, typer.Option(help="cuda, or auto.")] = "cuda",
    length: Annotated[list[int] | None, typer.Option(help="Only this length; may be repeated.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens at once; 65,536 unless given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    as_json: Json = False,
) -> None:
    """Each attention backend of a CUDA device: forward and backward, global and in windows, by length."""
    from modernbert.bench.attention import bench_attention as measure
    from modernbert.bench.cuda import required_target
    from modernbert.bench.report import write_report

    found = measure(required_target(device), length or (), tokens)
    if output is not None:
        write_report(found, output)
    print_rendered(asdict(found), as_json)


@app.command(
    "ceilings",
    epilog="""Examples:

    modernbert bench ceilings

    modernbert bench ceilings --model large --tokens 57344 --json""",
)
def bench_ceilings(
    model: Model = "base",
    tokens: Annotated[int, typer.Option(help="Tokens of a batch.")] = 98_304,
    device: Annotated[str, typer.Option(help="cuda, or auto.")] = "cuda",
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")] = None,
    as_json: Json = False,
) -> None:
    """What a CUDA device reaches at most: bf16 products, square and at a model's shapes, and copies."""
    from modernbert.bench.cuda import bench_ceilings as measure
    from modernbert.bench.cuda import required_target
    from modernbert.bench.report import write_report

    found = measure(model, tokens, required_target(device))
    if output is not None:
        write_report(found, output)
    print_rendered(asdict(found), as_json)


@app.command(
    "gpu-report",
    epilog="""Examples:

    modernbert bench gpu-report output/gpu/gpu.json

    modernbert bench gpu-report output/gpu/gpu.json --page docs/benchmarks/gpu.md""",
)
def bench_gpu_report(
    results: Annotated[Path, typer.Argument(help="What runs/gpu.sh wrote, a report, or a folder of them.")],
    page: Annotated[Path | None, typer.Option(help="Put the tables into this page.", metavar="PAGE.md")] = None,
    merged: Annotated[Path | None, typer.Option(help="Write all reports as one file.", metavar="FILE.json")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out kernels and scaling.")] = False,
) -> None:
    """The tables of a run on a GPU machine, as Markdown."""
    from modernbert.bench.gpu_report import read_results, render, update_page, write_results

    found = read_results(results)
    if merged is not None:
        write_results(found, merged)
    if page is not None:
        update_page(page, render(found))
    typer.echo(render(found, brief=brief), nl=False)


@app.command(
    "compare",
    epilog="""Examples:

    modernbert bench compare old.json new.json

    modernbert bench compare old.json new.json --tolerance 0.05 --json""",
)
def bench_compare(
    old: Annotated[Path, typer.Argument(help="A report that --output wrote.", metavar="OLD.json")],
    new: Annotated[Path, typer.Argument(help="A later one.", metavar="NEW.json")],
    tolerance: Annotated[float, typer.Option(help="The part that a ratio may fall by.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Whether anything got slower beside transformers: exit status 1 if a ratio fell. Compares ratios, not seconds."""
    from modernbert.bench.report import compare_reports, read_report

    found = compare_reports(read_report(old), read_report(new), tolerance)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo("| work | contestant | before | after | |\n|---|---|---|---|---|")
        for change in found.changes:
            after = "not ranked" if change.after is None else f"{change.after:.2f} x"
            verdict = "slower" if change.slower else ""
            typer.echo(f"| {change.work} | {change.contestant} | {change.before:.2f} x | {after} | {verdict} |")
    if found.not_compared:
        typer.echo(f"In one report only, not compared: {'; '.join(found.not_compared)}.", err=True)
    if found.slower:
        typer.echo(f"Slower than before by more than {tolerance:.0%}: {'; '.join(found.slower)}.", err=True)
        raise typer.Exit(1)


@app.command(
    "precision",
    epilog="""Examples:

    modernbert bench precision output/mini/run/final news.jsonl.gz

    modernbert bench precision answerdotai/ModernBERT-base texts/ --limit 1000 --json""",
)
def bench_precision(
    model: Annotated[str, typer.Argument(help="A masked-LM folder or hub id.")],
    corpus: Corpus,
    limit: Annotated[int, typer.Option(help="Texts at most.")] = 256,
    length: Annotated[int, typer.Option(help="Tokens that are read of each text.")] = 512,
    as_json: Json = False,
) -> None:
    """What bf16 and int8 cost a trained model on real text: masked-LM loss, and how far embeddings turn."""
    from modernbert.bench.precision import bench_precision as measure
    from modernbert.text.documents import read_texts

    found = measure(model, read_texts(corpus, "text"), limit=limit, length=length)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(f"{found.model}: {found.texts:,} texts, {found.tokens:,} tokens, {found.masked:,} masked\n")
    typer.echo("| linear layers in | loss, nats | accuracy | cosine to fp32: mean | lowest |\n|---|---|---|---|---|")
    for form in found.forms:
        cosines = f"{form.mean_cosine:.5f} | {form.lowest_cosine:.5f}"
        typer.echo(f"| {form.name} | {form.loss:.4f} | {form.accuracy:.2%} | {cosines} |")


@app.command(
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
        print_json(found)
        return
    for name, peak in found.items():
        typer.echo(f"{name:<12} {peak / 2**20:,.0f} MiB")


@app.command(
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
        print_json(report)
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


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def refuse_profile(profile: bool) -> None:
    """--profile is for CUDA.

    Raises:
        ConfigError: it is given.
    """
    from modernbert.errors import ConfigError

    if profile:
        raise ConfigError("--profile shows the kernels of a CUDA device; add --device cuda, or leave it out.")


def kept_in(output: Path | None) -> Callable[["Report"], None]:
    """What writes a report that is not complete yet: a benchmark that is stopped keeps what it measured."""
    from modernbert.bench.report import write_report

    return lambda report: None if output is None else write_report(report, output)


def print_rendered(report: dict[str, Any], as_json: bool) -> None:
    """A report of a CUDA device as JSON or as Markdown."""
    from modernbert.bench.gpu_report import render

    if as_json:
        print_json(report)
    else:
        typer.echo(render({str(report["benchmark"]): report}), nl=False)


def print_machine(model: str, dtype: str, machine: Mapping[str, str]) -> None:
    typer.echo(f"{model}, {dtype}. {', '.join(f'{name} {value}' for name, value in machine.items())}\n")


def print_report(report: "Report", as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    print_machine(report.model, f"{report.dtype}, threads: {report.threads}", report.machine)
    columns = (
        "work", "real tokens", "contestant", "real tokens/s: median (range)", "ratio", "of the floor", "error",
        "peak memory",
    )  # fmt: skip
    typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in report.results:
        scaled = f" ({result.documents:,} of {result.of_documents:,} documents)" if result.of_documents else ""
        for entry in result.entries:
            speed = entry.tokens_per_second
            cells = [
                result.work + scaled,
                f"{result.tokens:,}",
                entry.contestant + (f", {entry.computes}" if entry.computes != report.dtype else ""),
                f"{speed.median:,.0f} ({speed.slowest:,.0f} to {speed.fastest:,.0f})" if speed else "not ranked",
                "" if entry.ratio is None else f"{entry.ratio:.2f} x",
                "" if entry.share_of_floor is None else f"{entry.share_of_floor:.0%}",
                entry.failure or "" if entry.error is None else f"{entry.error:.1e}",
                "" if entry.peak_bytes is None else f"{entry.peak_bytes / 2**20:,.0f} MiB",
            ]
            typer.echo(f"| {' | '.join(cells)} |")
    typer.echo("")
    for result in report.results:
        rate = result.matrix_flops_per_second
        typer.echo(
            f"{result.work}: {result.flops / 1e9:,.2f} GFLOP; matrix products alone ran at {rate.median / 1e9:,.0f} "
            f"GFLOP/s ({rate.slowest / 1e9:,.0f} to {rate.fastest / 1e9:,.0f})"
        )
    for name, reason in report.missing.items():
        typer.echo(f"Not measured: {name}, {reason}")
    for work, profile in getattr(report, "profiles", {}).items():
        from modernbert.bench.gpu_report import profile_table

        typer.echo("\n" + profile_table(work, asdict(profile)))
