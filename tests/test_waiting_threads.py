"""Importing the package limits how long OpenMP's idle threads spin, unless the user has set a limit."""

import os
import subprocess
import sys

import pytest

NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
SHOWN = f"import os; print(*[os.environ.get(name, '-') for name in {NAMES}])"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=280, check=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000 1 -"),
        ({"GOMP_SPINCOUNT": "77"}, "77 1 -"),
        ({"KMP_BLOCKTIME": "infinite"}, "1000 infinite -"),
        ({"OMP_WAIT_POLICY": "active"}, "- - active"),
    ],
    ids=["nothing set", "GNU set", "LLVM set", "policy set"],
)
def test_values_that_the_user_has_set_stay(given, expected):
    assert run(f"import modernbert; {SHOWN}", **given).stdout.split() == expected.split()


def test_nothing_is_set_once_torch_has_read_it():
    code = f"import sys; sys.modules['torch'] = None; import modernbert; {SHOWN}"
    assert run(code).stdout.split() == ["-", "-", "-"]


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux alone")
def test_openmp_has_read_it():
    shown = run("import modernbert, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert "GOMP_SPINCOUNT = '1000'" in shown
