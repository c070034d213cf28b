"""The task of answering questions from a text, which may not hold the answer."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from modernbert.model.config import EncoderConfig
from modernbert.model.heads import QuestionAnswering, TaskModel
from modernbert.tasks.answer.folder import AnswerFolderSettings
from modernbert.tasks.answer.reading import QuestionColumns, QuestionExample, read_questions
from modernbert.tasks.answer.scores import squad_scores
from modernbert.tasks.answer.windows import Answer, EncodedQuestions, decode_answers, encode_questions
from modernbert.tasks.metrics import mean
from modernbert.tasks.reading import Examples
from modernbert.tasks.task import Encoded, ExampleResult, Item, LabelledBatch, Measure, Outputs, Task, origin_fields
from modernbert.text.records import Source


class AnswerQuestions(Task[QuestionExample, list[Answer]]):
    """The span of a context that answers a question. "No answer" is predicted only if the training data has it."""

    name = "answer"
    head = QuestionAnswering
    columns_type = QuestionColumns
    metric_names = ("f1", "exact")
    some_unanswered = False
    unit: Literal["words", "characters"] = "words"  # of F1

    def examples(self, source: Source) -> Examples[QuestionExample]:
        columns = self.settings.columns
        assert isinstance(columns, QuestionColumns)
        return read_questions(
            source,
            question=columns.question,
            context=columns.context,
            answers=columns.answers,
            identifier=columns.identifier,
            skip_bad=self.settings.skip_bad,
        )

    def learn_labels(self, examples: Sequence[QuestionExample]) -> None:
        self.some_unanswered = any(not example.answers for example in examples)
        self.prepare_metrics(examples)

    def restore_labels(self, config: EncoderConfig) -> None:
        self.some_unanswered = not AnswerFolderSettings.of(config).always_answers

    def prepare_metrics(self, examples: Sequence[QuestionExample]) -> None:
        contexts = {example.context for example in examples}
        characters = sum(map(len, contexts))
        spaces = sum(sum(character.isspace() for character in context) for context in contexts)
        self.unit = "words" if spaces > 0.05 * characters else "characters"  # about 1 % in Japanese

    def group(self, example: QuestionExample) -> str:
        return example.context

    def folder_settings(self) -> AnswerFolderSettings:
        return AnswerFolderSettings(
            **self.common_settings(),
            max_answer_tokens=self.settings.max_answer_tokens,
            always_answers=not self.some_unanswered,
        )

    def encode(self, examples: list[QuestionExample]) -> Encoded[QuestionExample]:
        encoded = encode_questions(self.tokenizer, examples, max_length=self.max_length, overlap=self.overlap_tokens)
        items = [Item((window.ids,), window.labels) for window in encoded.windows]
        notes = {"windows": len(items), "truncated questions": encoded.truncated, "lost answers": encoded.lost}
        return Encoded(examples, items, encoded, notes)

    def head_loss(self, model: TaskModel, batch: LabelledBatch) -> Tensor:
        assert isinstance(model, QuestionAnswering)
        return model.loss(batch.tokens, batch.sequences, batch.labels, batch.total)

    def predictions(self, encoded: Encoded[QuestionExample], outputs: Outputs) -> list[list[Answer]]:
        assert isinstance(encoded.state, EncodedQuestions)
        return decode_answers(
            encoded.state,
            outputs,
            max_answer_tokens=self.settings.max_answer_tokens,
            no_answer_threshold=0.0 if self.some_unanswered else None,
        )

    def measures(self, examples: Sequence[QuestionExample], predictions: Sequence[list[Answer]]) -> dict[str, Measure]:
        scores = squad_scores(
            [_best(answers).text for answers in predictions],
            [[answer.text for answer in example.answers] for example in examples],
            unit=self.unit,
        )
        return {"f1": Measure(mean, (scores[:, 1],)), "exact": Measure(mean, (scores[:, 0],))}

    def result(self, example: QuestionExample, prediction: list[Answer]) -> ExampleResult:
        best = _best(prediction)
        expected = [answer.text for answer in example.answers]
        correct = best.text in expected or (not best.text and not expected)
        record = {
            **origin_fields(example.origin),
            "id": example.identifier,
            "question": example.question,
            "expected": expected,
            "predicted": best.text,
            "begin": best.begin,
            "end": best.end,
            "score": best.probability,
        }
        return ExampleResult(
            example.question,
            " | ".join(dict.fromkeys(expected)) or "no answer",
            best.text or "no answer",
            0.0 if correct else best.probability,
            record,
        )


def _best(answers: list[Answer]) -> Answer:
    return answers[0] if answers else Answer("", 0, 0, 0.0, 0.0)
