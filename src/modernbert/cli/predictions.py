"""The output of `modernbert predict` for every kind of model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from modernbert.cli.console import read_text, texts_of, whole
from modernbert.cli.prediction_files import Row, rows_of
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.evaluate.folder import recipe_for
from modernbert.model import MultipleChoice, QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead
from modernbert.model.folder import find_folder, read_architecture, read_config
from modernbert.progress import Progress
from modernbert.tasks.answer import QuestionAnswerer
from modernbert.tasks.choose import ChoiceAnswerer, read_choices
from modernbert.tasks.classify import Classifier
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.texts import TextFolderSettings
from modernbert.tasks.tokens import TokenClassifier
from modernbert.text.records import Record, format_of

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 512  # texts in a batch


@dataclass(frozen=True)
class Shown:
    """A text, the lines below it, and the same as JSON values."""

    text: str
    lines: Sequence[str]
    record: dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """The arguments of the command."""

    model: str
    texts: list[str]
    file: Path | None = None
    columns: Sequence[str] = ()  # KEY=NAME
    context: Path | None = None
    choices: Sequence[str] = ()
    max_length: int | None = None
    device: str = "auto"
    int8: bool = False


def predictions(wanted: Wanted) -> Iterator[tuple[Row | None, Shown]]:
    """The predictions of a folder for texts and the rows of a file, each with its row if it is from a table.

    Raises:
        CheckpointError: the model has no head that predicts.
        ConfigError: a context or choices are missing, or the model does not use them.
        DataError: there is no text, or the file cannot be read.
    """
    folder = find_folder(wanted.model)
    found = read_architecture(folder)
    for option, given, what, kind in (
        ("--context", wanted.context is not None, "answers questions", QuestionAnswering),
        ("--choices", bool(wanted.choices), "chooses answers", MultipleChoice),
    ):
        if given and found != kind.architecture:
            raise ConfigError(
                f"{option} is for a model that {what}, and {wanted.model} holds a {found or 'bare model'}."
            )
    table = wanted.file is not None and format_of(wanted.file) is not None
    asked: Iterator[tuple[Row | None, Any]]
    show: Callable[[Any, Any], list[Shown]]
    if found == MultipleChoice.architecture:
        asked, show = _offered(wanted, folder, table), _choices
        predictor: type[Predictor[Any]] = ChoiceAnswerer
    elif found == TokenHead.architecture:
        asked, show = _inputs(wanted, folder, table, lambda row: row.words() or row.text("text")), _spans
        predictor = TokenClassifier
    elif found == QuestionAnswering.architecture:
        asked, show = _questions(wanted, folder, table), _answers
        predictor = QuestionAnswerer
    elif found == SequenceClassifier.architecture:
        pairs = (
            TextFolderSettings.of(read_config(folder)).pairs is not False
        )  # for a folder of another trainer, unknown
        asked, show = _texts(wanted, folder, table, pairs), _labels
        predictor = Classifier
    else:
        raise CheckpointError(
            f"{wanted.model} holds a {found or 'bare model'}, which predicts no labels; train one: `finetune`."
        )
    asked = _refused_if_none(asked)
    loaded: Any = predictor.from_pretrained(
        wanted.model, max_length=wanted.max_length, device=wanted.device, int8=wanted.int8
    )
    bar = Progress(desc="predicting", unit=" texts", disable=not table or None)
    with bar:
        while part := list(islice(asked, AT_ONCE)):
            shown = show(loaded, [value for _, value in part])
            yield from zip([row for row, _ in part], shown, strict=True)
            bar.update(len(part))


def _refused_if_none(asked: Iterator[tuple[Row | None, Any]]) -> Iterator[tuple[Row | None, Any]]:
    """The same iterator, with its first element read, so that an error is reported before a model is loaded."""
    first = next(asked, None)
    if first is None:
        raise DataError("There is no text; give one, or --file, or - for stdin.")
    return chain([first], asked)


def _inputs(wanted: Wanted, folder: Path, table: bool, value: Callable[[Row], Any]) -> Iterator[tuple[Row | None, Any]]:
    """Texts of the command line, then the lines of a file, or `value` of each row of a table."""
    if not table:
        yield from ((None, text) for text in texts_of(wanted.texts, wanted.file))
        return
    assert wanted.file is not None
    if wanted.texts:
        yield from ((None, text) for text in texts_of(wanted.texts, None))
    for row in rows_of(folder, wanted.file, wanted.columns):
        yield row, value(row)


def _texts(wanted: Wanted, folder: Path, table: bool, pairs: bool) -> Iterator[tuple[Row | None, Any]]:
    """Texts or pairs of texts: two columns of a table, or the two sides of a tab."""

    def of_row(row: Row) -> str | tuple[str, str]:
        pair = row.optional("pair")
        return row.text("text") if pair is None or not pair.strip() else (row.text("text"), pair)

    for row, text in _inputs(wanted, folder, table, of_row):
        if row is None and pairs:
            first, _, second = text.partition("\t")
            text = (first, second) if first.strip() and second.strip() else text
        yield row, text


def _questions(wanted: Wanted, folder: Path, table: bool) -> Iterator[tuple[Row | None, tuple[str, str]]]:
    """Questions, each with the context of its answer."""
    context = None if wanted.context is None else read_text(wanted.context)
    if context is None and (not table or wanted.texts):
        raise ConfigError("Give the file with the answers with --context.")

    def of_row(row: Row) -> tuple[str, str]:
        return row.text("question"), context if context is not None else row.text("context")

    for row, asked in _inputs(wanted, folder, table, of_row):
        yield row, asked if row is not None else (asked, context or "")


def _in_place(texts: Sequence[T], found: Sequence[R]) -> list[tuple[T, R | None]]:
    """Each text with its result; None for empty texts, which the model did not get."""
    results = iter(found)
    return [(text, next(results) if _is_text(text) else None) for text in texts]


def _is_text(text: object) -> bool:
    return not isinstance(text, str) or bool(text.strip())


def _empty(text: str, name: str = "text") -> Shown:
    """The result of an empty line, so that result n belongs to line n."""
    return Shown(text, ["empty"], {name: text, "empty": True})


def _labels(classifier: Classifier, texts: Sequence[str | tuple[str, str]]) -> list[Shown]:
    kind = classifier.model.problem_type
    shown = []
    for given, scores in _in_place(texts, classifier([one for one in texts if _is_text(one)])):
        text = given if isinstance(given, str) else "\t".join(given)
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


def _answers(answerer: QuestionAnswerer, asked: Sequence[tuple[str, str]]) -> list[Shown]:
    questions = [question for question, _ in asked]
    given = [one for one in asked if _is_text(one[0])]
    found = answerer([question for question, _ in given], [context for _, context in given])
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


def _offered(wanted: Wanted, folder: Path, table: bool) -> Iterator[tuple[Row | None, tuple[str, Sequence[str]]]]:
    """Questions with their choices: the same for all, or those of each row of a file."""
    if wanted.choices:
        choices = [whole(choice) for choice in wanted.choices]
        for row, question in _inputs(wanted, folder, table, lambda row: row.text("question")):
            yield row, (question, choices)
        return
    if wanted.texts or wanted.file is None:
        raise ConfigError(
            "Name the possible answers with --choices, or give no question but a --file of JSON lines with question "
            "and choices."
        )
    columns = recipe_for(folder, wanted.file, [f"data.{one}" for one in wanted.columns]).data
    names = {name: getattr(columns, name) for name in ("question", "choices")}
    for example in read_choices(columns.test or wanted.file, label=None, **names):
        values = {names["question"]: example.question, "choices": list(example.choices)}
        yield Row(Record(values, example.origin), columns), (example.question, example.choices)


def _choices(answerer: ChoiceAnswerer, given: Sequence[tuple[str, Sequence[str]]]) -> list[Shown]:
    questions, choices = [question for question, _ in given], [offered for _, offered in given]
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
