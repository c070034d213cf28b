"""Shards of vectors computed by several processes, Slurm jobs or Ray tasks, with the executors of the corpus package.

It needs datatrove.
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
from modernbert.search.embed_file import SHARD_ROWS, read_rows, write_shards


class Cluster(Config):
    """The executor of the shards, and the number of workers; the keys are those of a corpus recipe."""

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
    """One task, which computes its share of the shards."""

    name = "embed"
    type = "vectors"

    def __init__(self, parts: Path, file: Path, model: str, settings: dict[str, Any], device: str) -> None:
        super().__init__()
        self.arguments = (parts, file, model, settings, device)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Compute the shards of this rank."""
        write_shards(*self.arguments, rank, world_size)
        yield from ()


def run_on_machines(
    parts: Path, file: Path, model: str, settings: dict[str, Any], device: str, machines: Machines
) -> None:
    """Compute all shards with one task for each worker.

    Raises:
        DataError: a task failed, or the executor is not available.
    """
    shards = -(-sum(1 for _ in read_rows(file, settings["text_key"])) // SHARD_ROWS)
    tasks = max(1, min(machines.workers, shards))
    step = EmbedStep(parts.resolve(), file.resolve(), model, settings, device)
    with executors.session(machines):
        executors.run(machines, "embed", [step], tasks, parts.resolve() / f"logs-{tasks}")
