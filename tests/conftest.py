"""Fixtures for all tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real texts, tasks and the published tokenizer, which lie beside a development checkout."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "modernbert-tokenizer").is_dir():
        pytest.skip("the folder of development data is not beside this checkout")
    return folder
