"""Choose the correct one of several possible answers to a question (`choose`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat, overload

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import DataError
from modernbert.model.heads import MultipleChoice, TaskModel
from modernbert.tasks.inputs import as_list, check_text
from modernbert.tasks.metrics import accuracy
from modernbert.tasks.outputs import outputs, warn_truncated
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.reading import Columns, Examples, is_unicode, label_text, text_in
from modernbert.tasks.task import Encoded, ExampleResult, Item, LabelledBatch, Measure, Outputs, Task, origin_fields
from modernbert.text.framing import EncodedTexts, encode_texts
from modernbert.text.records import Origin, Record, RejectedRecord, Source, missing_column

Probabilities = npt.NDArray[np.floating]  # (choices,)


@dataclass(frozen=True)
class ChoiceExample:
    """A question and its choices; `label` is the index of the correct one, or None in prediction."""

    question: str
    choices: tuple[str, ...]
    label: int | None
    origin: Origin


class ChoiceColumns(Columns):
    """The columns of questions with choices."""

    question: str = "question"  # the column of the questions
    choices: str | tuple[str, ...] = "choices"  # one column of lists, or several columns
    label: str = "label"  # the index of the correct choice, from 0, or its text


def read_choices(
    source: Source | str | Path,
    *,
    question: str = "question",
    choices: str | Sequence[str] = "choices",
    label: str | None = "label",
    skip_bad: bool = False,
) -> Examples[ChoiceExample]:
    """Questions with choices. `choices` is one column with a list, or several columns.

    `label` is the index of the correct choice, from 0, or its text, or its name if `choices` has the form {"text",
    "label"}. If `label` is None, no labels are read, for prediction.
    """

    def make(record: Record) -> ChoiceExample | RejectedRecord:
        text = text_in(record, question)
        if isinstance(text, RejectedRecord):
            return text
        texts, names = _choices(record, choices)
        if isinstance(texts, RejectedRecord):
            return texts
        if label is None:
            return ChoiceExample(text, texts, None, record.origin)
        if label not in record.values:
            return missing_column(record, label)
        correct = _correct_choice(record.values[label], texts, names)
        if correct is None:
            sentence = (
                f"{label} is {record.values[label]!r}; give the number of the correct choice, from 0 to "
                f"{len(texts) - 1}, or its text."
            )
            return RejectedRecord("label outside the choices", sentence, record.origin)
        return ChoiceExample(text, texts, correct, record.origin)

    return Examples(source, make, skip_bad)


def encode_choices(tokenizer: Tokenizer, examples: Sequence[ChoiceExample], *, max_length: int) -> EncodedTexts:
    """A pair of question and choice for every choice of every example, in order."""
    questions = [example.question for example in examples for _ in example.choices]
    choices = [choice for example in examples for choice in example.choices]
    return encode_texts(tokenizer, questions, choices, max_length=max_length)


def decode_choices(examples: Sequence[ChoiceExample], scores: Iterable[SupportsFloat]) -> list[Probabilities]:
    """The probabilities of the choices of each question, from the scores of all choices of all questions in order."""
    remaining = iter(scores)
    by_question = [torch.tensor([float(next(remaining)) for _ in example.choices]) for example in examples]
    return [question_scores.softmax(-1).numpy() for question_scores in by_question]


class Choose(Task[ChoiceExample, Probabilities]):
    """Choose the correct one of several answers. Questions may have different numbers of choices."""

    name = "choose"
    head = MultipleChoice
    columns_type = ChoiceColumns
    metric_names = ("accuracy",)

    def examples(self, source: Source) -> Examples[ChoiceExample]:
        columns = self.settings.columns
        assert isinstance(columns, ChoiceColumns)
        return read_choices(
            source,
            question=columns.question,
            choices=columns.choices,
            label=columns.label,
            skip_bad=self.settings.skip_bad,
        )

    def group(self, example: ChoiceExample) -> str:
        return example.question

    def encode(self, examples: list[ChoiceExample]) -> Encoded[ChoiceExample]:
        encoded = encode_choices(self.tokenizer, examples, max_length=self.max_length)
        ids = iter(encoded.ids)
        items = [
            Item(tuple(next(ids) for _ in example.choices), np.array(_expected(example), dtype=np.int64))
            for example in examples
        ]
        return Encoded(examples, items, notes={"truncated": encoded.truncated})

    def head_loss(self, model: TaskModel, batch: LabelledBatch) -> Tensor:
        assert isinstance(model, MultipleChoice)
        return model.loss(batch.tokens, batch.sequences, batch.labels, batch.sequences_per_item, batch.total)

    def predictions(self, encoded: Encoded[ChoiceExample], outputs: Outputs) -> list[Probabilities]:
        return decode_choices(encoded.examples, outputs)

    def measures(self, examples: Sequence[ChoiceExample], predictions: Sequence[Probabilities]) -> dict[str, Measure]:
        chosen = np.array([int(one.argmax()) for one in predictions])
        return {"accuracy": Measure(accuracy, (chosen, np.array([_expected(example) for example in examples])))}

    def baseline(self, train: Sequence[ChoiceExample], examples: Sequence[ChoiceExample]) -> list[Probabilities]:
        """The index that is correct most often."""
        index = int(np.bincount([_expected(example) for example in train]).argmax())
        return [np.eye(len(example.choices))[index % len(example.choices)] for example in examples]

    def result(self, example: ChoiceExample, prediction: Probabilities) -> ExampleResult:
        best = int(prediction.argmax())
        record = {
            **origin_fields(example.origin),
            "question": example.question,
            "choices": list(example.choices),
            "expected": _expected(example),
            "predicted": best,
            "scores": prediction.tolist(),
        }
        error = 0.0 if best == _expected(example) else float(prediction[best])
        return ExampleResult(
            example.question, example.choices[_expected(example)], example.choices[best], error, record
        )


@dataclass(frozen=True)
class Choice:
    """A choice: its text and its index among the choices of its question, from 0.

    `score` is its logit; the probabilities of the choices of a question add up to 1.
    """

    index: int
    text: str
    score: float
    probability: float


class ChoiceAnswerer(Predictor[MultipleChoice]):
    """Ranks the choices of a question. Question and choice are read together and truncated to `max_length`."""

    kind = MultipleChoice

    @overload
    def __call__(self, questions: str, choices: Sequence[str]) -> list[Choice]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, questions: Sequence[str], choices: Sequence[Sequence[str]]) -> list[list[Choice]]: ...
    def __call__(
        self, questions: str | Sequence[str], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[Choice] | list[list[Choice]]:
        """The choices of a question, best first. The probabilities add up to 1.

        For a list of questions, give a list of lists of choices; the result is a list for each question. The number of
        truncated pairs of question and choice is logged.

        Raises:
            DataError: a question or a choice is empty, a question has fewer than two choices, or there are not as many
                lists of choices as questions.
        """
        if isinstance(questions, str):
            return self._rank([_example(1, questions, choices)])[0]
        question_list, choice_lists = as_list(questions), [] if isinstance(choices, str) else as_list(choices)
        if len(question_list) != len(choice_lists):
            raise DataError(f"Give one list of choices for each of the {len(question_list)} questions.")
        pairs = zip(question_list, choice_lists, strict=True)
        return self._rank([_example(number, *pair) for number, pair in enumerate(pairs, 1)])

    def _rank(self, examples: list[ChoiceExample]) -> list[list[Choice]]:
        encoded = encode_choices(self.tokenizer, examples, max_length=self.max_length)
        warn_truncated(encoded, self.max_length)
        scores = [float(one) for one in outputs(self.model, encoded.ids)]
        remaining = iter(scores)
        return [
            _ranked(example, [next(remaining) for _ in example.choices], probabilities)
            for example, probabilities in zip(examples, decode_choices(examples, scores), strict=True)
        ]


def _example(number: int, question: object, choices: object) -> ChoiceExample:
    question_text = check_text(question, f"Question {number}")
    choice_list = [] if isinstance(choices, str) else as_list(choices)
    if len(choice_list) < 2:
        raise DataError(f"Question {number} needs a list of at least two choices, all texts.")
    texts = tuple(
        check_text(choice, f"Choice {index} of question {number}") for index, choice in enumerate(choice_list, 1)
    )
    return ChoiceExample(question_text, texts, None, Origin("question", number))


def _ranked(example: ChoiceExample, scores: Sequence[float], probabilities: Probabilities) -> list[Choice]:
    scored = zip(example.choices, scores, probabilities.tolist(), strict=True)
    choices = [Choice(index, text, score, probability) for index, (text, score, probability) in enumerate(scored)]
    return sorted(choices, key=lambda one: -one.score)


def _choices(record: Record, choices: str | Sequence[str]) -> tuple[tuple[str, ...] | RejectedRecord, list[str]]:
    """The choices of a record, and their names."""
    names: list[str] = []
    texts: Any
    if isinstance(choices, str):
        if choices not in record.values:
            return missing_column(record, choices), names
        texts = record.values[choices]
        if isinstance(texts, dict) and isinstance(texts.get("label"), list):
            texts, names = texts.get("text"), [str(name) for name in texts["label"]]
    else:
        texts = [text_in(record, column) for column in choices]
        for one in texts:
            if isinstance(one, RejectedRecord):
                return one, names
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(one, str) for one in texts):
        sentence = "there must be a list of at least two choices, all texts."
        return RejectedRecord("invalid choices", sentence, record.origin), names
    if not all(one.strip() for one in texts):
        sentence = "a choice is empty; give it a text, or leave the example out."
        return RejectedRecord("empty text", sentence, record.origin), names
    if not all(map(is_unicode, texts)):
        sentence = "a choice holds an unpaired surrogate; write it again."
        return RejectedRecord("unpaired surrogate", sentence, record.origin), names
    return tuple(texts), names


def _correct_choice(value: Any, choices: Sequence[str], names: Sequence[str]) -> int | None:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    label = label_text(value)
    for texts in (names, choices):
        same = [number for number, text in enumerate(texts) if isinstance(value, str) and label_text(text) == label]
        if len(same) == 1:
            return same[0]
    number = int(label) if label is not None and label.isdecimal() and len(label) < 10 else -1
    return number if 0 <= number < len(choices) else None


def _expected(example: ChoiceExample) -> int:
    assert example.label is not None, "read with labels"
    return example.label
