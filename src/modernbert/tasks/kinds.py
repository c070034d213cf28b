"""The table of tasks. The module of a task is imported when the task is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modernbert.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from modernbert.model.config import EncoderConfig
    from modernbert.tasks.predictor import Predictor
    from modernbert.tasks.task import Task, TaskSettings


@dataclass(frozen=True)
class Kind:
    """The two classes of a task by their full names: the `Task` that is trained, and the one that predicts."""

    task: str | None  # None where there is nothing to fine-tune
    predictor: str | None  # None if the task has no predictor


KINDS: dict[str, Kind] = {
    "classify": Kind("modernbert.tasks.classify.Classify", "modernbert.tasks.classify.Classifier"),
    "multi-label": Kind("modernbert.tasks.classify.MultiLabel", "modernbert.tasks.classify.Classifier"),
    "regress": Kind("modernbert.tasks.regress.Regress", "modernbert.tasks.classify.Classifier"),
    "tokens": Kind("modernbert.tasks.tokens.Tokens", "modernbert.tasks.tokens.TokenClassifier"),
    "answer": Kind("modernbert.tasks.answer.AnswerQuestions", "modernbert.tasks.answer.QuestionAnswerer"),
    "choose": Kind("modernbert.tasks.choose.Choose", "modernbert.tasks.choose.ChoiceAnswerer"),
    "fill-mask": Kind(None, "modernbert.tasks.fill_mask.FillMask"),
}


def trainable_tasks() -> list[str]:
    """The names of the tasks that a model can be fine-tuned for."""
    return [name for name, kind in KINDS.items() if kind.task is not None]


def task_class(name: str) -> "type[Task[Any, Any]]":
    """The class of a task.

    Raises:
        ConfigError: there is no such task, or a model cannot be fine-tuned for it.
    """
    if name not in trainable_tasks():
        raise ConfigError(f"There is no task {name!r} to fine-tune for; choose one of {', '.join(trainable_tasks())}.")
    return _import_class(KINDS[name].task)


def make_task(name: str, settings: "TaskSettings", tokenizer: "Tokenizer", max_length: int) -> "Task[Any, Any]":
    """A task that reads `max_length` tokens at once.

    Raises:
        ConfigError: there is no such task.
    """
    return task_class(name)(settings, tokenizer, max_length)


def predictor_class(name: str) -> "type[Predictor[Any]] | None":
    """The predictor class of a task, or None."""
    return _import_class(KINDS[name].predictor)


def kind_of_model(architecture: str | None, config: "EncoderConfig") -> str | None:
    """The name of the task that a model was trained for, or None if its head is unknown.

    A folder of this version names the task. Otherwise the head decides, and for text classifiers the `problem_type`.
    """
    name = (config.modernbert_task or {}).get("kind")
    if name in KINDS:
        return str(name)
    if architecture == _TEXT_HEAD:
        return _PROBLEMS.get(config.problem_type, "regress" if len(config.labels) == 1 else "classify")
    return _HEADS.get(architecture)


def _import_class(name: str | None) -> Any:
    if name is None:
        return None
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


# For folders of other trainers and of older versions, which do not name their task.
_TEXT_HEAD = "ModernBertForSequenceClassification"
_PROBLEMS: Mapping[str | None, str] = {
    "regression": "regress",
    "single_label_classification": "classify",
    "multi_label_classification": "multi-label",
}
_HEADS: Mapping[str | None, str] = {
    "ModernBertForTokenClassification": "tokens",
    "ModernBertForQuestionAnswering": "answer",
    "ModernBertForMultipleChoice": "choose",
    "ModernBertForMaskedLM": "fill-mask",
}
