"""Which label a text has, which labels, or which number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from torch import Tensor

from modernbert.data.encoding import encode_texts
from modernbert.errors import DataError
from modernbert.inference.packing import outputs, warn_of_cut
from modernbert.inference.predictor import Predictor
from modernbert.model import SequenceClassifier

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
    def __call__(self, texts: Text) -> list[LabelScore]: ...
    @overload
    def __call__(self, texts: list[str] | list[tuple[str, str]] | list[Text]) -> list[list[LabelScore]]: ...
    def __call__(
        self, texts: Text | list[str] | list[tuple[str, str]] | list[Text]
    ) -> list[LabelScore] | list[list[LabelScore]]:
        """Every label with its probability, best first; a list of such for a list of texts. A tuple is a pair.

        Classes share a probability of 1; where a text may have several labels, each has its own. How many texts are
        too long and are cut is said.

        Raises:
            DataError: a text is empty.
        """
        if not isinstance(texts, list):
            return self._classify([texts])[0]
        return self._classify(texts)

    def _classify(self, texts: Sequence[Text]) -> list[list[LabelScore]]:
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        for number, parts in enumerate(pairs, 1):
            if not all(part is None or part.strip() for part in parts):
                raise DataError(f"Text {number} is empty; leave it out.")
        encoded = encode_texts(
            self.tokenizer, [text for text, _ in pairs], [pair for _, pair in pairs], max_length=self.max_length
        )
        warn_of_cut(encoded, self.max_length)
        found = [scores(self.model.problem_type, logits).tolist() for logits in outputs(self.model, encoded.ids)]
        labels = self.model.config.labels
        ranked = [sorted(zip(values, labels, strict=True), key=lambda one: -one[0]) for values in found]
        return [[LabelScore(label, value) for value, label in row] for row in ranked]


def scores(problem_type: str, logits: Tensor) -> Tensor:
    """Probabilities of the labels, or the numbers."""
    if problem_type == "single_label_classification":
        return logits.softmax(-1)
    return logits.sigmoid() if problem_type == "multi_label_classification" else logits
