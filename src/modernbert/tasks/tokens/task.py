"""The task of finding labelled spans, such as entities."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import ConfigError, DataError
from modernbert.model.config import EncoderConfig
from modernbert.model.heads import TaskModel
from modernbert.model.heads import TokenClassifier as TokenHead
from modernbert.packed import IGNORED
from modernbert.tasks.metrics import Metric, f1_of_counts
from modernbert.tasks.reading import Examples
from modernbert.tasks.task import (
    Encoded,
    ExampleResult,
    Item,
    LabelledBatch,
    Measure,
    Outputs,
    Task,
    TaskSettings,
    balanced,
    named_weights,
    origin_fields,
)
from modernbert.tasks.tokens.folder import SpanFolderSettings, rule_of
from modernbert.tasks.tokens.reading import SpanColumns, SpanExample, read_spans
from modernbert.tasks.tokens.scores import span_counts, span_scores_by_label
from modernbert.tasks.tokens.tags import Span, bio_tags
from modernbert.tasks.tokens.windows import (
    EncodedSpans,
    ScoredSpans,
    decode_spans,
    encode_spans,
    span_inside_word,
    spans_that_cut_words,
)
from modernbert.text.records import RejectedRecord, Source
from modernbert.text.words import WordRule, widen_to_words


class Tokens(Task[SpanExample, ScoredSpans]):
    """Spans, learned as a class for each unit of a text: O, and B- and I- of each label.

    If the data has words, the text is the joined words, and the units are derived from the text alone (`WordRule`). So
    the predictor, which gets only the text, splits it as training and the report did.
    """

    name = "tokens"
    head = TokenHead
    columns_type = SpanColumns
    has_classes = True
    metric_names = ("f1", "precision", "recall")
    names: tuple[str, ...] = ()
    rule = WordRule("tokens")

    def __init__(self, settings: TaskSettings, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__(settings, tokenizer, max_length)
        self._lost: dict[SpanExample, frozenset[Span]] = {}  # the spans that no prediction can equal

    @property
    def columns(self) -> SpanColumns:
        assert isinstance(self.settings.columns, SpanColumns)
        return self.settings.columns

    def examples(self, source: Source) -> Examples[SpanExample]:
        columns = self.columns

        def check(example: SpanExample) -> RejectedRecord | None:
            if columns.inside_words or example.words is not None:
                return None
            cut = span_inside_word(self.tokenizer, example)
            return None if cut is None else _cut_word(example, *cut, "where no token of the model ends; ")

        return read_spans(
            source,
            text=columns.text,
            spans=columns.spans,
            words=columns.words,
            tags=columns.tags,
            joined_by=columns.joined_by,
            labels=self.names or None,
            check=check,
            skip_bad=self.settings.skip_bad,
        )

    def check(self, examples: Sequence[SpanExample]) -> None:
        """Check that few spans cut words: if many do, the offsets are wrong."""
        if self.columns.inside_words:
            return
        marked = [example for example in examples if example.words is None]
        cut = [(example, span) for example in marked for span in spans_that_cut_words(example)]
        total = sum(len(example.spans) for example in marked)
        if len(cut) > max(2, total / 10):
            example, span = cut[0]
            widened = Span(*widen_to_words(example.text, span.begin, span.end), span.label)
            raise _cut_word(example, span, widened, f"as {len(cut)} of {total} spans do; ").error()

    def learn_labels(self, examples: Sequence[SpanExample]) -> None:
        self.names = tuple(sorted({span.label for example in examples for span in example.spans}))
        if not self.names:
            raise DataError("No training example has a span; name their column in data.spans, or data.words and tags.")
        if any(example.words is not None for example in examples):
            self.rule = WordRule.of_words(self.columns.joined_by)

    def restore_labels(self, config: EncoderConfig) -> None:
        self.names = tuple(sorted({tag[2:] for tag in config.labels if tag != "O"}))
        self.rule = rule_of(config)
        if config.labels != self.tags:
            raise ConfigError(
                "The labels of the model are not tags of the form that is learned here (O, B-NAME, I-NAME): "
                f"{', '.join(config.labels)}."
            )

    def labels_of(self, example: SpanExample) -> Sequence[str]:
        return [span.label for span in example.spans]

    @property
    def tags(self) -> tuple[str, ...]:
        return bio_tags(self.names)

    def group(self, example: SpanExample) -> str:
        return example.text

    def label_names(self) -> Sequence[str]:
        return self.tags

    def folder_settings(self) -> SpanFolderSettings:
        return SpanFolderSettings(**self.common_settings(), units=self.rule.units, joined_by=self.rule.joined_by)

    def weights(self, examples: Sequence[SpanExample]) -> Tensor | None:
        chosen = self.settings.class_weights
        if chosen == "none":
            return None
        if chosen != "balanced":
            weights = named_weights(chosen, ("O", *self.names))
            return torch.from_numpy(np.concatenate([weights[:1], weights[1:].repeat(2)]))
        labels = np.concatenate([item.label for item in self.encode(list(examples)).items])
        return torch.from_numpy(balanced(np.bincount(labels[labels != IGNORED], minlength=len(self.tags))))

    def encode(self, examples: list[SpanExample]) -> Encoded[SpanExample]:
        encoded = encode_spans(
            self.tokenizer,
            [replace(example, words=self.rule.split(example.text)) for example in examples],
            self.tags,
            max_length=self.max_length,
            overlap=self.overlap_tokens,
        )
        items = [Item((window.ids,), window.labels) for window in encoded.windows]
        notes = {"windows": len(items), "lost spans": len(encoded.lost)}
        lost = [_lost_span_text(examples[number], span) for number, span in encoded.lost]
        for number, span in encoded.lost:
            self._lost[examples[number]] = self._lost.get(examples[number], frozenset()) | {span}
        return Encoded(examples, items, encoded, notes, lost)

    def labels(self, items: Sequence[Item]) -> Tensor:
        return torch.from_numpy(np.concatenate([item.label for item in items]))

    def total(self, items: Sequence[Item], weights: Tensor | None) -> float:
        labels = self.labels(items)
        known = labels[labels != IGNORED]
        return max(1.0, float(len(known))) if weights is None else max(1e-6, float(weights[known].sum()))

    def head_loss(self, model: TaskModel, batch: LabelledBatch) -> Tensor:
        assert isinstance(model, TokenHead)
        return model.loss(batch.tokens, batch.sequences, batch.labels, batch.total, batch.weights)

    def predictions(self, encoded: Encoded[SpanExample], outputs: Outputs) -> list[ScoredSpans]:
        assert isinstance(encoded.state, EncodedSpans)
        return decode_spans(encoded.state, outputs)

    def measures(self, examples: Sequence[SpanExample], predictions: Sequence[ScoredSpans]) -> dict[str, Measure]:
        counts = (span_counts([_spans(one) for one in predictions], [example.spans for example in examples]),)
        return {name: Measure(_METRICS[name], counts) for name in self.metric_names}

    def scores_by_label(
        self, examples: Sequence[SpanExample], predictions: Sequence[ScoredSpans]
    ) -> dict[str, dict[str, float]]:
        by_label = span_scores_by_label([_spans(one) for one in predictions], [example.spans for example in examples])
        return {label: asdict(scores) for label, scores in by_label.items()}

    def count_labels(self, examples: Sequence[SpanExample]) -> dict[str, int]:
        counts = Counter(span.label for example in examples for span in example.spans)
        return {name: counts[name] for name in self.names}

    def result(self, example: SpanExample, prediction: ScoredSpans) -> ExampleResult:
        expected, predicted = set(example.spans), set(_spans(prediction))
        lost = self._lost.get(example, frozenset())
        record = {
            **origin_fields(example.origin),
            "text": example.text,
            "expected": [_as_record(example.text, span) for span in example.spans],
            "predicted": [_as_record(example.text, span) | {"score": score} for span, score in prediction],
        }
        return ExampleResult(
            example.text,
            _spans_text(example.text, sorted(expected - predicted, key=_offsets)),
            _spans_text(example.text, sorted(predicted - expected, key=_offsets)),
            float(len((expected - lost) ^ {span for span in predicted if not _widened(span, lost)})),
            record,
        )

    def confusion(
        self, examples: Sequence[SpanExample], predictions: Sequence[ScoredSpans]
    ) -> tuple[Sequence[str], npt.NDArray[np.int64]]:
        """Counts of expected and predicted labels of spans with the same offsets; `none`: no such span."""
        names = (*self.names, "none")
        pairs: Counter[tuple[str, str]] = Counter()
        for example, prediction in zip(examples, predictions, strict=True):
            expected = {_offsets(span): span.label for span in example.spans}
            predicted = {_offsets(span): span.label for span in _spans(prediction)}
            for offsets in expected.keys() | predicted.keys():
                pairs[expected.get(offsets, "none"), predicted.get(offsets, "none")] += 1
        matrix = np.array([[pairs[row, column] for column in names] for row in names], dtype=np.int64)
        return names, matrix


def _precision(counts: npt.NDArray[np.int64]) -> float:
    correct, predicted, _ = counts.sum(0).tolist()
    return correct / predicted if predicted else 0.0


def _recall(counts: npt.NDArray[np.int64]) -> float:
    correct, _, expected = counts.sum(0).tolist()
    return correct / expected if expected else 0.0


_METRICS: dict[str, Metric] = {"f1": f1_of_counts, "precision": _precision, "recall": _recall}


def _spans(scored: ScoredSpans) -> tuple[Span, ...]:
    return tuple(span for span, _ in scored)


def _cut_word(example: SpanExample, span: Span, widened: Span, reason: str) -> RejectedRecord:
    text = example.text
    sentence = (
        f"the span {span.begin} to {span.end} ({span.label}) is {text[span.begin : span.end]!r} and cuts the word "
        f"{text[widened.begin : widened.end]!r}, {reason}did you mean {widened.begin} to {widened.end}? The end is one "
        "after the last character. Set data.inside_words = true if spans may be parts of words."
    )
    return RejectedRecord("span inside a word", sentence, example.origin)


def _lost_span_text(example: SpanExample, span: Span) -> str:
    return f"{example.origin}: {example.text[span.begin : span.end]} ({span.label}, {span.begin} to {span.end})"


def _widened(span: Span, lost: Collection[Span]) -> bool:
    """Whether a span is a lost span, widened to whole tokens."""
    return any(one.label == span.label and span.begin <= one.begin and one.end <= span.end for one in lost)


def _offsets(span: Span) -> tuple[int, int]:
    return span.begin, span.end


def _as_record(text: str, span: Span) -> dict[str, object]:
    return {"begin": span.begin, "end": span.end, "label": span.label, "text": text[span.begin : span.end]}


def _spans_text(text: str, spans: Sequence[Span]) -> str:
    return ", ".join(f"{text[span.begin : span.end]} ({span.label})" for span in spans) or "-"
