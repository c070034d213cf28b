"""The recipe of the page on ranker training is valid, and the page names every loss."""

import re
import tomllib
from pathlib import Path

from modernbert.config import parse
from modernbert.tasks.ranking.settings import LOSSES, RANKING_TASKS
from modernbert.train.ranking_recipe import RankingRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "retrieval-training.md").read_text(encoding="utf-8")


def test_the_recipe_of_the_page_is_one() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    recipe = parse(RankingRecipe, tomllib.loads(shown), "the page")
    assert recipe.loss.matryoshka == (256, 128, 64)


def test_the_page_names_every_task_and_loss() -> None:
    for name in {*RANKING_TASKS, *(loss for losses in LOSSES.values() for loss in losses)}:
        assert f"`{name}`" in PAGE
