"""Fixtures for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modernbert.kernels import native


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real texts, tasks and the published tokenizer, which lie beside a development checkout."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "modernbert-tokenizer").is_dir():
        pytest.skip("the folder of development data is not beside this checkout")
    return folder


@pytest.fixture(params=[*native.LEVELS, "off"])
def level_or_off(request) -> Iterator[str]:
    """Each instruction level that this processor has, and plain PyTorch."""
    native.select(request.param)
    if request.param != "off" and (reason := native.unavailable()):
        pytest.skip(f"{request.param} {reason}")
    yield request.param
    native.select("")


@pytest.fixture(params=native.LEVELS)
def level(request) -> Iterator[str]:
    """Each instruction level of the native kernels that this processor has."""
    native.select(request.param)
    if reason := native.unavailable():
        pytest.skip(f"{request.param} {reason}")
    yield request.param
    native.select("")
