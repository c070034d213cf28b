"""A question, its context and its answers out of a record."""

from typing import Any

from modernbert.text.examples import Answer, QuestionExample
from modernbert.text.records import Bad, Record, missing_column


def question_example(
    record: Record, identifier: str, question: str, context: str, column: str | None
) -> QuestionExample | Bad:
    """A question with the answers that `column` holds; all of them must stand where they say."""
    answers: list[Answer] = []
    if column is not None:
        if column not in record.values:
            return missing_column(record, column)
        for text, begin in _answers(record.values[column]):
            if not isinstance(text, str) or not isinstance(begin, int) or not text:
                sentence = f"question {identifier}: an answer needs a text and answer_start, its place in the context."
                return Bad("strange answer", sentence, record.origin)
            if begin < 0 or context[begin : begin + len(text)] != text:
                return Bad("answer not at its place", _misplaced(identifier, context, text, begin), record.origin)
            answers.append(Answer(text, begin))
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
    place = context.find(text)
    where = f"it stands at {place}" if place >= 0 else "the context does not hold it"
    return f"question {identifier}: the answer {text!r} is not at {begin}; {where}. Offsets count characters."
