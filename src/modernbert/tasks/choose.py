"""Questions with possible answers, one of which is right."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modernbert.model.heads import MultipleChoice, TaskModel
from modernbert.packed import Sequences
from modernbert.tasks.metrics import accuracy
from modernbert.tasks.reading import Examples, Source, read_choices
from modernbert.tasks.task import Encoded, Item, Judgement, Measure, Outputs, Task
from modernbert.text.examples import ChoiceExample
from modernbert.text.framing import encode_choices

Probabilities = npt.NDArray[np.floating]


class Choose(Task[ChoiceExample, Probabilities]):
    """The right one of several answers, which may be a different number for each question."""

    head = MultipleChoice
    metric_names = ("accuracy",)

    def examples(self, source: Source) -> Examples[ChoiceExample]:
        data = self.recipe.data
        return read_choices(
            source, question=data.question, choices=data.choices, label=str(data.label), skip_bad=self.recipe.skip_bad
        )

    def group(self, example: ChoiceExample) -> str:
        return example.question

    def encode(self, examples: list[ChoiceExample]) -> Encoded[ChoiceExample]:
        found = encode_choices(self.tokenizer, examples, max_length=self.max_length)
        ids = iter(found.ids)
        items = [
            Item(tuple(next(ids) for _ in example.choices), np.array(_right(example), dtype=np.int64))
            for example in examples
        ]
        return Encoded(examples, items, notes={"truncated": found.truncated})

    def head_loss(
        self,
        model: TaskModel,
        tokens: Tensor,
        sequences: Sequences,
        labels: Tensor,
        items: Sequence[Item],
        total: float,
        weights: Tensor | None,
    ) -> Tensor:
        assert isinstance(model, MultipleChoice)
        return model.loss(tokens, sequences, labels, tuple(len(item.sequences) for item in items), total)

    def predictions(self, encoded: Encoded[ChoiceExample], outputs: Outputs) -> list[Probabilities]:
        scores = iter(outputs)
        found = []
        for example in encoded.examples:
            own = np.array([float(next(scores)) for _ in example.choices])
            weights = np.exp(own - own.max())
            found.append(weights / weights.sum())
        return found

    def measures(self, examples: Sequence[ChoiceExample], predictions: Sequence[Probabilities]) -> dict[str, Measure]:
        chosen = np.array([int(found.argmax()) for found in predictions])
        return {"accuracy": Measure(accuracy, (chosen, np.array([_right(example) for example in examples])))}

    def guess(self, train: Sequence[ChoiceExample], examples: Sequence[ChoiceExample]) -> list[Probabilities]:
        """Always the choice that is right most often."""
        most = int(np.bincount([_right(example) for example in train]).argmax())
        return [np.eye(len(example.choices))[most % len(example.choices)] for example in examples]

    def judge(self, example: ChoiceExample, prediction: Probabilities) -> Judgement:
        best = int(prediction.argmax())
        record = {
            "file": example.origin.file,
            "line": example.origin.line,
            "question": example.question,
            "choices": list(example.choices),
            "expected": _right(example),
            "predicted": best,
            "scores": prediction.tolist(),
        }
        wrong = 0.0 if best == _right(example) else float(prediction[best])
        return Judgement(example.question, example.choices[_right(example)], example.choices[best], wrong, record)


def _right(example: ChoiceExample) -> int:
    assert example.label is not None, "read with labels"
    return example.label
