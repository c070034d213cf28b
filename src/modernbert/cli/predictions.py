"""What `modernbert predict` prints, whatever a model was trained for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from modernbert.cli.console import read_text, texts_of, whole
from modernbert.data.reading_examples import read_choices
from modernbert.errors import CheckpointError, ConfigError
from modernbert.inference import ChoiceAnswerer, Classifier, QuestionAnswerer, TokenClassifier
from modernbert.inference.predictor import Predictor
from modernbert.model import MultipleChoice, QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead
from modernbert.model.checkpoint import find_folder, read_architecture

P = TypeVar("P", bound=Predictor[Any])


@dataclass(frozen=True)
class Shown:
    """A text, the lines below it, and the same for machines."""

    text: str
    lines: Sequence[str]
    record: dict[str, Any]


def predictions(
    model: str,
    texts: list[str],
    file: Path | None,
    context: Path | None,
    choices: Sequence[str],
    max_length: int | None,
    device: str,
    int8: bool,
) -> list[Shown]:
    """Predictions of a folder's own kind for texts and those of a file, its linear layers in int8 if asked to.

    Raises:
        CheckpointError: the model is of no kind that predicts.
        ConfigError: a context or choices are missing, or are of no use to this model.
        DataError: there is no text, or the file cannot be read.
    """

    def loaded(kind: type[P]) -> P:
        return kind.from_pretrained(model, max_length=max_length, device=device, int8=int8)

    found = read_architecture(find_folder(model))
    for option, given, what, kind in (
        ("--context", context is not None, "answers questions", QuestionAnswering),
        ("--choices", bool(choices), "chooses answers", MultipleChoice),
    ):
        if given and found != kind.architecture:
            raise ConfigError(f"{option} is for a model that {what}, and {model} holds a {found or 'bare model'}.")
    if found == MultipleChoice.architecture:
        offered = _offered(texts, file, choices)
        return _choices(loaded(ChoiceAnswerer), *offered)
    wanted = texts_of(texts, file)
    if found == QuestionAnswering.architecture:
        if context is None:
            raise ConfigError("Name the file in which the answers stand with --context.")
        return _answers(loaded(QuestionAnswerer), wanted, context)
    if found == SequenceClassifier.architecture:
        return _labels(loaded(Classifier), wanted)
    if found == TokenHead.architecture:
        return _spans(loaded(TokenClassifier), wanted)
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
    text = read_text(context).replace("\r\n", "\n")
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


def _offered(texts: list[str], file: Path | None, choices: Sequence[str]) -> tuple[list[str], list[Sequence[str]]]:
    """Questions and what may answer each: the same choices for all, or those that a file has beside each question."""
    if choices:
        questions = texts_of(texts, file)
        return questions, [[whole(choice) for choice in choices]] * len(questions)
    if texts or file is None:
        raise ConfigError(
            "Name the possible answers with --choices, or give no question but a --file of JSON lines with question "
            "and choices."
        )
    examples = list(read_choices(file, label=None))
    return [example.question for example in examples], [example.choices for example in examples]


def _choices(answerer: ChoiceAnswerer, questions: list[str], choices: list[Sequence[str]]) -> list[Shown]:
    return [
        Shown(
            question,
            [f"{one.probability:6.1%}  {one.text}" for one in ranked],
            {"question": question, "answer": ranked[0].text, "choices": [asdict(one) for one in ranked]},
        )
        for question, ranked in zip(questions, answerer(questions, choices), strict=True)
    ]
