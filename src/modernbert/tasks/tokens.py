"""Texts with labelled spans: entities, or any other pieces."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import ConfigError, DataError
from modernbert.model.config import EncoderConfig
from modernbert.model.heads import IGNORED, TaskModel, TokenClassifier
from modernbert.packed import Sequences
from modernbert.tasks.encoding_spans import (
    EncodedSpans,
    bio_tags,
    decode_spans,
    encode_spans,
    span_inside_word,
    spans_that_cut_words,
)
from modernbert.tasks.metrics import Metric, f1_of_counts, span_counts
from modernbert.tasks.reading import Examples, Source, read_spans
from modernbert.tasks.recipe import FinetuneRecipe
from modernbert.tasks.task import Encoded, Item, Judgement, Measure, Outputs, Task, balanced, named_weights
from modernbert.tasks.token_classifier import rule_of
from modernbert.text.examples import Span, SpanExample
from modernbert.text.records import Bad
from modernbert.text.words import WordRule, word_around

Scored = tuple[tuple[Span, float], ...]


class Tokens(Task[SpanExample, Scored]):
    """Spans, learned as a class for each unit of a text: O, and B- and I- of each label.

    Where the data has words, its texts are these words joined, and the units are made of the text alone (`WordRule`):
    a folder that is given the text later cuts it as it was cut in training and for the report.
    """

    head = TokenClassifier
    metric_names = ("f1", "precision", "recall")
    names: tuple[str, ...] = ()
    rule = WordRule("tokens")

    def __init__(self, recipe: FinetuneRecipe, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__(recipe, tokenizer, max_length)
        self._lost: dict[SpanExample, frozenset[Span]] = {}  # the spans that no prediction can give back

    def examples(self, source: Source) -> Examples[SpanExample]:
        data = self.recipe.data

        def check(example: SpanExample) -> Bad | None:
            if data.inside_words or example.words is not None:
                return None
            cut = span_inside_word(self.tokenizer, example)
            return None if cut is None else _cut_word(example, *cut, "where no token of the model ends; ")

        return read_spans(
            source,
            text=data.text,
            spans=data.spans,
            words=data.words,
            tags=data.tags,
            joined_by=data.joined_by,
            labels=self.names or None,
            check=check,
            skip_bad=self.recipe.skip_bad,
        )

    def check(self, examples: Sequence[SpanExample]) -> None:
        """See that spans do not cut words as a rule: a few may, but many are a mistake of counting."""
        if self.recipe.data.inside_words:
            return
        marked = [example for example in examples if example.words is None]
        cut = [(example, span) for example in marked for span in spans_that_cut_words(example)]
        total = sum(len(example.spans) for example in marked)
        if len(cut) > max(2, total / 10):
            example, span = cut[0]
            whole = Span(*word_around(example.text, span.begin, span.end), span.label)
            raise _cut_word(example, span, whole, f"as {len(cut)} of {total} spans do; ").error()

    def learn_labels(self, examples: Sequence[SpanExample]) -> None:
        self.names = tuple(sorted({span.label for example in examples for span in example.spans}))
        if not self.names:
            raise DataError("No training example has a span; name their column in data.spans, or data.words and tags.")
        if any(example.words is not None for example in examples):
            self.rule = WordRule.of_words(self.recipe.data.joined_by)

    def recall(self, config: EncoderConfig) -> None:
        self.names = tuple(sorted({tag[2:] for tag in config.labels if tag != "O"}))
        self.rule = rule_of(config)
        if config.labels != self.tags:
            raise ConfigError(f"The labels of the model are no tags that are learned here: {', '.join(config.labels)}.")

    def labels_of(self, example: SpanExample) -> Sequence[str]:
        return [span.label for span in example.spans]

    @property
    def tags(self) -> tuple[str, ...]:
        return bio_tags(self.names)

    def group(self, example: SpanExample) -> str:
        return example.text

    def changes(self) -> dict[str, Any]:
        return super().changes() | {
            "id2label": dict(enumerate(self.tags)),
            "span_units": self.rule.units,
            "joined_by": self.rule.joined_by,
        }

    def weights(self, examples: Sequence[SpanExample]) -> Tensor | None:
        chosen = self.recipe.training.class_weights
        if chosen == "none":
            return None
        if chosen != "balanced":
            given = named_weights(chosen, ("O", *self.names))
            return torch.from_numpy(np.concatenate([given[:1], given[1:].repeat(2)]))
        labels = np.concatenate([item.label for item in self.encode(list(examples)).items])
        return torch.from_numpy(balanced(np.bincount(labels[labels != IGNORED], minlength=len(self.tags))))

    def encode(self, examples: list[SpanExample]) -> Encoded[SpanExample]:
        found = encode_spans(
            self.tokenizer,
            [replace(example, words=self.rule.cut(example.text)) for example in examples],
            self.tags,
            max_length=self.max_length,
            stride=self.stride,
        )
        items = [Item((window.ids,), window.labels) for window in found.windows]
        notes = {"windows": len(items), "lost spans": len(found.lost)}
        lost = [_shown_loss(examples[number], span) for number, span in found.lost]
        for number, span in found.lost:
            self._lost[examples[number]] = self._lost.get(examples[number], frozenset()) | {span}
        return Encoded(examples, items, found, notes, lost)

    def labels(self, items: Sequence[Item]) -> Tensor:
        return torch.from_numpy(np.concatenate([item.label for item in items]))

    def total(self, items: Sequence[Item], weights: Tensor | None) -> float:
        labels = self.labels(items)
        known = labels[labels != IGNORED]
        return max(1.0, float(len(known))) if weights is None else max(1e-6, float(weights[known].sum()))

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
        assert isinstance(model, TokenClassifier)
        return model.loss(tokens, sequences, labels, total, weights)

    def predictions(self, encoded: Encoded[SpanExample], outputs: Outputs) -> list[Scored]:
        assert isinstance(encoded.state, EncodedSpans)
        return decode_spans(encoded.state, outputs)

    def measures(self, examples: Sequence[SpanExample], predictions: Sequence[Scored]) -> dict[str, Measure]:
        counts = (span_counts([_spans(found) for found in predictions], [example.spans for example in examples]),)
        return {name: Measure(_METRICS[name], counts) for name in self.metric_names}

    def count_labels(self, examples: Sequence[SpanExample]) -> dict[str, int]:
        counts = Counter(span.label for example in examples for span in example.spans)
        return {name: counts[name] for name in self.names}

    def judge(self, example: SpanExample, prediction: Scored) -> Judgement:
        expected, found = set(example.spans), set(_spans(prediction))
        lost = self._lost.get(example, frozenset())
        record = {
            "file": example.origin.file,
            "line": example.origin.line,
            "text": example.text,
            "expected": [_as_record(example.text, span) for span in example.spans],
            "predicted": [_as_record(example.text, span) | {"score": score} for span, score in prediction],
        }
        return Judgement(
            example.text,
            _shown(example.text, sorted(expected - found, key=_place)),
            _shown(example.text, sorted(found - expected, key=_place)),
            float(len((expected - lost) ^ {span for span in found if not _widened(span, lost)})),
            record,
        )

    def confusion(
        self, examples: Sequence[SpanExample], predictions: Sequence[Scored]
    ) -> tuple[Sequence[str], npt.NDArray[np.int64]]:
        """Spans of the same extent by their labels; `none` are those that the other side does not have."""
        names = (*self.names, "none")
        pairs: Counter[tuple[str, str]] = Counter()
        for example, prediction in zip(examples, predictions, strict=True):
            expected = {_place(span): span.label for span in example.spans}
            found = {_place(span): span.label for span in _spans(prediction)}
            for place in expected.keys() | found.keys():
                pairs[expected.get(place, "none"), found.get(place, "none")] += 1
        matrix = np.array([[pairs[row, column] for column in names] for row in names], dtype=np.int64)
        return names, matrix


def _precision(counts: npt.NDArray[np.int64]) -> float:
    right, predicted, _ = counts.sum(0).tolist()
    return right / predicted if predicted else 0.0


def _recall(counts: npt.NDArray[np.int64]) -> float:
    right, _, wanted = counts.sum(0).tolist()
    return right / wanted if wanted else 0.0


_METRICS: dict[str, Metric] = {"f1": f1_of_counts, "precision": _precision, "recall": _recall}


def _spans(scored: Scored) -> tuple[Span, ...]:
    return tuple(span for span, _ in scored)


def _cut_word(example: SpanExample, span: Span, whole: Span, why: str) -> Bad:
    text = example.text
    sentence = (
        f"the span {span.begin} to {span.end} ({span.label}) is {text[span.begin : span.end]!r} and cuts the word "
        f"{text[whole.begin : whole.end]!r}, {why}did you mean {whole.begin} to {whole.end}? The end is behind the "
        "last character. Set data.inside_words = true if spans may be parts of words."
    )
    return Bad("span inside a word", sentence, example.origin)


def _shown_loss(example: SpanExample, span: Span) -> str:
    return f"{example.origin}: {example.text[span.begin : span.end]} ({span.label}, {span.begin} to {span.end})"


def _widened(span: Span, lost: Collection[Span]) -> bool:
    """Whether a span is one that cannot be given back, as wide as its tokens are."""
    return any(one.label == span.label and span.begin <= one.begin and one.end <= span.end for one in lost)


def _place(span: Span) -> tuple[int, int]:
    return span.begin, span.end


def _as_record(text: str, span: Span) -> dict[str, object]:
    return {"begin": span.begin, "end": span.end, "label": span.label, "text": text[span.begin : span.end]}


def _shown(text: str, spans: Sequence[Span]) -> str:
    return ", ".join(f"{text[span.begin : span.end]} ({span.label})" for span in spans) or "-"
