"""Vectors of a file: row n is text n in every format, and a stopped run gives the same bytes."""

import json
import os
import shutil

import numpy as np
import pytest

from modernbert import Embedder
from modernbert.config import parse
from modernbert.errors import ConfigError, DataError
from modernbert.kernels import native
from modernbert.search import embed_file as module
from modernbert.search.embed_file import embed_file
from modernbert.search.embed_on_machines import Cluster
from modernbert.tasks.quantization import quantize
from retrieval import TEXTS, base_folder
from slurm import install_slurm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(base_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def expected(model):
    return Embedder.from_pretrained(model).encode(TEXTS)


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl", "t.csv"])
def test_row_n_is_the_vector_of_text_n(name, model, expected, tmp_path):
    if name.endswith("txt"):
        (tmp_path / name).write_text("\n".join(TEXTS))
    elif name.endswith("jsonl"):
        (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    else:
        (tmp_path / name).write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS))
    report = embed_file(tmp_path / name, model, tmp_path / "v.npy")
    assert report["vectors"] == len(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    assert not list(tmp_path.glob("*.parts"))


def test_parquet_has_ids_and_vectors(model, expected, tmp_path):
    from pyarrow import parquet

    lines = [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    embed_file(tmp_path / "t.jsonl", model, tmp_path / "v.parquet", precision="int8")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table["id"].to_pylist() == [f"d{number}" for number in range(len(TEXTS))]
    found = np.array(table["vector"].to_pylist())
    assert np.abs(found - quantize(expected, "int8").astype(int)).max() <= 1  # another batch may change the last bit


def test_a_stopped_run_resumes_and_gives_the_same_bytes(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 2)
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    embed_file(tmp_path / "t.txt", model, tmp_path / "whole.npy")
    real, calls = module.np.savez, []

    def stops(*arguments, **arrays):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments, **arrays)

    monkeypatch.setattr(module.np, "savez", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_file(tmp_path / "t.txt", model, tmp_path / "parts.npy")
    assert not (tmp_path / "parts.npy").exists()
    with pytest.raises(DataError, match="other settings"):
        embed_file(tmp_path / "t.txt", model, tmp_path / "parts.npy", truncate_dim=8)
    embed_file(tmp_path / "t.txt", model, tmp_path / "parts.npy")
    assert len(calls) == 4  # the first shard was not made again
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_stopped_run_resumes_with_a_copy_of_its_file_but_not_with_an_edited_one(model, tmp_path, monkeypatch):
    file = tmp_path / "t.txt"
    file.write_text("\n".join(TEXTS))
    real = shutil.rmtree
    monkeypatch.setattr(module.shutil, "rmtree", lambda folder: None)
    embed_file(file, model, tmp_path / "v.npy")
    os.utime(file, ns=(1, 1))
    embed_file(file, model, tmp_path / "v.npy")
    file.write_text("\n".join(TEXTS).swapcase())
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataError, match="other settings"):
        embed_file(file, model, tmp_path / "v.npy")
    monkeypatch.setattr(module.shutil, "rmtree", real)


def test_a_resumed_run_uses_the_kernels_of_its_start(model, tmp_path, monkeypatch):
    """Each process chooses kernels by measurement, and other kernels may give other bits."""
    levels = [level for level in ("avx2", "avx512") if level in getattr(native._selected, "tables", {})]
    if len(levels) < 2:
        pytest.skip("this processor has one level of the native kernels at most")
    monkeypatch.setattr(module, "SHARD_ROWS", 3)
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    monkeypatch.setattr(native, "_selected", native._load(levels[0]))
    embed_file(tmp_path / "t.txt", model, tmp_path / "whole.npy")
    real = shutil.rmtree
    monkeypatch.setattr(module.shutil, "rmtree", lambda folder: None)
    embed_file(tmp_path / "t.txt", model, tmp_path / "v.npy")
    monkeypatch.setattr(module.shutil, "rmtree", real)
    (tmp_path / "v.npy.parts" / f"{3:012d}.npz").unlink()
    monkeypatch.setattr(native, "_selected", native._load(levels[1]))
    embed_file(tmp_path / "t.txt", model, tmp_path / "v.npy")
    assert native.level("fp32") == levels[0]
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_wrong_files_are_reported_with_their_line(model, tmp_path):
    (tmp_path / "t.txt").write_text("one\n\nthree\n")
    with pytest.raises(DataError, match=r"t\.txt:2: the text is empty"):
        embed_file(tmp_path / "t.txt", model, tmp_path / "v.npy")
    (tmp_path / "t.jsonl").write_text('{"body": "one"}\n')
    with pytest.raises(DataError, match="no column 'text'; there are body"):
        embed_file(tmp_path / "t.jsonl", model, tmp_path / "w.npy")
    with pytest.raises(ConfigError, match=r"\.npy or \.parquet"):
        embed_file(tmp_path / "t.jsonl", model, tmp_path / "v.bin")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("thesis.txt", "mine", "holds other files than shards"),
        ("settings.json", "{", "other settings"),
        ("settings.json", "[]", "other settings"),
    ],
)
def test_a_users_folder_with_the_name_of_the_shards_stays(name, content, said, model, tmp_path):
    (tmp_path / "v.npy.parts").mkdir()
    (tmp_path / "v.npy.parts" / name).write_text(content)
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=said):
        embed_file(tmp_path / "t.txt", model, tmp_path / "v.npy")
    assert [path.read_text() for path in (tmp_path / "v.npy.parts").iterdir()] == [content]


def test_slurm_must_be_given_a_partition(model, tmp_path):
    with pytest.raises(ConfigError, match=r"needs a partition: --on slurm\.partition=NAME"):
        parse(Cluster, {"executor": "slurm"}, "modernbert embed")


@pytest.fixture(scope="module")
def three_shards(model, tmp_path_factory):
    """A file with texts for more than two shards, and its vectors as one process writes them."""
    folder = tmp_path_factory.mktemp("shards")
    texts = TEXTS * 700
    assert len(texts) > 2 * module.SHARD_ROWS
    (folder / "t.txt").write_text("\n".join(f"{number} {text[:20]}" for number, text in enumerate(texts)))
    embed_file(folder / "t.txt", model, folder / "one.npy")
    return folder / "t.txt", (folder / "one.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("executor", "workers"), [("local", 2), ("local", 3), ("ray", 2)])
@pytest.mark.filterwarnings("default")  # of executors that start processes
def test_several_workers_give_the_same_bytes(executor, workers, three_shards, model, tmp_path):
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray, an extra, is not installed: it has no wheel for every Python")
    file, expected = three_shards
    embed_file(file, model, tmp_path / "v.npy", machines=Cluster(executor=executor, workers=workers))
    assert (tmp_path / "v.npy").read_bytes() == expected


@pytest.mark.slow
@pytest.mark.distributed
def test_slurm_jobs_give_the_same_bytes_and_resume_after_a_failure(three_shards, model, tmp_path, monkeypatch):
    """Replacements of Slurm's programs run the scripts unchanged."""
    cluster = install_slurm(tmp_path / "cluster", monkeypatch)
    file, expected = three_shards
    machines = parse(
        Cluster, {"executor": "slurm", "workers": 3}, "test", ["slurm.partition=cpu", "slurm.cpus_per_task=2"]
    )
    begin = module._begin

    def begin_and_block(parts, settings):
        found = begin(parts, settings)
        (parts / f"{module.SHARD_ROWS:012d}.npz").mkdir()  # a job cannot replace a folder
        return found

    monkeypatch.setattr(module, "_begin", begin_and_block)
    with pytest.raises(DataError, match=r"embed: 1 of 3 tasks failed \("):
        embed_file(file, model, tmp_path / "v.npy", machines=machines)
    monkeypatch.setattr(module, "_begin", begin)
    assert "#SBATCH --cpus-per-task=2" in (cluster / "0.slurm").read_text().splitlines()
    shards = sorted((tmp_path / "v.npy.parts").glob("*.npz"))
    made = {path: path.stat().st_mtime_ns for path in shards if path.is_file()}
    assert len(made) == 2
    shards[1].rmdir()
    run = module.write_shards

    def see(*arguments):
        assert {path: path.stat().st_mtime_ns for path in made} == made  # these were not made again
        assert all(path.is_file() for path in shards)  # the jobs have made the missing one
        return run(*arguments)

    monkeypatch.setattr(module, "write_shards", see)
    embed_file(file, model, tmp_path / "v.npy", machines=machines)
    assert (tmp_path / "v.npy").read_bytes() == expected
