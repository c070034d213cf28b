"""The stretch of a text that answers a question, or that there is none."""

from collections.abc import Sequence
from typing import overload

from modernbert.errors import DataError
from modernbert.model import QuestionAnswering
from modernbert.tasks.encoding_questions import Reply, decode_answers, encode_questions
from modernbert.tasks.inputs import checked_list, listed
from modernbert.tasks.outputs import outputs
from modernbert.tasks.predictor import Predictor
from modernbert.text.examples import Origin, QuestionExample


class QuestionAnswerer(Predictor[QuestionAnswering]):
    """Answers questions over contexts of any length: those above `max_length` are read in windows that overlap."""

    kind = QuestionAnswering

    @overload
    def __call__(self, questions: str, contexts: str, top_k: int = 3) -> list[Reply]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, questions: Sequence[str], contexts: Sequence[str], top_k: int = 3) -> list[list[Reply]]: ...
    def __call__(
        self, questions: str | Sequence[str], contexts: str | Sequence[str], top_k: int = 3
    ) -> list[Reply] | list[list[Reply]]:
        """The `top_k` likeliest answers, best first, each with its place in the context in characters.

        A reply with an empty text says that the context does not tell; a model that was trained on questions which all
        have an answer never gives it. Lists of questions and of contexts, one for each, give a list of such lists.

        Raises:
            DataError: a text is empty or is no text, there are not as many contexts as questions, or `top_k` is not
                above 0.
        """
        if top_k < 1:
            raise DataError(f"top_k is {top_k}; ask for at least one answer.")
        if isinstance(questions, str):
            return self([questions], [contexts] if isinstance(contexts, str) else contexts, top_k)[0]
        asked = checked_list(questions, "Question")
        if isinstance(contexts, str) or len(asked) != len(listed(contexts)):
            raise DataError(f"Give one context for each of the {len(asked)} questions.")
        examples = [
            QuestionExample(str(number), question, context, (), Origin("question", number))
            for number, (question, context) in enumerate(
                zip(asked, checked_list(contexts, "The context of question"), strict=True), 1
            )
        ]
        encoded = encode_questions(self.tokenizer, examples, max_length=self.max_length, stride=self.stride)
        logits = [said.numpy() for said in outputs(self.model, [window.ids for window in encoded.windows])]
        config = self.model.config
        found = decode_answers(
            encoded,
            logits,
            max_answer_tokens=config.max_answer_tokens,
            no_answer_threshold=None if config.always_answers else 0.0,
        )
        return [replies[:top_k] for replies in found]
