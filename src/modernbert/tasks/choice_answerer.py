"""The right one of several possible answers to a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch

from modernbert.errors import DataError
from modernbert.model import MultipleChoice
from modernbert.tasks.inputs import checked, listed
from modernbert.tasks.outputs import outputs, warn_of_cut
from modernbert.tasks.predictor import Predictor
from modernbert.text.examples import ChoiceExample, Origin
from modernbert.text.framing import encode_choices


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
        lists. How many pairs of question and choice are too long and are cut is said.

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
        scores = iter(outputs(self.model, encoded.ids))
        return [_ranked(example, torch.stack([next(scores) for _ in example.choices])) for example in examples]


def _example(number: int, question: object, choices: object) -> ChoiceExample:
    asked = checked(question, f"Question {number}")
    offered = [] if isinstance(choices, str) else listed(choices)
    if len(offered) < 2:
        raise DataError(f"Question {number} needs a list of at least two choices, all texts.")
    texts = tuple(checked(one, f"Choice {place} of question {number}") for place, one in enumerate(offered, 1))
    return ChoiceExample(asked, texts, None, Origin("question", number))


def _ranked(example: ChoiceExample, scores: torch.Tensor) -> list[Choice]:
    rows = zip(example.choices, scores.tolist(), scores.softmax(-1).tolist(), strict=True)
    found = [Choice(index, text, score, probability) for index, (text, score, probability) in enumerate(rows)]
    return sorted(found, key=lambda one: -one.score)
