"""The labelled spans of a text: entities, or whatever a model was trained to mark."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

import torch
from tokenizers import Tokenizer

from modernbert.data import load_tokenizer
from modernbert.data.encoding_spans import decode_spans, encode_spans, split_words
from modernbert.data.examples import Origin, SpanExample
from modernbert.errors import CheckpointError, DataError
from modernbert.inference.packing import load_trained, outputs, overlap
from modernbert.model import TokenClassifier as Head


@dataclass(frozen=True)
class Entity:
    """A span of a text, `text[begin:end]` in characters, with its label and the mean probability of its tags."""

    begin: int
    end: int
    label: str
    text: str
    score: float


class TokenClassifier:
    """Finds spans in texts of any length: longer ones are read in windows that overlap."""

    def __init__(self, model: Head, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length or model.config.max_position_embeddings
        tags = model.config.labels
        if not all(tag == "O" or (tag[:2] in ("B-", "I-", "E-", "L-", "S-", "U-") and tag[2:]) for tag in tags):
            raise CheckpointError(
                f"The labels of this model are no tags of spans (O, B-..., I-...): {', '.join(tags)}."
            )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        max_length: int | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
        int8: bool = False,
    ) -> Self:
        """Load model and tokenizer of a folder or a hub id. A window has `max_length` tokens, or what the model reads.

        Raises:
            CheckpointError: there is no such model, or it is none that marks spans.
            DataError: it has no tokenizer.
        """
        model = load_trained(Head, source, device, dtype, revision, token, int8)
        assert model.tokenizer_source is not None
        return cls(model, load_tokenizer(model.tokenizer_source), max_length)

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
        encoded = encode_spans(
            self.tokenizer, examples, config.labels, max_length=self.max_length, stride=overlap(self.max_length)
        )
        logits = [said.numpy() for said in outputs(self.model, [window.ids for window in encoded.windows])]
        return [
            [Entity(span.begin, span.end, span.label, text[span.begin : span.end], score) for span, score in found]
            for text, found in zip(texts, decode_spans(encoded, logits), strict=True)
        ]
