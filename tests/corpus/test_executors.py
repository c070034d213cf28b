import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from corpora import interrupt_second_task, make_tokenizer
from modernbert.config import parse
from modernbert.corpus import executors
from modernbert.corpus.build import CorpusRecipe, build_corpus
from modernbert.errors import ConfigError, DataError
from slurm import install_slurm

SLURM = {"partition": "cpu", "time": "01:00:00", "mem_per_cpu_gb": 3, "sbatch_args": {"account": "words"}}
RAYS_WARNINGS = pytest.mark.filterwarnings("ignore")  # of its start, and of what datatrove asks of it


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(make_tokenizer(tmp_path_factory.mktemp("executors") / "tokenizer"))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(2):
        lines = [{"text": f"line {i} of some file, and the tide is {i * number % 8}"} for i in range(40)]
        (folder / f"{number}.jsonl").write_text("\n".join([*map(json.dumps, lines), "broken"]))
    return folder


def build(texts, tokenizer, output, **changes):
    source = {"name": "web", "paths": [str(texts / "*.jsonl")], "deduplicate": "exact"}
    values = {"tokenizer": tokenizer, "output": str(output), "sources": [source], **changes}
    return build_corpus(parse(CorpusRecipe, values, "recipe"))


def ray_recipe():
    values = {"tokenizer": "t", "output": "o", "sources": [{"name": "web", "paths": ["p"]}], "executor": "ray"}
    return parse(CorpusRecipe, values, "recipe")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def ray():
    """A running Ray with two workers, as on a cluster."""
    ray = pytest.importorskip("ray", reason="Ray, an extra, is not installed: it has no wheel for every Python")
    patience = {"worker_register_timeout_seconds": 300}  # workers that start slowly on a busy machine are not replaced
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config=patience,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def others_ray(monkeypatch):
    """Simulates a Ray of another user on this machine."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is too long for the names of Ray's sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        yield


@pytest.mark.slow
@pytest.mark.distributed
@RAYS_WARNINGS
def test_two_ray_workers_write_the_same_as_the_local_executor(others_ray, texts, tokenizer, tmp_path):
    """All files are identical, so all documents have the same order."""
    local = build(texts, tokenizer, tmp_path / "local", workers=1)
    assert build(texts, tokenizer, tmp_path / "ray", workers=2, executor="ray") == local
    assert contents(tmp_path / "ray" / "web") == contents(tmp_path / "local" / "web")
    assert local[0].skipped == {"broken line": 2, "duplicate": 5}


@pytest.mark.slow
@pytest.mark.distributed
@RAYS_WARNINGS
def test_an_error_under_ray_is_reported_with_its_reason(ray, tokenizer, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["one text"]}), tmp_path / "0.parquet")
    parquet.write_table(pyarrow.table({"body": ["another text"]}), tmp_path / "1.parquet")
    source = {"name": "web", "paths": [str(tmp_path / "*.parquet")]}
    with pytest.raises(DataError, match=r"web: 1 of 2 tasks failed \(.*1\.parquet has no column 'text'; it has body\)"):
        build(tmp_path, tokenizer, tmp_path / "out", executor="ray", sources=[source])


@pytest.mark.slow
@pytest.mark.distributed
@RAYS_WARNINGS
def test_ray_repeats_a_rank_whose_worker_was_killed(ray, tmp_path, monkeypatch):
    def die_once(data, rank, world_size):
        mark = Path(f"died-{rank}")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        Path(f"done-{rank}").touch()

    monkeypatch.chdir(tmp_path)
    executors.run(ray_recipe(), "web", [die_once], 3, tmp_path / "logs")
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1", "done-2"]


@pytest.mark.slow
@pytest.mark.distributed
@RAYS_WARNINGS
def test_a_rank_that_cannot_begin_or_always_dies_under_ray_is_reported_with_its_reason(ray, tmp_path):
    def die(data, rank, world_size):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"web: 1 of 1 tasks failed \(The worker died unexpectedly"):
        executors.run(ray_recipe(), "web", [die], 1, tmp_path / "logs")
    with pytest.raises(DataError, match=r"web: 1 of 1 tasks failed \(ModuleNotFoundError: No module named 'corpora'\)"):
        executors.run(ray_recipe(), "web", [interrupt_second_task], 1, tmp_path / "logs")


@pytest.mark.slow
@pytest.mark.distributed
@RAYS_WARNINGS
def test_ray_finishes_a_source_that_the_local_executor_started(ray, texts, tokenizer, tmp_path, monkeypatch):
    interrupt_second_task(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build(texts, tokenizer, tmp_path / "out", workers=1)
    monkeypatch.undo()
    [partial] = (tmp_path / "out").glob(".web.*.partial")
    written = (partial / "web-00000.ds").stat().st_mtime_ns
    whole = build(texts, tokenizer, tmp_path / "whole", workers=1)
    assert build(texts, tokenizer, tmp_path / "out", executor="ray") == whole
    assert contents(tmp_path / "out" / "web") == contents(tmp_path / "whole" / "web")
    assert (tmp_path / "out" / "web" / "web-00000.ds").stat().st_mtime_ns == written


def test_missing_ray_is_an_error_with_the_remedy(texts, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"pip install .*\[ray\]'"):
        build(texts, tokenizer, tmp_path / "out", executor="ray")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    return install_slurm(tmp_path / "cluster", monkeypatch)


@pytest.mark.slow
@pytest.mark.distributed
def test_slurm_jobs_write_the_same_as_the_local_executor(cluster, texts, tokenizer, tmp_path):
    """Fake Slurm programs, which run the scripts locally."""
    local = build(texts, tokenizer, tmp_path / "local", workers=1)
    assert build(texts, tokenizer, tmp_path / "slurm", executor="slurm", workers=2, slurm=SLURM) == local
    assert contents(tmp_path / "slurm" / "web") == contents(tmp_path / "local" / "web")
    scripts = [(cluster / f"{number}.slurm").read_text() for number in range(3)]
    assert not (cluster / "3.slurm").exists()
    for script, tasks in zip(scripts, (2, 1, 2), strict=True):
        lines = script.splitlines()
        workers = min(2, tasks)
        for wanted in (
            "#SBATCH --partition=cpu",
            "#SBATCH --time=01:00:00",
            "#SBATCH --mem-per-cpu=3G",
            "#SBATCH --cpus-per-task=1",
            "#SBATCH --account=words",
            "#SBATCH --wait",
            f"#SBATCH --array=0-{tasks - 1}%{workers}",
        ):
            assert wanted in lines
        assert f"export PATH={Path(sys.executable).parent}:$PATH" in lines
        assert any(line.startswith("srun ") and "launch_pickled_pipeline" in line for line in lines)


@pytest.mark.distributed
def test_an_error_under_slurm_is_reported_with_its_reason(cluster, texts, tokenizer, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["a text"]}), texts / "2.parquet")
    source = {"name": "web", "paths": [str(texts)]}
    with pytest.raises(DataError, match=r"web: 1 of 3 tasks failed \(.*2\.parquet has no column 'text'; it has body\)"):
        build(texts, tokenizer, tmp_path / "out", executor="slurm", slurm=SLURM, sources=[source])


def test_missing_slurm_is_an_error_with_the_remedy(texts, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="There is no sbatch here; run this on a login node"):
        build(texts, tokenizer, tmp_path / "out", executor="slurm", slurm=SLURM)


def test_slurm_needs_a_partition(texts, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"the executor slurm needs a table \[slurm\] with a partition"):
        build(texts, tokenizer, tmp_path / "out", executor="slurm")
