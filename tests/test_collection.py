"""Processes of xdist, and two runs of a suite, must collect the same tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def collected(seed: int) -> list[str]:
    """The test ids that a new process collects, with another hash seed and at a later time."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "-m", ""]
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout
    return [line for line in result.stdout.splitlines() if "::" in line]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_process_collects_the_same_tests_in_the_same_order():
    first, second = collected(1), collected(2)
    assert len(first) > 1000
    assert first == second
