"""The labelled spans of a text: entities, or whatever a model was trained to mark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tokenizers import Tokenizer

from modernbert.data.encoding_spans import decode_spans, encode_spans, split_words
from modernbert.data.examples import Origin, SpanExample
from modernbert.errors import CheckpointError, DataError
from modernbert.inference.packing import outputs
from modernbert.inference.predictor import Predictor
from modernbert.model import TokenClassifier as Head


@dataclass(frozen=True)
class Entity:
    """A span of a text, `text[begin:end]` in characters, with its label and the mean probability of its tags."""

    begin: int
    end: int
    label: str
    text: str
    score: float


class TokenClassifier(Predictor[Head]):
    """Finds spans in texts of any length: those above `max_length` are read in windows that overlap."""

    kind = Head

    def __init__(self, model: Head, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        super().__init__(model, tokenizer, max_length)
        tags = model.config.labels
        if not all(tag == "O" or (tag[:2] in ("B-", "I-", "E-", "L-", "S-", "U-") and tag[2:]) for tag in tags):
            raise CheckpointError(
                f"The labels of this model are no tags of spans (O, B-..., I-...): {', '.join(tags)}."
            )

    @overload
    def __call__(self, texts: str) -> list[Entity]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]: ...
    def __call__(self, texts: str | Sequence[str]) -> list[Entity] | list[list[Entity]]:
        """The spans of a text in order; a list of such for a list of texts.

        Raises:
            DataError: a text is empty.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise DataError(f"Text {number} is empty; leave it out.")
        config = self.model.config
        examples = [
            SpanExample(text, (), split_words(text) if config.label_words else None, Origin("text", number))
            for number, text in enumerate(texts, 1)
        ]
        encoded = encode_spans(self.tokenizer, examples, config.labels, max_length=self.max_length, stride=self.stride)
        logits = [said.numpy() for said in outputs(self.model, [window.ids for window in encoded.windows])]
        return [
            [Entity(span.begin, span.end, span.label, text[span.begin : span.end], score) for span, score in found]
            for text, found in zip(texts, decode_spans(encoded, logits), strict=True)
        ]
