"""Shards of vectors made by several processes, jobs of Slurm or tasks of Ray, with the executors of the corpus.

Imported only where datatrove is installed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from datatrove.pipeline.base import PipelineStep
from pydantic import PositiveInt, model_validator

from modernbert.config import Config
from modernbert.corpus import executors
from modernbert.corpus.executors import Machines
from modernbert.corpus.recipe import Executor, Ray, Slurm
from modernbert.search.embed_file import ROWS_AT_ONCE, read_rows, write_shards


class Cluster(Config):
    """Where shards are made, and how many at once; the keys are those of a corpus recipe."""

    executor: Executor = "local"
    workers: PositiveInt = 2
    slurm: Slurm | None = None
    ray: Ray = Ray()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.executor == "slurm" and self.slurm is None:
            raise ValueError("the executor slurm needs a partition: --on slurm.partition=NAME")
        return self


class EmbedStep(PipelineStep):  # type: ignore[misc]
    """One task: its share of the shards."""

    name = "embed"
    type = "vectors"

    def __init__(self, parts: Path, file: Path, model: str, settings: dict[str, Any], device: str) -> None:
        super().__init__()
        self.given = (parts, file, model, settings, device)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Make the shards of this rank."""
        write_shards(*self.given, rank, world_size)
        yield from ()


def run_on_machines(
    parts: Path, file: Path, model: str, settings: dict[str, Any], device: str, machines: Machines
) -> None:
    """Make all shards, each by one of as many tasks as there are workers.

    Raises:
        DataError: a task failed, or the executor is not there.
    """
    shards = -(-sum(1 for _ in read_rows(file, settings["text_key"])) // ROWS_AT_ONCE)
    tasks = max(1, min(machines.workers, shards))
    step = EmbedStep(parts.resolve(), file.resolve(), model, settings, device)
    with executors.session(machines):
        executors.run(machines, "embed", [step], tasks, parts.resolve() / f"logs-{tasks}")
