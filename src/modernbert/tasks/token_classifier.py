"""The labelled spans of a text: entities, or whatever a model was trained to mark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tokenizers import Tokenizer

from modernbert.errors import CheckpointError
from modernbert.model import TokenClassifier as Head
from modernbert.model.config import EncoderConfig
from modernbert.tasks.encoding_spans import decode_spans, encode_spans
from modernbert.tasks.inputs import checked, listed
from modernbert.tasks.outputs import outputs
from modernbert.tasks.predictor import Predictor
from modernbert.text.examples import Origin, SpanExample, is_tag
from modernbert.text.words import Places, WordRule, join

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

    A text is cut into words as the texts of the training were, which its folder remembers. In folders that other
    trainers wrote words are what stands between spaces, without the marks around it, and the first token of each
    speaks for it.
    """

    kind = Head

    def __init__(self, model: Head, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        super().__init__(model, tokenizer, max_length)
        tags = model.config.labels
        if "O" not in tags or not all(map(is_tag, tags)):
            raise CheckpointError(
                f"The labels of this model are no tags of spans (O, B-..., I-...): {', '.join(tags)}."
            )
        self.rule = rule_of(model.config)

    @overload
    def __call__(self, texts: str) -> list[Entity]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[str | Words]) -> list[list[Entity]]: ...
    def __call__(self, texts: str | Sequence[str | Words]) -> list[Entity] | list[list[Entity]]:
        """The spans of a text in order; a list of such for a list of texts.

        In place of a text a list of its words may be given. Its text is then these words, joined as those of the
        training were (by a space, unless its folder knows better), and no span begins or ends inside a word.

        Raises:
            DataError: a text or a word is empty or is no text.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        joined = [self._joined(number, one) for number, one in enumerate(listed(texts), 1)]
        examples = [
            SpanExample(text, (), self.rule.cut(text), Origin("text", number))
            for number, (text, _) in enumerate(joined, 1)
        ]
        tags = self.model.config.labels
        encoded = encode_spans(self.tokenizer, examples, tags, max_length=self.max_length, stride=self.stride)
        logits = [said.numpy() for said in outputs(self.model, [window.ids for window in encoded.windows])]
        decoded = decode_spans(encoded, logits, [words for _, words in joined])
        return [
            [Entity(span.begin, span.end, span.label, text[span.begin : span.end], score) for span, score in found]
            for (text, _), found in zip(joined, decoded, strict=True)
        ]

    def text_of(self, words: Sequence[str]) -> str:
        """The text that a list of words is read as."""
        return join(words, self.rule.joined_by)[0]

    def _joined(self, number: int, given: object) -> tuple[str, Places | None]:
        if not isinstance(given, list | tuple) or not given:
            return checked(given, f"Text {number}"), None
        words = [checked(word, f"Word {place} of text {number}") for place, word in enumerate(given, 1)]
        return join(words, self.rule.joined_by)


def rule_of(config: EncoderConfig) -> WordRule:
    """How a model cuts texts into units."""
    if config.span_units is not None:
        return WordRule(config.span_units, " " if config.joined_by is None else config.joined_by)
    # no key: another trainer, or an older version, which told words from tokens by label_words
    return WordRule("tokens" if config.label_words is False else "whole words")
