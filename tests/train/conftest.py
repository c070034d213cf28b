from pathlib import Path

import pytest
import torch

from corpora import make_shards, make_tokenizer, tiny_recipe
from modernbert.config import parse
from modernbert.train.recipe import PretrainRecipe


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> tuple[Path, Path]:
    """A tokenizer and shards of Python's own sources."""
    folder = tmp_path_factory.mktemp("material")
    tokenizer = make_tokenizer(folder / "tokenizer")
    return tokenizer, make_shards(folder / "shards", tokenizer)


@pytest.fixture
def recipe_for(material):
    """Make the tiny recipe for a run directory, with changes of whole sections."""

    def make(run: Path, **changes) -> PretrainRecipe:
        return parse(PretrainRecipe, tiny_recipe(*material, run) | changes, "tiny")

    return make


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Runs are compared to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
