"""The tasks that a model can be fine-tuned for."""

from typing import Any

from tokenizers import Tokenizer

from modernbert.tasks.answer import Questions
from modernbert.tasks.choose import Choose
from modernbert.tasks.classify import Classify, MultiLabel, Regress
from modernbert.tasks.recipe import FinetuneRecipe
from modernbert.tasks.task import Encoded, Item, Judgement, Task
from modernbert.tasks.tokens import Tokens

__all__ = ["Encoded", "Item", "Judgement", "Task", "make_task"]

_TASKS: dict[str, type[Task[Any, Any]]] = {
    "classify": Classify,
    "multi-label": MultiLabel,
    "regress": Regress,
    "tokens": Tokens,
    "answer": Questions,
    "choose": Choose,
}


def make_task(recipe: FinetuneRecipe, tokenizer: Tokenizer, max_length: int) -> Task[Any, Any]:
    """The task that a recipe names."""
    return _TASKS[recipe.task](recipe, tokenizer, max_length)
