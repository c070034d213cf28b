"""The command `modernbert embed`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modernbert.cli.console import Json, print_record
from modernbert.config import parse
from modernbert.errors import ConfigError
from modernbert.installation import install_command

if TYPE_CHECKING:
    from modernbert.search.embed_on_machines import Cluster

app = typer.Typer()


@app.command(
    epilog="""Examples:

    modernbert embed texts.jsonl --model output/embedder --output vectors.npy

    modernbert embed texts.parquet --model output/embedder --output vectors.parquet --precision int8

    modernbert embed texts.jsonl --model output/embedder --to lancedb:texts.lance#passages

    modernbert embed texts.jsonl --model M --output v.npy --executor slurm --workers 16 --on slurm.partition=cpu"""
)
def embed(
    file: Annotated[
        Path, typer.Argument(help="A file with one text per line, or JSON lines, JSON, CSV, TSV, Parquet.")
    ],
    model: Annotated[str, typer.Option(help="A folder or hub id.")],
    output: Annotated[Path | None, typer.Option(help="vectors.npy, or vectors.parquet with id and vector.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="DATABASE#TABLE", help="A table of LanceDB, PostgreSQL or Qdrant.")
    ] = None,
    qdrant_api_key: Annotated[str | None, typer.Option(envvar="QDRANT_API_KEY", show_envvar=True)] = None,
    text_key: Annotated[str, typer.Option(help="The column or JSON key of the text.")] = "text",
    prompt_name: Annotated[
        str | None, typer.Option(help="Name of the model's prompt. [default: that of documents]")
    ] = None,
    truncate_dim: Annotated[int | None, typer.Option(min=1, help="Keep only this number of dimensions.")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Give each vector unit length.")] = False,
    precision: Annotated[str, typer.Option(help="float32, int8, uint8, binary or ubinary.")] = "float32",
    chunk: Annotated[
        bool, typer.Option("--chunk", help="Split long texts into chunks and average their vectors.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in int8, on a CPU.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes, jobs or tasks.")] = 1,
    executor: Annotated[str, typer.Option(help="Where workers run: local, slurm or ray.")] = "local",
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Settings of Slurm or Ray, as in a corpus recipe."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a vector for each text of a file, into a file or a database. The same command resumes a stopped run."""
    from modernbert.search.embed_file import embed_file

    report = embed_file(
        file, model, output, to=to, key=qdrant_api_key, text_key=text_key, prompt_name=prompt_name,
        truncate_dim=truncate_dim, normalize=normalize, precision=precision,  # type: ignore[arg-type]
        chunk=chunk, device=device, int8=int8, machines=_machines(executor, workers, on or []),
    )  # fmt: skip
    print_record(report, as_json)


def _machines(executor: str, workers: int, needs: list[str]) -> "Cluster | None":
    """The workers that compute shards; None for this process."""
    if executor == "local" and workers == 1 and not needs:
        return None
    try:
        from modernbert.search.embed_on_machines import Cluster
    except ImportError:
        raise ConfigError(f"Several workers need datatrove: {install_command('corpus')}.") from None
    return parse(Cluster, {"executor": executor, "workers": workers}, "modernbert embed", needs)
