"""The predictor of labelled spans, such as entities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tokenizers import Tokenizer

from modernbert.errors import CheckpointError
from modernbert.model import TokenClassifier as Head
from modernbert.tasks.inputs import as_list, check_text
from modernbert.tasks.outputs import outputs
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.tokens.folder import rule_of
from modernbert.tasks.tokens.reading import SpanExample
from modernbert.tasks.tokens.windows import decode_spans, encode_spans
from modernbert.text.conll import is_tag
from modernbert.text.records import Origin
from modernbert.text.words import WordOffsets, join

Words = Sequence[str]  # of one text, a list or tuple


@dataclass(frozen=True)
class Entity:
    """A span of a text, `text[begin:end]` in characters, with its label and the mean probability of its tags."""

    begin: int
    end: int
    label: str
    text: str
    score: float


class TokenClassifier(Predictor[Head]):
    """Finds spans in texts of any length: texts above `max_length` are read in overlapping windows.

    A text is split into words as in training, by a rule in the folder. For folders of other trainers, words are the
    text between spaces, without punctuation around it, and the tag of a word is that of its first token.
    """

    kind = Head

    def __init__(self, model: Head, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        super().__init__(model, tokenizer, max_length)
        tags = model.config.labels
        if "O" not in tags or not all(map(is_tag, tags)):
            raise CheckpointError(
                f"The labels of this model are not tags of spans (O, B-..., I-...): {', '.join(tags)}."
            )
        self.rule = rule_of(model.config)

    @overload
    def __call__(self, texts: str) -> list[Entity]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[str | Words]) -> list[list[Entity]]: ...
    def __call__(self, texts: str | Sequence[str | Words]) -> list[Entity] | list[list[Entity]]:
        """The spans of a text in order; for a list of texts, a list of results.

        A text may also be a list of words. The words are joined as in training (by a space, unless the folder has
        another separator), and no span begins or ends inside a word.

        Raises:
            DataError: a text or a word is empty or is not a text.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        joined = [self._joined(number, one) for number, one in enumerate(as_list(texts), 1)]
        examples = [
            SpanExample(text, (), self.rule.split(text), Origin("text", number))
            for number, (text, _) in enumerate(joined, 1)
        ]
        tags = self.model.config.labels
        encoded = encode_spans(self.tokenizer, examples, tags, max_length=self.max_length, overlap=self.overlap_tokens)
        logits = [one.numpy() for one in outputs(self.model, [window.ids for window in encoded.windows])]
        decoded = decode_spans(encoded, logits, [words for _, words in joined])
        return [
            [Entity(span.begin, span.end, span.label, text[span.begin : span.end], score) for span, score in spans]
            for (text, _), spans in zip(joined, decoded, strict=True)
        ]

    def text_of(self, words: Sequence[str]) -> str:
        """The text of a list of words, as the model reads it."""
        return join(words, self.rule.joined_by)[0]

    def _joined(self, number: int, value: object) -> tuple[str, WordOffsets | None]:
        if not isinstance(value, list | tuple) or not value:
            return check_text(value, f"Text {number}"), None
        words = [check_text(word, f"Word {index} of text {number}") for index, word in enumerate(value, 1)]
        return join(words, self.rule.joined_by)
