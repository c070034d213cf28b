"""The predictor of answers: the span of a text that answers a question, or no answer."""

from collections.abc import Sequence
from typing import overload

from modernbert.errors import DataError
from modernbert.model import QuestionAnswering
from modernbert.tasks.answer.folder import AnswerFolderSettings
from modernbert.tasks.answer.reading import QuestionExample
from modernbert.tasks.answer.windows import Answer, decode_answers, encode_questions
from modernbert.tasks.inputs import as_list, check_count, check_texts
from modernbert.tasks.outputs import outputs
from modernbert.tasks.predictor import Predictor
from modernbert.text.records import Origin


class QuestionAnswerer(Predictor[QuestionAnswering]):
    """Answers questions over contexts of any length: contexts above `max_length` are read in overlapping windows."""

    kind = QuestionAnswering

    @overload
    def __call__(self, questions: str, contexts: str, top_k: int = 3) -> list[Answer]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, questions: Sequence[str], contexts: Sequence[str], top_k: int = 3) -> list[list[Answer]]: ...
    def __call__(
        self, questions: str | Sequence[str], contexts: str | Sequence[str], top_k: int = 3
    ) -> list[Answer] | list[list[Answer]]:
        """The `top_k` most probable answers, best first, each with its offsets in the context in characters.

        An empty answer means that the context does not hold one; a model whose training questions all had an answer
        never returns it. For lists of questions and contexts, the result is a list for each question.

        Raises:
            DataError: a text is empty or is not a text, the numbers of contexts and questions differ, or `top_k` is not
                above 0.
        """
        top_k = check_count(top_k, "top_k", "answer")
        if isinstance(questions, str):
            return self([questions], [contexts] if isinstance(contexts, str) else contexts, top_k)[0]
        question_list = check_texts(questions, "Question")
        if isinstance(contexts, str) or len(question_list) != len(as_list(contexts)):
            raise DataError(f"Give one context for each of the {len(question_list)} questions.")
        examples = [
            QuestionExample(str(number), question, context, (), Origin("question", number))
            for number, (question, context) in enumerate(
                zip(question_list, check_texts(contexts, "The context of question"), strict=True), 1
            )
        ]
        encoded = encode_questions(self.tokenizer, examples, max_length=self.max_length, overlap=self.overlap_tokens)
        logits = [one.numpy() for one in outputs(self.model, [window.ids for window in encoded.windows])]
        settings = AnswerFolderSettings.of(self.model.config)
        decoded = decode_answers(
            encoded,
            logits,
            max_answer_tokens=settings.max_answer_tokens,
            no_answer_threshold=None if settings.always_answers else 0.0,
        )
        return [answers[:top_k] for answers in decoded]
