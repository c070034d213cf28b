from pathlib import Path

import pytest

from modernbert.config import dump, load, parse
from modernbert.data.corpus import CorpusRecipe
from modernbert.train.recipe import PretrainRecipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))
KINDS = {"corpus.toml": CorpusRecipe, "pretrain.toml": PretrainRecipe}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_loads_and_dumps_to_an_equal_one(path):
    import tomllib

    kind = KINDS[path.name]
    recipe = load(kind, path)
    assert parse(kind, tomllib.loads(dump(recipe)), str(path)) == recipe
