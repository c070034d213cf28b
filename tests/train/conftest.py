from pathlib import Path

import pytest

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
