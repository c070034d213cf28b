"""What `modernbert predict` prints, whatever a model was trained for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.inference import Classifier, QuestionAnswerer, TokenClassifier
from modernbert.model import QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead
from modernbert.model.checkpoint import find_folder, read_architecture


@dataclass(frozen=True)
class Shown:
    """A text, the lines below it, and the same for machines."""

    text: str
    lines: Sequence[str]
    record: dict[str, Any]


def predictions(
    model: str, texts: Sequence[str], context: Path | None, max_length: int | None, device: str, int8: bool
) -> list[Shown]:
    """Predictions of a folder's own kind, its linear layers in int8 if asked to.

    Raises:
        CheckpointError: the model is of no kind that predicts.
        ConfigError: a context is missing, or is of no use to this model.
    """
    found = read_architecture(find_folder(model))
    if (found == QuestionAnswering.architecture) != (context is not None):
        raise ConfigError(
            "Name the file in which the answers stand with --context."
            if context is None
            else f"--context is for a model that answers questions, and {model} holds a {found}."
        )
    if context is not None:
        return _answers(
            QuestionAnswerer.from_pretrained(model, max_length=max_length, device=device, int8=int8), texts, context
        )
    if found == SequenceClassifier.architecture:
        return _labels(Classifier.from_pretrained(model, max_length=max_length, device=device, int8=int8), texts)
    if found == TokenHead.architecture:
        return _spans(TokenClassifier.from_pretrained(model, max_length=max_length, device=device, int8=int8), texts)
    raise CheckpointError(f"{model} holds a {found or 'bare model'}, which predicts no labels; train one: `finetune`.")


def _labels(classifier: Classifier, texts: Sequence[str]) -> list[Shown]:
    pairs = [(first, second) if second else first for first, _, second in (text.partition("\t") for text in texts)]
    kind = classifier.model.problem_type
    shown = []
    for text, scores in zip(texts, classifier(pairs), strict=True):
        if kind == "regression":
            lines = [f"{score.label} {score.score:.4g}" for score in scores]
        else:
            lines = [f"{score.score:6.1%}  {score.label}" for score in scores[:5]]
        record: dict[str, Any] = {"text": text}
        if kind == "single_label_classification":
            record["label"] = scores[0].label
        elif kind == "multi_label_classification":
            record["labels"] = [score.label for score in scores if score.score >= 0.5]
        record["scores"] = {score.label: score.score for score in scores}
        shown.append(Shown(text, lines, record))
    return shown


def _spans(classifier: TokenClassifier, texts: Sequence[str]) -> list[Shown]:
    return [
        Shown(
            text,
            [f"{one.score:6.1%}  {one.begin}-{one.end}  {one.label}  {one.text}" for one in spans] or ["nothing"],
            {"text": text, "spans": [asdict(one) for one in spans]},
        )
        for text, spans in zip(texts, classifier(list(texts)), strict=True)
    ]


def _answers(answerer: QuestionAnswerer, questions: Sequence[str], context: Path) -> list[Shown]:
    try:
        text = context.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{context} cannot be read as text: {error}.") from None
    found = answerer(list(questions), [text] * len(questions))
    return [
        Shown(
            question,
            [
                f"{one.probability:6.1%}  {one.begin}-{one.end}  {' '.join(one.text.split())}"
                if one.text
                else f"{one.probability:6.1%}  no answer"
                for one in replies
            ],
            {"question": question, "answers": [asdict(one) for one in replies]},
        )
        for question, replies in zip(questions, found, strict=True)
    ]
