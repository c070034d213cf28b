"""The tests of this folder with the oldest supported versions and PyLate, in separate environments."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
OLDEST = ("torch==2.11.0", "transformers==5.0.0", "sentence-transformers==5.3.0", "pylate==1.6.0")
NEEDED = ("pytest", "jaxtyping", "pydantic", "regex", "tomli-w", "typer")  # of this package and these tests


def environment(folder: Path) -> Path:
    """The Python of an environment with these packages; the environment is created on first use."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *OLDEST, *NEEDED], check=True)
        (folder / "ready").touch()
    return python


def test_models_of_the_oldest_versions_are_accelerated_as_those_of_the_newest(tmp_path):
    python = environment(ROOT / "output" / "accelerate-oldest")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: minutes\n    peers: environments\n")
    command = [python, "-m", "pytest", "-c", tmp_path / "pytest.ini", "--rootdir", ROOT, "--noconftest", "-q"]
    command += ["--import-mode=importlib", "-p", "no:cacheprovider", "-m", "not peers", Path(__file__).parent]
    variables = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
