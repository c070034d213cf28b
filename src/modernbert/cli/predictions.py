"""The output of `modernbert predict` for every kind of model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from modernbert.cli.console import check_utf8, read_text, texts_of
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

BATCH_ROWS = 512


@dataclass(frozen=True)
class Prediction:
    """A text and its prediction, as lines to print and as JSON values."""

    text: str
    lines: Sequence[str]
    record: dict[str, Any]


@dataclass(frozen=True)
class PredictOptions:
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


def predictions(options: PredictOptions) -> Iterator[tuple[Row | None, Prediction]]:
    """The predictions of a folder for texts and the rows of a file, each with its row if it is from a table.

    Raises:
        CheckpointError: the model has no head that predicts.
        ConfigError: a context or choices are missing, or the model does not use them.
        DataError: there is no text, or the file cannot be read.
    """
    folder = find_folder(options.model)
    found = read_architecture(folder)
    for option, given, what, kind in (
        ("--context", options.context is not None, "answers questions", QuestionAnswering),
        ("--choices", bool(options.choices), "chooses answers", MultipleChoice),
    ):
        if given and found != kind.architecture:
            raise ConfigError(
                f"{option} is for a model that {what}, and {options.model} holds a {found or 'bare model'}."
            )
    table = options.file is not None and format_of(options.file) is not None
    inputs: Iterator[tuple[Row | None, Any]]
    show: Callable[[Any, Any], list[Prediction]]
    if found == MultipleChoice.architecture:
        inputs, show = _questions_with_choices(options, folder, table), _choices
        predictor: type[Predictor[Any]] = ChoiceAnswerer
    elif found == TokenHead.architecture:
        inputs, show = _inputs(options, folder, table, lambda row: row.words() or row.text("text")), _spans
        predictor = TokenClassifier
    elif found == QuestionAnswering.architecture:
        inputs, show = _questions(options, folder, table), _answers
        predictor = QuestionAnswerer
    elif found == SequenceClassifier.architecture:
        pairs = TextFolderSettings.of(read_config(folder)).pairs is not False  # unknown for folders of other trainers
        inputs, show = _texts(options, folder, table, pairs), _labels
        predictor = Classifier
    else:
        raise CheckpointError(
            f"{options.model} holds a {found or 'bare model'}, which predicts no labels; train one: `finetune`."
        )
    inputs = _check_not_empty(inputs)
    loaded: Any = predictor.from_pretrained(
        options.model, max_length=options.max_length, device=options.device, int8=options.int8
    )
    bar = Progress(desc="predicting", unit=" texts", disable=not table or None)
    with bar:
        while batch := list(islice(inputs, BATCH_ROWS)):
            shown = show(loaded, [value for _, value in batch])
            yield from zip([row for row, _ in batch], shown, strict=True)
            bar.update(len(batch))


def _check_not_empty(inputs: Iterator[tuple[Row | None, Any]]) -> Iterator[tuple[Row | None, Any]]:
    """The same iterator, with its first element read, so that an error is reported before a model is loaded."""
    first = next(inputs, None)
    if first is None:
        raise DataError("There is no text; give one, or --file, or - for stdin.")
    return chain([first], inputs)


def _inputs(
    options: PredictOptions, folder: Path, table: bool, value: Callable[[Row], Any]
) -> Iterator[tuple[Row | None, Any]]:
    """Texts of the command line, then the lines of a file, or `value` of each row of a table."""
    if not table:
        yield from ((None, text) for text in texts_of(options.texts, options.file))
        return
    assert options.file is not None
    if options.texts:
        yield from ((None, text) for text in texts_of(options.texts, None))
    for row in rows_of(folder, options.file, options.columns):
        yield row, value(row)


def _texts(options: PredictOptions, folder: Path, table: bool, pairs: bool) -> Iterator[tuple[Row | None, Any]]:
    """Texts or pairs of texts: two columns of a table, or the two sides of a tab."""

    def of_row(row: Row) -> str | tuple[str, str]:
        pair = row.optional("pair")
        return row.text("text") if pair is None or not pair.strip() else (row.text("text"), pair)

    for row, text in _inputs(options, folder, table, of_row):
        if row is None and pairs:
            first, _, second = text.partition("\t")
            text = (first, second) if first.strip() and second.strip() else text
        yield row, text


def _questions(options: PredictOptions, folder: Path, table: bool) -> Iterator[tuple[Row | None, tuple[str, str]]]:
    """Questions, each with the context of its answer."""
    context = None if options.context is None else read_text(options.context)
    if context is None and (not table or options.texts):
        raise ConfigError("Give the file with the answers with --context.")

    def of_row(row: Row) -> tuple[str, str]:
        return row.text("question"), context if context is not None else row.text("context")

    for row, inputs in _inputs(options, folder, table, of_row):
        yield row, inputs if row is not None else (inputs, context or "")


def _with_empty_lines(texts: Sequence[T], found: Sequence[R]) -> list[tuple[T, R | None]]:
    """Each text with its result; None for empty texts, which the model did not get."""
    results = iter(found)
    return [(text, next(results) if _is_text(text) else None) for text in texts]


def _is_text(text: object) -> bool:
    return not isinstance(text, str) or bool(text.strip())


def _empty(text: str, name: str = "text") -> Prediction:
    """The result of an empty line, so that result n belongs to line n."""
    return Prediction(text, ["empty"], {name: text, "empty": True})


def _labels(classifier: Classifier, texts: Sequence[str | tuple[str, str]]) -> list[Prediction]:
    kind = classifier.model.problem_type
    shown = []
    for given, scores in _with_empty_lines(texts, classifier([one for one in texts if _is_text(one)])):
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
        shown.append(Prediction(text, lines, record))
    return shown


def _spans(classifier: TokenClassifier, texts: Sequence[str | list[str]]) -> list[Prediction]:
    shown = []
    for given, spans in _with_empty_lines(texts, classifier([one for one in texts if _is_text(one)])):
        text = given if isinstance(given, str) else classifier.text_of(given)
        if spans is None:
            shown.append(_empty(text))
            continue
        lines = [f"{one.score:6.1%}  {one.begin}-{one.end}  {one.label}  {one.text}" for one in spans] or ["nothing"]
        shown.append(Prediction(text, lines, {"text": text, "spans": [asdict(one) for one in spans]}))
    return shown


def _answers(answerer: QuestionAnswerer, inputs: Sequence[tuple[str, str]]) -> list[Prediction]:
    questions = [question for question, _ in inputs]
    given = [one for one in inputs if _is_text(one[0])]
    found = answerer([question for question, _ in given], [context for _, context in given])
    return [
        _empty(question, "question")
        if replies is None
        else Prediction(
            question,
            [
                f"{one.probability:6.1%}  {one.begin}-{one.end}  {' '.join(one.text.split())}"
                if one.text
                else f"{one.probability:6.1%}  no answer"
                for one in replies
            ],
            {"question": question, "answers": [asdict(one) for one in replies]},
        )
        for question, replies in _with_empty_lines(questions, found)
    ]


def _questions_with_choices(
    options: PredictOptions, folder: Path, table: bool
) -> Iterator[tuple[Row | None, tuple[str, Sequence[str]]]]:
    """Questions with their choices: the same for all, or those of each row of a file."""
    if options.choices:
        choices = [check_utf8(choice) for choice in options.choices]
        for row, question in _inputs(options, folder, table, lambda row: row.text("question")):
            yield row, (question, choices)
        return
    if options.texts or options.file is None:
        raise ConfigError(
            "Name the possible answers with --choices, or give no question but a --file of JSON lines with question "
            "and choices."
        )
    columns = recipe_for(folder, options.file, [f"data.{one}" for one in options.columns]).data
    names = {name: getattr(columns, name) for name in ("question", "choices")}
    for example in read_choices(columns.test or options.file, label=None, **names):
        values = {names["question"]: example.question, "choices": list(example.choices)}
        yield Row(Record(values, example.origin), columns), (example.question, example.choices)


def _choices(answerer: ChoiceAnswerer, given: Sequence[tuple[str, Sequence[str]]]) -> list[Prediction]:
    questions, choices = [question for question, _ in given], [offered for _, offered in given]
    inputs = [(question, offered) for question, offered in zip(questions, choices, strict=True) if _is_text(question)]
    found = answerer([question for question, _ in inputs], [offered for _, offered in inputs])
    return [
        _empty(question, "question")
        if ranked is None
        else Prediction(
            question,
            [f"{one.probability:6.1%}  {one.text}" for one in ranked],
            {"question": question, "answer": ranked[0].text, "choices": [asdict(one) for one in ranked]},
        )
        for question, ranked in _with_empty_lines(questions, found)
    ]
