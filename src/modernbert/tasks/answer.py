"""Questions whose answers stand in a text, or do not."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from modernbert.model.config import EncoderConfig
from modernbert.model.heads import QuestionAnswering, TaskModel
from modernbert.packed import Sequences
from modernbert.tasks.encoding_questions import EncodedQuestions, Reply, decode_answers, encode_questions
from modernbert.tasks.metrics import mean, squad_scores
from modernbert.tasks.reading import Examples, Source, read_questions
from modernbert.tasks.task import Encoded, Item, Judgement, Measure, Outputs, Task
from modernbert.text.examples import QuestionExample


class Questions(Task[QuestionExample, list[Reply]]):
    """The stretch of a context that answers a question; none where some training question has none."""

    head = QuestionAnswering
    metric_names = ("f1", "exact")
    some_unanswered = False
    unit: Literal["words", "characters"] = "words"  # that F1 is over

    def examples(self, source: Source) -> Examples[QuestionExample]:
        data = self.recipe.data
        return read_questions(
            source,
            question=data.question,
            context=data.context,
            answers=data.answers,
            identifier=data.identifier,
            skip_bad=self.recipe.skip_bad,
        )

    def learn_labels(self, examples: Sequence[QuestionExample]) -> None:
        self.some_unanswered = any(not example.answers for example in examples)
        self.look_at(examples)

    def recall(self, config: EncoderConfig) -> None:
        self.some_unanswered = not config.always_answers

    def look_at(self, examples: Sequence[QuestionExample]) -> None:
        contexts = {example.context for example in examples}
        characters = sum(map(len, contexts))
        spaces = sum(sum(character.isspace() for character in context) for context in contexts)
        self.unit = "words" if spaces > 0.05 * characters else "characters"  # of Japanese 1 in 100 is one

    def group(self, example: QuestionExample) -> str:
        return example.context

    def changes(self) -> dict[str, Any]:
        return super().changes() | {"always_answers": not self.some_unanswered}

    def encode(self, examples: list[QuestionExample]) -> Encoded[QuestionExample]:
        found = encode_questions(self.tokenizer, examples, max_length=self.max_length, stride=self.stride)
        items = [Item((window.ids,), window.labels) for window in found.windows]
        notes = {"windows": len(items), "truncated questions": found.truncated, "lost answers": found.lost}
        return Encoded(examples, items, found, notes)

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
        assert isinstance(model, QuestionAnswering)
        return model.loss(tokens, sequences, labels, total)

    def predictions(self, encoded: Encoded[QuestionExample], outputs: Outputs) -> list[list[Reply]]:
        assert isinstance(encoded.state, EncodedQuestions)
        return decode_answers(
            encoded.state,
            outputs,
            max_answer_tokens=self.recipe.max_answer_tokens,
            no_answer_threshold=0.0 if self.some_unanswered else None,
        )

    def measures(self, examples: Sequence[QuestionExample], predictions: Sequence[list[Reply]]) -> dict[str, Measure]:
        scores = squad_scores(
            [_best(replies).text for replies in predictions],
            [[answer.text for answer in example.answers] for example in examples],
            unit=self.unit,
        )
        return {"f1": Measure(mean, (scores[:, 1],)), "exact": Measure(mean, (scores[:, 0],))}

    def judge(self, example: QuestionExample, prediction: list[Reply]) -> Judgement:
        best = _best(prediction)
        expected = [answer.text for answer in example.answers]
        right = best.text in expected or (not best.text and not expected)
        record = {
            "file": example.origin.file,
            "line": example.origin.line,
            "id": example.identifier,
            "question": example.question,
            "expected": expected,
            "predicted": best.text,
            "begin": best.begin,
            "end": best.end,
            "score": best.probability,
        }
        return Judgement(
            example.question,
            " | ".join(dict.fromkeys(expected)) or "no answer",
            best.text or "no answer",
            0.0 if right else best.probability,
            record,
        )


def _best(replies: list[Reply]) -> Reply:
    return replies[0] if replies else Reply("", 0, 0, 0.0, 0.0)
