"""The tasks that a model can be fine-tuned for."""

from typing import Any

from tokenizers import Tokenizer

from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.tasks.choices import Choose
from modernbert.train.tasks.questions import Questions
from modernbert.train.tasks.spans import Tokens
from modernbert.train.tasks.task import Encoded, Item, Judgement, Task
from modernbert.train.tasks.texts import Classify, MultiLabel, Regress

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
