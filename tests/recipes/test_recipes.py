import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modernbert.config import dump, load, parse
from modernbert.corpus.build import CorpusRecipe
from modernbert.evaluate.glue import TASKS
from modernbert.evaluate.task_specs import recipe_for
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.ranking_recipe import RankingRecipe
from modernbert.train.recipe import PretrainRecipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))
KINDS = {"corpus.toml": CorpusRecipe, "pretrain.toml": PretrainRecipe, "grown.toml": PretrainRecipe}

FOLDERS = {"tasks": FinetuneRecipe, "retrieval": RankingRecipe}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_loads_and_dumps_to_an_equal_one(path):
    import tomllib

    kind = FOLDERS.get(path.parent.name) or KINDS[path.name]
    recipe = load(kind, path)
    assert parse(kind, tomllib.loads(dump(recipe)), str(path)) == recipe


@pytest.mark.parametrize("name", ["SST-2", "CoLA", "MRPC", "RTE", "STS-B"])
def test_recipes_of_glue_say_what_evaluate_glue_runs(name):
    recipe = load(FinetuneRecipe, Path(__file__).parents[2] / "recipes" / "tasks" / f"{name.lower()}.toml")
    [task] = [task for task in TASKS if task.name == name]
    declared = recipe_for(task.spec("base", hub=False), recipe.model, Path("glue"), recipe.output, 0)
    assert recipe == declared


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tiny_recipe_gives_the_same_weights_twice(tmp_path):
    """Runs the commands of its comments from raw text, twice, in separate processes."""
    recipes = Path(__file__).parents[2] / "recipes"
    commands = [
        line.removeprefix("# ")
        for path in (recipes / "tiny" / "corpus.toml", recipes / "tiny" / "pretrain.toml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("# modernbert ")
    ]
    assert len(commands) == 3
    weights = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipes").symlink_to(recipes)
        for command in commands:
            words = [str(Path(sys.executable).parent / "modernbert"), *shlex.split(command)[1:]]
            subprocess.run(words, cwd=folder, check=True, timeout=280)
        weights.append((folder / "output" / "tiny" / "run" / "final" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
