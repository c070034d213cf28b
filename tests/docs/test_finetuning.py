"""The page on fine-tuning, run as written."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from corpora import make_model
from docs.test_docs import ROOT, blocks
from labelled import sentences, write_csv
from modernbert.config import parse
from modernbert.train.finetune_recipe import FinetuneRecipe

PAGE = ROOT / "docs" / "finetuning.md"
HUB = 'model = "answerdotai/ModernBERT-base"'


def test_the_recipe_of_the_page_is_one():
    [text] = blocks(PAGE, "toml")
    assert HUB in text
    assert parse(FinetuneRecipe, tomllib.loads(text), "the page").task == "classify"


def test_the_example_of_the_page_is_a_csv_with_a_header():
    [text] = blocks(PAGE, "csv")
    assert [len(line.split(",")) for line in text.strip().splitlines()] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_runs_as_written(tmp_path):
    """With a tiny model in the place of the one of the hub, and more examples than the page shows."""
    make_model(tmp_path)
    write_csv(tmp_path / "texts.csv", sentences(300, 1))
    [recipe] = blocks(PAGE, "toml")
    (tmp_path / "texts.toml").write_text(recipe.replace(HUB, 'model = "model"'))
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    said = [
        subprocess.run(
            ["bash", "-ec", script],
            cwd=tmp_path,
            env=environment,
            check=True,
            timeout=280,
            capture_output=True,
            text=True,
        ).stdout
        for script in blocks(PAGE, "sh")
    ]
    assert re.search(r"Validation set, [23]\d examples", said[0])  # a tenth, with all that are equal to one of them
    assert "a long day at the sea" in said[0]
    for name in ("report.md", "report.json", "predictions.jsonl", "confusion.png", "learning-curve.png", "config.json"):
        assert (tmp_path / "output" / "texts" / name).exists()
    assert len(json.loads((tmp_path / "output" / "searched-search" / "search.json").read_text())) == 2 * 1 * 2
    assert json.loads((tmp_path / "output" / "longer" / "report.json").read_text())["seeds"] == [1, 2, 3]
    for code in blocks(PAGE, "python"):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
