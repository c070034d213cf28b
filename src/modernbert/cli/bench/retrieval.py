"""`modernbert bench embed`, `rerank` and `maxsim`: compared with sentence-transformers on the same input."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from modernbert.cli.console import Json, print_json, print_table

if TYPE_CHECKING:
    from modernbert.bench.retrieval import EnginePrecision, RetrievalReport

app = typer.Typer()

_Model = Annotated[str, typer.Option(help="A model folder that sentence-transformers can load.")]
_Engine = Annotated[list[str] | None, typer.Option("--engine", help="fp32, bf16 or int8; may be repeated.")]
_Threads = Annotated[int | None, typer.Option(help="Number of threads of both engines. [default: all]")]
_Rounds = Annotated[int, typer.Option(help="Timed rounds.")]
_Limit = Annotated[int | None, typer.Option(min=1, help="Maximum number of texts.")]
_MaxLength = Annotated[int | None, typer.Option(help="Maximum tokens of a text. [default: the model's]")]
_Key = Annotated[str, typer.Option(help="The column or JSON key of the text.")]


@app.command(
    epilog="""Examples:

    modernbert bench embed articles.jsonl --model output/embedder --limit 200 --max-length 512"""
)
def embed(
    file: Annotated[Path, typer.Argument(help="A file with one text per line, a table, or JSON.")],
    model: _Model,
    engine: _Engine = None,
    threads: _Threads = None,
    rounds: _Rounds = 3,
    limit: _Limit = None,
    max_length: _MaxLength = None,
    text_key: _Key = "text",
    as_json: Json = False,
) -> None:
    """Compare embedding with sentence-transformers: first the vectors, then the speed."""
    from modernbert.bench.retrieval import bench_embed

    texts = _texts(file, text_key, limit)
    _print(bench_embed(model, texts, _engines(engine), threads, rounds, max_length), as_json)


@app.command(
    epilog="""Examples:

    modernbert bench rerank "how do I reset it" documents.jsonl --model output/reranker"""
)
def rerank(
    query: Annotated[str, typer.Argument(help="The query.")],
    file: Annotated[Path, typer.Argument(help="A file with one document per line, a table, or JSON.")],
    model: _Model,
    engine: _Engine = None,
    threads: _Threads = None,
    rounds: _Rounds = 3,
    limit: _Limit = None,
    max_length: _MaxLength = None,
    text_key: _Key = "text",
    as_json: Json = False,
) -> None:
    """Compare reranking with sentence-transformers: first the scores, then the speed."""
    from modernbert.bench.retrieval import bench_rerank

    texts = _texts(file, text_key, limit)
    _print(bench_rerank(model, query, texts, _engines(engine), threads, rounds, max_length), as_json)


@app.command(
    epilog="""Examples:

    modernbert bench maxsim

    modernbert bench maxsim --tokens 1000000 --threads 1"""
)
def maxsim(
    tokens: Annotated[int, typer.Option(min=1, help="Vectors of all documents.")] = 100_000,
    threads: _Threads = None,
    rounds: _Rounds = 15,
    as_json: Json = False,
) -> None:
    """Compare late-interaction scores of a query with sentence-transformers, and with the products alone."""
    from modernbert.bench.maxsim import PEER, bench_maxsim

    report = bench_maxsim(tokens, threads, rounds)
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(
        f"a query of {report.query_tokens} vectors, {report.documents:,} documents with {report.document_tokens:,} "
        f"vectors of {report.dimensions} dimensions in fp32, threads: {report.threads}"
    )
    base = report.milliseconds[PEER]
    rows = [(name, f"{each:.2f}", f"{base / each:.2f} x") for name, each in report.milliseconds.items()]
    print_table(("", "milliseconds", "speedup"), rows)


def _engines(given: list[str] | None) -> "list[EnginePrecision]":
    from modernbert.errors import ConfigError

    for name in given or ():
        if name not in ("fp32", "bf16", "int8"):
            raise ConfigError(f"There is no engine {name!r}; choose fp32, bf16 or int8.")
    return cast("list[EnginePrecision]", given or ["fp32", "int8"])


def _texts(file: Path, text_key: str, limit: int | None) -> list[str]:
    from itertools import islice

    from modernbert.search.embed_file import read_rows

    return [row.text for row in islice(read_rows(file, text_key), limit)]


def _print(report: "RetrievalReport", as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(f"{report.model}: {report.texts:,} texts, {report.tokens:,} tokens, {report.threads} threads")
    print_table(
        ("engine", "texts/s", "tokens/s", "speedup", "of the roofline", "error", "lowest cosine", "memory"),
        [
            (
                one.engine,
                f"{one.texts_per_second:,.1f}",
                f"{one.tokens_per_second:,.0f}",
                f"{one.speedup:.2f} x",
                "" if one.roofline_fraction is None else f"{one.roofline_fraction:.0%}",
                f"{one.error:.1e}",
                "" if one.least_cosine is None else f"{one.least_cosine:.5f}",
                "" if one.memory_bytes is None else f"{one.memory_bytes / 2**20:,.0f} MiB",
            )
            for one in report.engines
        ],
    )
