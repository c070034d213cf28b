"""A ranker learns the same in two processes as in one: negatives come from both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corpora import make_model

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize("task", ["embed", "multi-vector", "rerank"])
def test_two_processes_learn_what_one_does(task: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    words = ["cat", "dog", "horse", "mouse", "bird", "fish", "cow", "goat", "sheep", "frog", "duck"]
    lines = [
        {"query": f"where does the {one} sleep", "positive": f"a {one} sleeps at home", "negative": f"{other} eats"}
        for one, other in zip(words, [*words[1:], words[0]], strict=True)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    weights = []
    for count in (1, 2):
        settings = [
            f"task={task}", f"model={model}", f"output={tmp_path / str(count)}", "training.batch_examples=5",
            "training.epochs=2", "machine.device=cpu", "machine.precision=fp32", "max_length=24",
            "machine.microbatch_tokens=60",
        ]  # fmt: skip
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [*launcher, "-m", "modernbert", "finetune", "pairs.jsonl", *settings]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
        assert result.returncode == 0, result.stderr
        weights.append(load_file(tmp_path / str(count) / "model.safetensors"))
    before = load_file(model / "model.safetensors")
    moved = 0.0
    for name, one in weights[0].items():
        torch.testing.assert_close(weights[1][name], one, rtol=1e-4, atol=1e-5)
        old = before.get(name, before.get(f"model.{name}"))
        moved += 0.0 if old is None else float((one - old).abs().sum())
    assert moved > 0
