"""The predictor of labelled spans: entities, or whatever a model was trained to mark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tokenizers import Tokenizer

from modernbert.errors import CheckpointError
from modernbert.model import TokenClassifier as Head
from modernbert.tasks.inputs import checked, listed
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
    """Finds spans in texts of any length: those above `max_length` are read in windows that overlap.

    A text is cut into words as the texts of the training were: its folder keeps the rule. In folders that other
    trainers wrote, words are what stands between spaces, without the marks around it, and the tag of a word is that of
    its first token.
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
        """The spans of a text in order; a list of such for a list of texts.

        In place of a text a list of its words may be given. Its text is then these words, joined as those of the
        training were (by a space, unless its folder says otherwise), and no span begins or ends inside a word.

        Raises:
            DataError: a text or a word is empty or is not a text.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        joined = [self._joined(number, one) for number, one in enumerate(listed(texts), 1)]
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
        """The text that a list of words is read as."""
        return join(words, self.rule.joined_by)[0]

    def _joined(self, number: int, given: object) -> tuple[str, WordOffsets | None]:
        if not isinstance(given, list | tuple) or not given:
            return checked(given, f"Text {number}"), None
        words = [checked(word, f"Word {place} of text {number}") for place, word in enumerate(given, 1)]
        return join(words, self.rule.joined_by)
