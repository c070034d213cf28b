"""Questions about contexts with their accepted answers, read from records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert.tasks.reading import Columns, Examples, text_in
from modernbert.text.records import Origin, Record, RejectedRecord, Source, missing_column


@dataclass(frozen=True)
class AcceptedAnswer:
    """An accepted answer: its text, and where it begins in the context."""

    text: str
    begin: int


@dataclass(frozen=True)
class QuestionExample:
    """A question about a context, with every accepted answer; no answer means that the context does not have one."""

    identifier: str
    question: str
    context: str
    answers: tuple[AcceptedAnswer, ...]
    origin: Origin


class QuestionColumns(Columns):
    """The columns of questions about contexts; SQuAD files have these."""

    question: str = "question"  # the column of the questions
    context: str = "context"  # the text that may hold the answer
    answers: str = "answers"  # texts and their offsets, in SQuAD's format
    identifier: str | None = "id"  # of a question, copied to the predictions


def read_questions(
    source: Source | str | Path,
    *,
    question: str = "question",
    context: str = "context",
    answers: str | None = "answers",
    identifier: str | None = "id",
    skip_bad: bool = False,
) -> Examples[QuestionExample]:
    """Questions about contexts, with every accepted answer; SQuAD files have these columns.

    `answers` holds a list of {"text", "answer_start"} or one {"text": [...], "answer_start": [...]}; an empty one means
    that the context has no answer. If `answers` is None, no answers are read, for prediction. If `identifier` is None,
    or `id` without such a column, a question is named by its file and line.
    """

    def make(record: Record) -> QuestionExample | RejectedRecord:
        texts = text_in(record, question), text_in(record, context)
        for one in texts:
            if isinstance(one, RejectedRecord):
                return one
        if identifier is not None and identifier != "id" and identifier not in record.values:
            return missing_column(record, identifier)
        name = str(record.origin if identifier is None else record.values.get(identifier, record.origin))
        return question_example(record, name, str(texts[0]), str(texts[1]), answers)

    return Examples(source, make, skip_bad)


def question_example(
    record: Record, identifier: str, question: str, context: str, column: str | None
) -> QuestionExample | RejectedRecord:
    """A question with the answers in `column`, all of which must be at their offsets."""
    answers: list[AcceptedAnswer] = []
    if column is not None:
        if column not in record.values:
            return missing_column(record, column)
        for text, begin in _answers(record.values[column]):
            if not isinstance(text, str) or not isinstance(begin, int) or not text:
                sentence = f"question {identifier}: an answer needs a text and answer_start, its offset in the context."
                return RejectedRecord("invalid answer", sentence, record.origin)
            if begin < 0 or context[begin : begin + len(text)] != text:
                return RejectedRecord(
                    "answer not at its offset", _misplaced(identifier, context, text, begin), record.origin
                )
            answers.append(AcceptedAnswer(text, begin))
    return QuestionExample(identifier, question, context, tuple(answers), record.origin)


def _answers(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        texts, begins = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(begins, list) and len(texts) == len(begins):
            return list(zip(texts, begins, strict=True))
        return [(None, None)]
    if isinstance(value, list):
        return [(one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (None, None) for one in value]
    return [(None, None)]


def _misplaced(identifier: str, context: str, text: str, begin: int) -> str:
    offset = context.find(text)
    remark = f"it is at {offset}" if offset >= 0 else "the context does not hold it"
    return f"question {identifier}: the answer {text!r} is not at {begin}; {remark}. Offsets count characters."
