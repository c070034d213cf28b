"""`runs/gpu.sh`, as far as it can be tested on a CPU."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gpu_script(*arguments, output, **variables):
    return subprocess.run(
        ["bash", str(ROOT / "runs" / "gpu.sh"), *arguments],
        env=os.environ | {"OUT": str(output), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def stages(output):
    return {stage["name"]: stage for stage in json.loads((output / "gpu.json").read_text())["stages"]["stages"]}


def test_the_script_prints_its_usage(tmp_path):
    done = gpu_script("everything", output=tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: runs/gpu.sh [--dry] check | train")


@pytest.mark.slow
def test_a_stage_that_fails_does_not_keep_the_next_one_from_running(tmp_path):
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase "$*" in *ceilings*) exit 3;; esac\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    done = gpu_script("--dry", "check", output=tmp_path / "out", PYTHON=str(broken), STAGES="facts cpu")
    assert done.returncode == 1
    found = stages(tmp_path / "out")
    assert {name: stage["status"] for name, stage in found.items()} == {"facts": "failed (3)", "cpu": "ok"}
    assert "== the end of facts.log" in done.stdout
    assert "| facts | failed (3) |" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_dry_check_goes_to_the_end_and_leaves_few_files(tmp_path):
    done = gpu_script("--dry", "check", output=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "report.md", "logs.tar.gz"}
    expected = ["facts", "tests", "native", "inference", "peers", "training", "attention", "loop", "pretrain", "cpu"]
    assert sorted(stages(tmp_path)) == sorted(expected)
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {"ceilings", "inference", "inference-peers", "training", "attention", "loop-tiny", "pretrain", "cpu"} <= set(
        results
    )
    with tarfile.open(tmp_path / "logs.tar.gz") as archive:
        assert {f"logs/{name}.log" for name in expected} <= set(archive.getnames())
    assert "### Stages" in done.stdout[-12_000:]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trained_model_is_returned_in_parts(tmp_path):
    done = gpu_script("--dry", "train", output=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = sorted(tmp_path.glob("final.tar.gz.part-*"))
    (tmp_path / "final.tar.gz").write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(tmp_path / "final.tar.gz") as archive:
        assert "final/model.safetensors" in archive.getnames()
    assert (tmp_path / "metrics.jsonl").exists()
