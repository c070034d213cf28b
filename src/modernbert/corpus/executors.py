"""datatrove's local, Slurm and Ray executors, without their logs, stopping at the first error.

This module needs datatrove. All executors mark a finished task by the same empty file in the log folder, so one
executor can finish a corpus that another one has started.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger as datatrove_logger

from modernbert.corpus.recipe import Executor, Ray, Slurm
from modernbert.errors import DataError, ModernBertError
from modernbert.installation import install_command

logger = logging.getLogger(__name__)

_RAY_RETRIES = 3  # of a rank whose worker died, as in datatrove


class Machines(Protocol):
    """The part of a recipe that selects the machines."""

    @property
    def executor(self) -> Executor: ...
    @property
    def workers(self) -> int: ...
    @property
    def ray(self) -> Ray: ...
    @property
    def slurm(self) -> Slurm | None: ...


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor without its log on the terminal."""

    def _launch_run_for_rank(self, rank: int, *args: Any, **kwargs: Any) -> Any:
        datatrove_logger.disable("datatrove")  # here, because this runs in the worker process
        return super()._launch_run_for_rank(rank, *args, **kwargs)


class RayExecutor(RayPipelineExecutor):  # type: ignore[misc]
    """One Ray task for each rank, at most `workers` at once.

    The base class forks a process inside a Ray actor. That process may hang, because Ray's threads can hold a lock when
    it is forked. Here the rank runs in the Ray worker itself, which uses the current directory of this process and
    writes errors to a file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.directory = str(Path.cwd())

    def run(self) -> None:
        """Run all unfinished ranks. Ray repeats a rank whose worker was killed; an error of a rank is in its file."""
        import ray

        options = {
            "num_cpus": self.cpus_per_task,
            "memory": round(self.mem_per_cpu_gb * self.cpus_per_task * 2**30),
            "max_retries": _RAY_RETRIES,
        }
        run_rank = ray.remote(**options)(_run_rank_in_ray)
        shared = ray.put(self)
        waiting = self.get_incomplete_ranks()[::-1]
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < self.workers:
                rank = waiting.pop()
                _remove_error(self.logging_dir, rank)
                running[run_rank.remote(shared, rank)] = rank
            [finished], _ = ray.wait(list(running), num_returns=1)
            rank = running.pop(finished)
            try:
                ray.get(finished)
            except ray.exceptions.RayError as error:  # the caller finds the ranks that are not complete
                if not self.logging_dir.isfile(_error_file(rank)):  # the rank did not begin, or its worker died
                    lines = str(error).strip().splitlines()
                    reason = lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]
                    _write_error(self.logging_dir, rank, reason)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        datatrove_logger.disable("datatrove")
        os.chdir(self.directory)
        with _errors_in_file(self.logging_dir, rank):
            return super()._run_for_rank(rank, local_rank, node_rank)


def _run_rank_in_ray(executor: RayExecutor, rank: int) -> None:
    executor._run_for_rank(rank)


class SlurmExecutor(SlurmPipelineExecutor):  # type: ignore[misc]
    """datatrove's Slurm executor, which waits for its job array, so that stages run one after the other."""

    def launch_merge_stats(self) -> None:
        """Do nothing: the statistics of this additional job are not used."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with _errors_in_file(self.logging_dir, rank):
            return super()._run_for_rank(rank, local_rank, node_rank)


@contextmanager
def session(recipe: Machines) -> Iterator[None]:
    """Connect to Ray in the block; do nothing for other executors.

    Raises:
        DataError: Ray is not installed or does not answer.
    """
    datatrove_logger.disable("datatrove")
    if recipe.executor != "ray":
        yield
        return
    try:
        import ray
    except ImportError:
        raise DataError(f"The executor ray needs Ray: {install_command('ray')}.") from None
    if ray.is_initialized():
        yield
        return
    address = (
        recipe.ray.address or os.environ.get("RAY_ADDRESS") or "local"
    )  # None would connect to the Ray of another user
    local_options: dict[str, Any] = (
        {"num_cpus": recipe.workers, "include_dashboard": False} if address == "local" else {}
    )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local_options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].removesuffix(".")
        if address == "local":
            raise DataError(f"Ray does not start on this machine ({reason}).") from None
        raise DataError(f"Ray at {address!r} cannot be reached ({reason}); check ray.address.") from None
    try:
        yield
    finally:
        ray.shutdown()


def run(recipe: Machines, name: str, pipeline: Sequence[PipelineStep], tasks: int, logs: Path) -> None:
    """Run all unfinished tasks of a pipeline, and wait until they are done.

    Raises:
        DataError: a task failed, or Slurm could not be reached.
    """
    shared = {"pipeline": list(pipeline), "tasks": tasks, "logging_dir": str(logs)}
    workers = min(recipe.workers, tasks)
    if recipe.executor == "local":
        LocalExecutor(workers=workers, **shared).run()
        return
    executor: Any
    if recipe.executor == "ray":
        options = {"cpus_per_task": recipe.ray.cpus_per_task}
        options["mem_per_cpu_gb"] = recipe.ray.memory_gb_per_task / recipe.ray.cpus_per_task
        executor = RayExecutor(workers=workers, **shared, **options)
    else:
        assert recipe.slurm is not None
        executor = SlurmExecutor(workers=workers, job_name=name, **shared, **slurm_options(recipe.slurm))
    try:
        executor.run()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        if recipe.executor != "slurm" or "sbatch" not in str(error):
            raise
        if isinstance(error, FileNotFoundError):
            raise DataError("There is no sbatch here; run this on a login node of the cluster.") from None
    missing = executor.get_incomplete_ranks(skip_completed=True)
    if missing:
        raise DataError(
            f"{name}: {len(missing)} of {tasks} tasks failed ({_first_error(logs, missing)}); fix this and give the "
            f"same command again to resume them. Their logs are in {logs}."
        )


def slurm_options(slurm: Slurm) -> dict[str, Any]:
    """The arguments of datatrove's Slurm executor."""
    return {
        **slurm.model_dump(exclude={"env_command", "sbatch_args"}),
        "env_command": slurm.env_command or f"export PATH={Path(sys.executable).parent}:$PATH",
        "sbatch_args": {"wait": "", **slurm.sbatch_args},
    }


@contextmanager
def _errors_in_file(logging_dir: Any, rank: int) -> Iterator[None]:
    """Write the error of a task in another process or on another machine to a file for the caller."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, ModernBertError) else f"{type(error).__name__}: {error}"
        _write_error(logging_dir, rank, reason)
        raise
    _remove_error(logging_dir, rank)


def _write_error(logging_dir: Any, rank: int, reason: str) -> None:
    with logging_dir.open(_error_file(rank), "w") as file:
        file.write(reason)


def _remove_error(logging_dir: Any, rank: int) -> None:
    if logging_dir.isfile(_error_file(rank)):
        logging_dir.rm_file(_error_file(rank))


def _error_file(rank: int) -> str:
    return f"errors/{rank:05d}"


def _first_error(logs: Path, ranks: Sequence[int]) -> str:
    for rank in ranks:
        path = logs / _error_file(rank)
        if path.is_file():
            return path.read_text(encoding="utf-8").strip().removesuffix(".")
    return "no error message was written"
