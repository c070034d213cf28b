"""The version, with and without an installed package."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import modernbert

ROOT = Path(__file__).parents[1]


def test_a_source_tree_that_is_not_installed_has_a_version():
    found = subprocess.run(
        [sys.executable, "-S", "-c", "import modernbert; print(modernbert.__version__)"],  # -S: no installed packages
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == modernbert.SOURCE_VERSION


def test_it_is_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] + "+source" == modernbert.SOURCE_VERSION
