"""Which label a text has, which labels, or which number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from torch import Tensor

from modernbert.errors import DataError
from modernbert.model import SequenceClassifier
from modernbert.tasks.inputs import checked, listed
from modernbert.tasks.outputs import outputs, warn_of_cut
from modernbert.tasks.predictor import Predictor
from modernbert.text.framing import encode_texts

Text = str | tuple[str, str]  # a text, or a pair of texts


@dataclass(frozen=True)
class LabelScore:
    """A label and its probability; of a model that predicts numbers, its name and the number."""

    label: str
    score: float


class Classifier(Predictor[SequenceClassifier]):
    """The labels that a fine-tuned model gives to texts, or to pairs of texts. Longer ones are cut to `max_length`."""

    kind = SequenceClassifier

    @overload
    def __call__(self, texts: str) -> list[LabelScore]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[Text]) -> list[list[LabelScore]]: ...
    def __call__(self, texts: str | Sequence[Text]) -> list[LabelScore] | list[list[LabelScore]]:
        """Every label with its probability, best first; a list of such for any sequence of texts (list, tuple, array).

        In place of a text in a sequence a tuple of two is a pair; of one pair alone give `[(first, second)]`.
        Classes share a probability of 1; where a text may have several labels, each has its own. How many texts are
        too long and are cut is said.

        Raises:
            DataError: a text is empty or is no text.
        """
        if isinstance(texts, str):
            return self._classify([texts])[0]
        return self._classify(listed(texts))

    def _classify(self, texts: Sequence[object]) -> list[list[LabelScore]]:
        pairs = [_pair(number, text) for number, text in enumerate(texts, 1)]
        encoded = encode_texts(
            self.tokenizer, [text for text, _ in pairs], [pair for _, pair in pairs], max_length=self.max_length
        )
        warn_of_cut(encoded, self.max_length)
        found = [scores(self.model.problem_type, logits).tolist() for logits in outputs(self.model, encoded.ids)]
        labels = self.model.config.labels
        ranked = [sorted(zip(values, labels, strict=True), key=lambda one: -one[0]) for values in found]
        return [[LabelScore(label, value) for value, label in row] for row in ranked]


def _pair(number: int, given: object) -> tuple[str, str | None]:
    if isinstance(given, tuple) and len(given) == 2:
        first, second = (checked(one, f"The {which} text of pair {number}")
                         for one, which in zip(given, ("first", "second"), strict=True))  # fmt: skip
        return first, second
    if isinstance(given, tuple | list):
        raise DataError(f"Text {number} is a {type(given).__name__} of {len(given)}; a pair is a tuple of two texts.")
    return checked(given, f"Text {number}"), None


def scores(problem_type: str, logits: Tensor) -> Tensor:
    """Probabilities of the labels, or the numbers."""
    if problem_type == "single_label_classification":
        return logits.softmax(-1)
    return logits.sigmoid() if problem_type == "multi_label_classification" else logits
