"""Engines of the models with a task head: classes, entities, answers, and words for a [MASK].

`run` is called in the thread of the dispatcher, with a packed batch of items of several requests. `encode` and `decode`
are called in a tokenizer thread for one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.errors import DataError
from modernbert.model.heads import TaskModel
from modernbert.serve.failures import InvalidRequestError
from modernbert.serve.items import Item, ItemFailed
from modernbert.serve.texts import Side, Text, check_words, encode
from modernbert.tasks.answer import QuestionAnswerer
from modernbert.tasks.answer.folder import AnswerFolderSettings
from modernbert.tasks.answer.reading import QuestionExample
from modernbert.tasks.answer.windows import Answer, EncodedQuestions, decode_answers, encode_questions
from modernbert.tasks.classify import Classifier
from modernbert.tasks.fill_mask import FillMask
from modernbert.tasks.outputs import outputs
from modernbert.tasks.texts import decode_scores
from modernbert.tasks.tokens import TokenClassifier
from modernbert.tasks.tokens.predictor import Entity
from modernbert.tasks.tokens.reading import SpanExample
from modernbert.tasks.tokens.windows import EncodedSpans, decode_spans, encode_spans
from modernbert.text.records import Origin

Numbers = npt.NDArray[np.float32]

NOT_FINITE = "the model computes NaN or infinity for this text"


def run_head(model: TaskModel, items: Sequence[Item]) -> list[Any]:
    """The outputs of a head for each item, or a failure if they are not finite."""
    found = outputs(model, [item.ids for item in items], sum(len(item.ids) for item in items), finite=False)
    return [checked(rows) for rows in found]


def checked(rows: Tensor) -> Numbers | ItemFailed:
    """The numbers, or a failure if one is not finite."""
    return rows.float().cpu().numpy() if bool(rows.isfinite().all()) else ItemFailed(NOT_FINITE)


def sigmoid(values: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without an overflow."""
    return np.asarray(torch.from_numpy(np.asarray(values)).sigmoid().numpy(), dtype=np.float32)


class ClassifierEngine:
    """Labels or numbers for each text or pair of texts."""

    def __init__(self, predictor: Classifier) -> None:
        self.predictor = predictor
        self.max_length = predictor.max_length
        self.labels = predictor.model.config.labels

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        return run_head(self.predictor.model, items)

    def encode(self, texts: Sequence[Text], truncate: bool, side: Side) -> list[Item]:
        ids = encode(self.predictor.tokenizer, texts, max_length=self.max_length, truncate=truncate, side=side)
        return [Item(one) for one in ids]

    def warmup_items(self) -> list[Item]:
        return self.encode(["warm"], True, "right")

    def decode(self, logits: Sequence[Numbers], raw: bool) -> list[list[tuple[str, float]]]:
        """Labels with their scores, best first: probabilities, or with `raw` the logits."""
        found = []
        for row in logits:
            values = row if raw else decode_scores(row, self.predictor.model.problem_type)
            found.append(sorted(zip(self.labels, values, strict=True), key=lambda one: -one[1]))
        return found


@dataclass(frozen=True, eq=False)
class EncodedEntities:
    """Texts, with their words and windows."""

    spans: EncodedSpans
    texts: list[str]


class EntitiesEngine:
    """Labelled spans of texts of any length, computed in overlapping windows."""

    def __init__(self, predictor: TokenClassifier) -> None:
        self.predictor = predictor
        self.max_length = predictor.max_length
        self.tags = predictor.model.config.labels

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        return run_head(self.predictor.model, items)

    def encode(self, texts: Sequence[str]) -> tuple[EncodedEntities, list[Item]]:
        for number, text in enumerate(texts, 1):
            check_words(text, f"Text {number}")
        examples = [
            SpanExample(text, (), self.predictor.rule.split(text), Origin("text", number))
            for number, text in enumerate(texts, 1)
        ]
        spans = encode_spans(
            self.predictor.tokenizer,
            examples,
            self.tags,
            max_length=self.max_length,
            overlap=self.predictor.overlap_tokens,
        )
        return EncodedEntities(spans, list(texts)), [Item(window.ids) for window in spans.windows]

    def warmup_items(self) -> list[Item]:
        return self.encode(["warm"])[1]

    def decode(self, encoded: EncodedEntities, logits: Sequence[Numbers]) -> list[list[Entity]]:
        return [
            [Entity(span.begin, span.end, span.label, text[span.begin : span.end], score) for span, score in found]
            for text, found in zip(encoded.texts, decode_spans(encoded.spans, logits), strict=True)
        ]


class AnswersEngine:
    """Answers to questions over contexts of any length, computed in overlapping windows."""

    def __init__(self, predictor: QuestionAnswerer) -> None:
        self.predictor = predictor
        self.max_length = predictor.max_length

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        return run_head(self.predictor.model, items)

    def encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[EncodedQuestions, list[Item]]:
        """Windows of (question, context)."""
        for question, context in pairs:
            check_words(question, "The question")
            check_words(context, "The context")
        examples = [
            QuestionExample(str(number), question, context, (), Origin("question", number))
            for number, (question, context) in enumerate(pairs, 1)
        ]
        encoded = encode_questions(
            self.predictor.tokenizer, examples, max_length=self.max_length, overlap=self.predictor.overlap_tokens
        )
        return encoded, [Item(window.ids) for window in encoded.windows]

    def warmup_items(self) -> list[Item]:
        return self.encode([("warm", "warm")])[1]

    def decode(self, encoded: EncodedQuestions, logits: Sequence[Numbers], top_k: int) -> list[list[Answer]]:
        settings = AnswerFolderSettings.of(self.predictor.model.config)
        found = decode_answers(
            encoded,
            logits,
            max_answer_tokens=settings.max_answer_tokens,
            no_answer_threshold=None if settings.always_answers else 0.0,
        )
        return [answers[:top_k] for answers in found]


class FillMaskEngine:
    """The words that fit each [MASK] of a text."""

    def __init__(self, predictor: FillMask) -> None:
        self.predictor = predictor
        self.max_length = predictor.max_length
        self.mask = predictor.mask

    def run(self, items: Sequence[Item]) -> Sequence[Any]:
        """The candidates of each text. `options` of an item are its encoded text and the number of candidates."""
        options = [item.options for item in items]
        found = self.predictor.fill([text for text, _ in options], max(top_k for _, top_k in options))
        return [[mask[:top_k] for mask in masks] for masks, (_, top_k) in zip(found, options, strict=True)]

    def encode(self, texts: Sequence[str], top_k: int) -> list[Item]:
        try:
            encoded = [self.predictor.encode(text) for text in texts]
        except DataError as error:
            raise InvalidRequestError(str(error)) from None
        return [Item(one.ids, (one, top_k)) for one in encoded]

    def warmup_items(self) -> list[Item]:
        return self.encode([self.mask], 1)
