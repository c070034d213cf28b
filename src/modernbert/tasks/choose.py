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
from modernbert.tasks.inputs import checked, listed
from modernbert.tasks.metrics import accuracy
from modernbert.tasks.outputs import outputs, warn_of_cut
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.reading import Columns, Examples, is_unicode, label_text, text_in
from modernbert.tasks.task import Encoded, ExampleResult, Item, LabelledBatch, Measure, Outputs, Task, place_of
from modernbert.text.framing import EncodedTexts, encode_texts
from modernbert.text.records import Origin, Record, RejectedRecord, Source, missing_column

Probabilities = npt.NDArray[np.floating]  # (choices,)


@dataclass(frozen=True)
class ChoiceExample:
    """A question and its possible answers; `label` is the number of the correct one, or None in prediction."""

    question: str
    choices: tuple[str, ...]
    label: int | None
    origin: Origin


class ChoiceColumns(Columns):
    """The columns of questions with choices."""

    question: str = "question"  # the column of the questions
    choices: str | tuple[str, ...] = "choices"  # one column of lists, or several columns
    label: str = "label"  # the number of the correct choice, from 0, or its text


def read_choices(
    source: Source | str | Path,
    *,
    question: str = "question",
    choices: str | Sequence[str] = "choices",
    label: str | None = "label",
    skip_bad: bool = False,
) -> Examples[ChoiceExample]:
    """Questions with possible answers. `choices` is one column that holds a list, or several columns.

    `label` is the number of the correct one, from 0, or its text, or, where the list comes as {"text", "label"}, its
    name. Without it no label is read, for prediction.
    """

    def make(record: Record) -> ChoiceExample | RejectedRecord:
        text = text_in(record, question)
        if isinstance(text, RejectedRecord):
            return text
        offered, names = _offered(record, choices)
        if isinstance(offered, RejectedRecord):
            return offered
        if label is None:
            return ChoiceExample(text, offered, None, record.origin)
        if label not in record.values:
            return missing_column(record, label)
        correct = _correct_choice(record.values[label], offered, names)
        if correct is None:
            sentence = (
                f"{label} is {record.values[label]!r}; give the number of the correct choice, from 0 to "
                f"{len(offered) - 1}, or its text."
            )
            return RejectedRecord("label outside the choices", sentence, record.origin)
        return ChoiceExample(text, offered, correct, record.origin)

    return Examples(source, make, skip_bad)


def encode_choices(tokenizer: Tokenizer, examples: Sequence[ChoiceExample], *, max_length: int) -> EncodedTexts:
    """The pair of question and choice for every choice of every example, one after the other."""
    questions = [example.question for example in examples for _ in example.choices]
    choices = [choice for example in examples for choice in example.choices]
    return encode_texts(tokenizer, questions, choices, max_length=max_length)


def decode_choices(examples: Sequence[ChoiceExample], scores: Iterable[SupportsFloat]) -> list[Probabilities]:
    """The probability of each choice of each question, from one score for each choice of all questions in order."""
    remaining = iter(scores)
    own = [torch.tensor([float(next(remaining)) for _ in example.choices]) for example in examples]
    return [one.softmax(-1).numpy() for one in own]


class Choose(Task[ChoiceExample, Probabilities]):
    """The correct one of several answers, whose number may differ between questions."""

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
        """Always the position that is correct most often."""
        most = int(np.bincount([_expected(example) for example in train]).argmax())
        return [np.eye(len(example.choices))[most % len(example.choices)] for example in examples]

    def result(self, example: ChoiceExample, prediction: Probabilities) -> ExampleResult:
        best = int(prediction.argmax())
        record = {
            **place_of(example.origin),
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
    """A possible answer: its text, and its number among the choices of its question, from 0.

    `score` is the logit that the model gives it; `probability` is among the choices of the question.
    """

    index: int
    text: str
    score: float
    probability: float


class ChoiceAnswerer(Predictor[MultipleChoice]):
    """Ranks the possible answers to a question. Question and choice are read together and cut to `max_length`."""

    kind = MultipleChoice

    @overload
    def __call__(self, questions: str, choices: Sequence[str]) -> list[Choice]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, questions: Sequence[str], choices: Sequence[Sequence[str]]) -> list[list[Choice]]: ...
    def __call__(
        self, questions: str | Sequence[str], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[Choice] | list[list[Choice]]:
        """The choices of a question, best first. The probabilities add up to 1.

        A list of questions and a list of their choices, which may be a different number for each, give a list of such
        lists. The number of pairs of question and choice that are too long and are cut is logged.

        Raises:
            DataError: a question or a choice is empty, a question has fewer than two choices, or there are not as many
                lists of choices as questions.
        """
        if isinstance(questions, str):
            return self._rank([_example(1, questions, choices)])[0]
        asked, offered = listed(questions), [] if isinstance(choices, str) else listed(choices)
        if len(asked) != len(offered):
            raise DataError(f"Give one list of choices for each of the {len(asked)} questions.")
        pairs = zip(asked, offered, strict=True)
        return self._rank([_example(number, *pair) for number, pair in enumerate(pairs, 1)])

    def _rank(self, examples: list[ChoiceExample]) -> list[list[Choice]]:
        encoded = encode_choices(self.tokenizer, examples, max_length=self.max_length)
        warn_of_cut(encoded, self.max_length)
        scores = [float(one) for one in outputs(self.model, encoded.ids)]
        remaining = iter(scores)
        return [
            _ranked(example, [next(remaining) for _ in example.choices], probabilities)
            for example, probabilities in zip(examples, decode_choices(examples, scores), strict=True)
        ]


def _example(number: int, question: object, choices: object) -> ChoiceExample:
    asked = checked(question, f"Question {number}")
    offered = [] if isinstance(choices, str) else listed(choices)
    if len(offered) < 2:
        raise DataError(f"Question {number} needs a list of at least two choices, all texts.")
    texts = tuple(checked(one, f"Choice {place} of question {number}") for place, one in enumerate(offered, 1))
    return ChoiceExample(asked, texts, None, Origin("question", number))


def _ranked(example: ChoiceExample, scores: Sequence[float], probabilities: Probabilities) -> list[Choice]:
    rows = zip(example.choices, scores, probabilities.tolist(), strict=True)
    choices = [Choice(index, text, score, probability) for index, (text, score, probability) in enumerate(rows)]
    return sorted(choices, key=lambda one: -one.score)


def _offered(record: Record, choices: str | Sequence[str]) -> tuple[tuple[str, ...] | RejectedRecord, list[str]]:
    """The choices of a record, and the names that it has for them."""
    names: list[str] = []
    offered: Any
    if isinstance(choices, str):
        if choices not in record.values:
            return missing_column(record, choices), names
        offered = record.values[choices]
        if isinstance(offered, dict) and isinstance(offered.get("label"), list):
            offered, names = offered.get("text"), [str(name) for name in offered["label"]]
    else:
        offered = [text_in(record, column) for column in choices]
        for one in offered:
            if isinstance(one, RejectedRecord):
                return one, names
    if not isinstance(offered, list) or len(offered) < 2 or not all(isinstance(one, str) for one in offered):
        sentence = "there must be a list of at least two choices, all texts."
        return RejectedRecord("no choices", sentence, record.origin), names
    if not all(one.strip() for one in offered):
        sentence = "a choice is empty; give it a text, or leave the example out."
        return RejectedRecord("empty text", sentence, record.origin), names
    if not all(map(is_unicode, offered)):
        sentence = "a choice holds an unpaired surrogate; write it again."
        return RejectedRecord("unpaired surrogate", sentence, record.origin), names
    return tuple(offered), names


def _correct_choice(value: Any, offered: Sequence[str], names: Sequence[str]) -> int | None:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, str) and value in offered:
        return offered.index(value)
    written = label_text(value)
    for texts in (names, offered):
        same = [number for number, text in enumerate(texts) if isinstance(value, str) and label_text(text) == written]
        if len(same) == 1:
            return same[0]
    number = int(written) if written is not None and written.isdecimal() and len(written) < 10 else -1
    return number if 0 <= number < len(offered) else None


def _expected(example: ChoiceExample) -> int:
    assert example.label is not None, "read with labels"
    return example.label
