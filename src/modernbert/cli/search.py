"""Commands that find texts: build an index, search it, rerank documents."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import typer
from typer.core import TyperGroup

from modernbert.cli.console import Json, print_json, texts_of
from modernbert.errors import ConfigError, DataError

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Linear layers in int8, on a CPU.")]


class _QueriesByDefault(TyperGroup):
    """`search INDEX QUERY...` is `search query INDEX QUERY...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["query", *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
search_app = typer.Typer(
    cls=_QueriesByDefault,
    no_args_is_help=True,
    help="Build an index of texts, and search it.",
    epilog="""Examples:

    modernbert search index notes/ --model output/embedder --output notes.index

    modernbert search notes.index "how long does the battery last\"""",
)
app.add_typer(search_app, name="search")


@search_app.command(
    "index",
    epilog="""Examples:

    modernbert search index notes/ --model output/embedder --output notes.index

    modernbert search index corpus.jsonl --output words.index""",
)
def index(
    sources: Annotated[list[str], typer.Argument(help="Folders, or files: text, JSON lines, JSON, CSV, TSV, Parquet.")],
    output: Annotated[Path, typer.Option(help="The folder of the index; a stopped build resumes.")],
    model: Annotated[str | None, typer.Option(help="An embedder with one vector per text.")] = None,
    sparse_model: Annotated[str | None, typer.Option(help="A SPLADE model.")] = None,
    late_model: Annotated[str | None, typer.Option(help="A late-interaction model (ColBERT).")] = None,
    bm25: Annotated[bool, typer.Option(help="Also index words for BM25.")] = True,
    text_key: Annotated[str, typer.Option(help="The column or JSON key of the text.")] = "text",
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens of a passage. [default: 256]")] = None,
    overlap_tokens: Annotated[int | None, typer.Option(help="Tokens shared by neighbouring passages.")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Also build a graph of dense vectors, for millions of passages.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing index.")] = False,
    device: Device = "auto",
    int8: Int8 = False,
    as_json: Json = False,
) -> None:
    """Split texts into passages and build an index of them."""
    from modernbert.search.build import Models, build_index

    manifest = build_index(
        sources, output, Models(model, sparse_model, late_model, bm25), text_key=text_key, chunk_tokens=chunk_tokens,
        overlap_tokens=overlap_tokens, device=device, int8=int8, approximate=approximate, overwrite=overwrite,
    )  # fmt: skip
    if as_json:
        print_json(manifest)
        return
    stages = [*manifest["models"], *(["bm25"] if manifest["bm25"] else [])]
    typer.echo(f"{output}: {manifest['passages']:,} passages, {', '.join(stages)}")


@search_app.command(
    "query",
    epilog="""Examples:

    modernbert search query notes.index "how long does the battery last"

    modernbert search query notes.index --file queries.txt --method hybrid --reranker output/reranker --json""",
)
def query(
    index: Annotated[Path, typer.Argument(help="A folder that `modernbert search index` wrote.")],
    queries: Annotated[list[str] | None, typer.Argument(help="Queries; - reads lines from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with one query per line.")] = None,
    method: Annotated[str, typer.Option(help="auto, hybrid, dense, sparse, late or bm25.")] = "auto",
    top_k: Annotated[int, typer.Option(min=1, help="Passages shown for each query.")] = 5,
    reranker: Annotated[str | None, typer.Option(help="A cross-encoder that reranks the best passages.")] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Number of passages from each stage, and for the reranker.")
    ] = 100,
    fusion: Annotated[
        str, typer.Option(help="How a hybrid is computed: rrf (reciprocal ranks) or scores (scaled scores).")
    ] = "rrf",
    bm25_weight: Annotated[float, typer.Option(help="Weight of BM25 in a hybrid; other stages have 1.")] = 1.0,
    first_stage_weight: Annotated[
        float, typer.Option(help="Weight of the scores before reranking; the reranker has 1.")
    ] = 0.0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the best passages for queries."""
    query_texts = [one for one in texts_of(queries or [], file) if one.strip()]
    from modernbert.search.index import Index
    from modernbert.search.stages import Method
    from modernbert.tasks.ranking.fusion import fusion_named
    from modernbert.tasks.rerank import Reranker

    if method not in ("auto", "hybrid", *get_args(Method)):
        raise ConfigError(f"There is no method {method!r}; choose auto, hybrid, {', '.join(get_args(Method))}.")
    opened = Index.open(index, device)
    orders = None if reranker is None else Reranker.from_pretrained(reranker, device=device)
    found = opened.search(
        query_texts,
        cast(Method | Literal["hybrid", "auto"], method),
        top_k=top_k,
        reranker=orders,
        candidates=candidates,
        fusion=fusion_named(fusion),
        bm25_weight=bm25_weight,
        first_stage_weight=first_stage_weight,
    )
    if as_json:
        print_json(
            [
                {"query": one, "hits": [asdict(hit) for hit in hits]}
                for one, hits in zip(query_texts, found, strict=True)
            ]
        )
        return
    for one, hits in zip(query_texts, found, strict=True):
        typer.echo(one)
        for hit in hits:
            typer.echo(f"  {hit.rank}. {hit.score:.4f}  {hit.passage.source}")
            typer.echo(f"     {_shorten(hit.passage.text)}")
        if not hits:
            typer.echo("  nothing")


@app.command(
    epilog="""Examples:

    modernbert rerank "how do I reset the device" manual.txt --model output/reranker

    modernbert rerank "返品の方法" documents.jsonl --model output/reranker --top-k 3 --json"""
)
def rerank(
    query: Annotated[str, typer.Argument(help="The query.")],
    file: Annotated[
        Path, typer.Argument(help="A file with one document per line, or a table or JSON with the column text.")
    ],
    model: Annotated[str, typer.Option(help="A cross-encoder: a folder or hub id.")],
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the best documents.")] = None,
    text_key: Annotated[str, typer.Option(help="The column or JSON key of the text.")] = "text",
    chunk: Annotated[str | None, typer.Option(help="Score of a long document: best or mean of its chunks.")] = None,
    device: Device = "auto",
    int8: Int8 = False,
    as_json: Json = False,
) -> None:
    """Sort documents by their relevance to a query."""
    from modernbert.search.embed_file import read_rows
    from modernbert.tasks.rerank import Reranker

    if chunk not in (None, "best", "mean"):
        raise ConfigError(f"--chunk is {chunk!r}; choose best or mean.")
    documents = [row.text for row in read_rows(file, text_key)]
    if not documents:
        raise DataError(f"{file} has no document; give a file with at least one.")
    ranker = Reranker.from_pretrained(model, device=device, int8=int8)
    ranked = ranker.rank(query, documents, top_k=top_k, return_documents=True, chunk=chunk or False)
    if as_json:
        print_json(ranked)
        return
    for one in ranked:
        typer.echo(f"{one['score']:9.4f}  {one['corpus_id'] + 1}  {_shorten(one['text'])}")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
