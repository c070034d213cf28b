"""What `modernbert predict` prints, whatever a model was trained for."""

import glob
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from modernbert.cli.console import read_text, texts_of, whole
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.model import MultipleChoice, QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead
from modernbert.model.folder import find_folder, read_architecture, read_config
from modernbert.tasks.answer import QuestionAnswerer
from modernbert.tasks.choose import ChoiceAnswerer, read_choices
from modernbert.tasks.classify import Classifier
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.texts import TextFolder
from modernbert.tasks.tokens import TokenClassifier
from modernbert.text.records import RejectedRecord, Source, format_of, read_records

P = TypeVar("P", bound=Predictor[Any])
T = TypeVar("T")
R = TypeVar("R")


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
    if found == TokenHead.architecture:
        return _spans(loaded(TokenClassifier), _texts_or_words(texts, file))
    wanted = _texts(texts, file, "question" if found == QuestionAnswering.architecture else "text")
    if found == QuestionAnswering.architecture:
        if context is None:
            raise ConfigError("Name the file in which the answers stand with --context.")
        return _answers(loaded(QuestionAnswerer), wanted, context)
    if found == SequenceClassifier.architecture:
        return _labels(loaded(Classifier), wanted, pairs=_may_read_pairs(find_folder(model)))
    raise CheckpointError(f"{model} holds a {found or 'bare model'}, which predicts no labels; train one: `finetune`.")


def _in_place(texts: Sequence[T], found: Sequence[R]) -> list[tuple[T, R | None]]:
    """Each text with what was found for it; None for those without text, of which nothing was asked."""
    results = iter(found)
    return [(text, next(results) if _is_text(text) else None) for text in texts]


def _is_text(text: object) -> bool:
    return not isinstance(text, str) or bool(text.strip())


def _empty(text: str, name: str = "text") -> Shown:
    """What stands in the place of an empty line, so that result n is that of line n."""
    return Shown(text, ["empty"], {name: text, "empty": True})


def _may_read_pairs(folder: Path) -> bool:
    """Whether a model was trained on pairs of texts, or whether its folder, of another trainer, does not say."""
    return TextFolder.of(read_config(folder)).pairs is not False


def _labels(classifier: Classifier, texts: Sequence[str], pairs: bool) -> list[Shown]:
    given = [
        (first, second) if pairs and first.strip() and second.strip() else text
        for text, (first, _, second) in ((text, text.partition("\t")) for text in texts)
    ]
    kind = classifier.model.problem_type
    shown = []
    for text, scores in _in_place(texts, classifier([one for one in given if _is_text(one)])):
        if scores is None:
            shown.append(_empty(text))
            continue
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


def _spans(classifier: TokenClassifier, texts: Sequence[str | list[str]]) -> list[Shown]:
    shown = []
    for given, spans in _in_place(texts, classifier([one for one in texts if _is_text(one)])):
        text = given if isinstance(given, str) else classifier.text_of(given)
        if spans is None:
            shown.append(_empty(text))
            continue
        lines = [f"{one.score:6.1%}  {one.begin}-{one.end}  {one.label}  {one.text}" for one in spans] or ["nothing"]
        shown.append(Shown(text, lines, {"text": text, "spans": [asdict(one) for one in spans]}))
    return shown


def _texts(texts: list[str], file: Path | None, column: str) -> list[str]:
    """Texts as `texts_of` gives them; of a file whose name tells that it has columns, those of one column."""
    found = _texts_or_words(texts, file, column, words=())
    return [one for one in found if isinstance(one, str)]


def _texts_or_words(
    texts: list[str], file: Path | None, column: str = "text", words: Sequence[str] = ("words", "tokens")
) -> list[str | list[str]]:
    """The same, and lists of texts in the columns `words`. CSV and TSV are read as lines, as pairs of texts are."""
    if file is None or format_of(file) in (None, "csv", "tsv"):
        return list(texts_of(texts, file))
    found: list[str | list[str]] = list(texts_of(texts, None)) if texts else []
    for record in read_records(Source(path=glob.escape(str(file)))):
        if isinstance(record, RejectedRecord):
            raise record.error()
        listed = next((record.values[name] for name in words if name in record.values), None)
        given = record.values.get(column, listed)
        as_words = bool(words) and isinstance(given, list) and all(isinstance(one, str) for one in given)
        if not isinstance(given, str) and not as_words:
            also = f", and no list of texts in {' or '.join(words)}" if words else ""
            raise DataError(f"{record.origin}: there is no text in a column {column}{also}.")
        found.append(given)
    if not found:
        raise DataError(f"{file} holds no text.")
    return found


def _answers(answerer: QuestionAnswerer, questions: Sequence[str], context: Path) -> list[Shown]:
    text = read_text(context)
    asked = [question for question in questions if _is_text(question)]
    found = answerer(asked, [text] * len(asked))
    return [
        _empty(question, "question")
        if replies is None
        else Shown(
            question,
            [
                f"{one.probability:6.1%}  {one.begin}-{one.end}  {' '.join(one.text.split())}"
                if one.text
                else f"{one.probability:6.1%}  no answer"
                for one in replies
            ],
            {"question": question, "answers": [asdict(one) for one in replies]},
        )
        for question, replies in _in_place(questions, found)
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
    asked = [(question, offered) for question, offered in zip(questions, choices, strict=True) if _is_text(question)]
    found = answerer([question for question, _ in asked], [offered for _, offered in asked])
    return [
        _empty(question, "question")
        if ranked is None
        else Shown(
            question,
            [f"{one.probability:6.1%}  {one.text}" for one in ranked],
            {"question": question, "answer": ranked[0].text, "choices": [asdict(one) for one in ranked]},
        )
        for question, ranked in _in_place(questions, found)
    ]
