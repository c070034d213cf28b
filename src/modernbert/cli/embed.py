"""The command `modernbert embed`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modernbert.cli.console import Json, print_record
from modernbert.errors import ConfigError
from modernbert.installation import install_command

if TYPE_CHECKING:
    from modernbert.search.embed_on_machines import Cluster

app = typer.Typer()


@app.command(
    epilog="""Examples:

    modernbert embed texts.jsonl --model output/embedder --output vectors.npy

    modernbert embed texts.parquet --model output/embedder --output vectors.parquet --precision int8"""
)
def embed(
    file: Annotated[
        Path, typer.Argument(help="A file with one text per line, or JSON lines, JSON, CSV, TSV, Parquet.")
    ],
    model: Annotated[str, typer.Option(help="A folder or hub id.")],
    output: Annotated[Path, typer.Option(help="vectors.npy, or vectors.parquet with id and vector.")],
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
    partition: Annotated[str | None, typer.Option(help="Partition of Slurm.")] = None,
    as_json: Json = False,
) -> None:
    """Write a vector for each text of a file. The same command resumes a stopped run."""
    from modernbert.search.embed_file import embed_file

    report = embed_file(
        file, model, output, text_key=text_key, prompt_name=prompt_name, truncate_dim=truncate_dim,
        normalize=normalize, precision=precision,  # type: ignore[arg-type]
        chunk=chunk, device=device, int8=int8, machines=_machines(executor, workers, partition),
    )  # fmt: skip
    print_record(report, as_json)


def _machines(executor: str, workers: int, partition: str | None) -> "Cluster | None":
    """Where shards are computed, if not in this process."""
    if executor not in ("local", "slurm", "ray"):
        raise ConfigError(f"There is no executor {executor!r}; choose local, slurm or ray.")
    if (executor == "slurm") != (partition is not None):
        raise ConfigError("--executor slurm and --partition go together.")
    if executor == "local" and workers == 1:
        return None
    try:
        from modernbert.corpus.recipe import Slurm
        from modernbert.search.embed_on_machines import Cluster
    except ImportError:
        raise ConfigError(f"Several workers need datatrove: {install_command('corpus')}.") from None
    return Cluster(executor, workers, slurm=Slurm(partition=partition) if partition else None)  # type: ignore[arg-type]
