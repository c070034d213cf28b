"""Texts or pairs of texts with labels: the common part of the tasks `classify`, `multi-label` and `regress`."""

import ast
import math
import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, SupportsFloat

import numpy as np
import numpy.typing as npt
import torch
from pydantic import field_validator
from torch import Tensor

from modernbert.model.config import EncoderConfig
from modernbert.model.heads import SequenceClassifier, TaskModel
from modernbert.tasks.folder_settings import FolderSettings
from modernbert.tasks.reading import (
    Columns,
    Examples,
    composed,
    is_unicode,
    known_labels,
    label_text,
    text_in,
    unknown_label,
)
from modernbert.tasks.task import Encoded, ExampleResult, Item, LabelledBatch, Outputs, Task, origin_fields
from modernbert.text.framing import encode_texts
from modernbert.text.records import Origin, Record, RejectedRecord, Source, missing_column

LabelKind = Literal["class", "classes", "number"]
Scores = npt.NDArray[np.floating]  # (labels,): probabilities, or the number


@dataclass(frozen=True)
class TextExample:
    """A text, or a pair of texts, with a class, several classes or a number; the label is None in prediction."""

    text: str
    pair: str | None
    label: str | tuple[str, ...] | float | None
    origin: Origin


class TextColumns(Columns):
    """The columns of texts with labels."""

    several_labels: ClassVar[bool] = False

    text: str = "text"  # the column of the texts
    pair: str | None = None  # a second text, read after the first
    label: str | tuple[str, ...] = "label"  # for multi-label also several columns of 0 and 1
    separator: str = ","  # between the labels of multi-label in one column

    @field_validator("label")
    @classmethod
    def _check_label(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(value, str) and not cls.several_labels:
            raise ValueError('several columns are for task = "multi-label"; name one')
        if not isinstance(value, str) and len(set(map(composed, value))) < len(value):
            raise ValueError("two columns have the same label; name each label once")
        return value


class TextFolderSettings(FolderSettings):
    """`pairs`: whether training read pairs of texts; None if the folder does not have it."""

    pairs: bool | None = None


def read_texts_with_labels(
    source: Source | str | Path,
    *,
    text: str = "text",
    pair: str | None = None,
    label: str | Sequence[str] | None = "label",
    kind: LabelKind = "class",
    labels: Collection[str] | None = None,
    separator: str = ",",
    skip_bad: bool = False,
) -> Examples[TextExample]:
    """Texts, or pairs of texts, with their labels. `text`, `pair` and `label` are names of columns.

    Kinds of labels: `class` is one label, as written, even if it is a number. `classes` is a list of labels, also as a
    text (`['red', 'blue']`), or a text split at `separator`; with several label columns, the names of those with a 1.
    `number` is a finite number. If `label` is None, no label is read, for prediction. `labels` are the allowed ones.
    """
    known = None if labels is None else known_labels(labels)

    def make(record: Record) -> TextExample | RejectedRecord:
        texts = [text_in(record, column) for column in (text, pair) if column is not None]
        for one in texts:
            if isinstance(one, RejectedRecord):
                return one
        value = None if label is None else _label(record, label, kind, separator)
        if isinstance(value, RejectedRecord):
            return value
        if known is not None and isinstance(value, str | tuple):
            for name in (value,) if isinstance(value, str) else value:
                if name not in known:
                    return unknown_label(record, name, known.values())
            value = known[value] if isinstance(value, str) else tuple(known[name] for name in value)
        first, *rest = (str(one) for one in texts)
        return TextExample(first, rest[0] if rest else None, value, record.origin)

    return Examples(source, make, skip_bad)


class TextTask(Task[TextExample, Scores]):
    """The part of a task on texts that does not depend on the kind of label."""

    head = SequenceClassifier
    columns_type = TextColumns
    label_kind: ClassVar[LabelKind]
    names: tuple[str, ...] = ()

    @property
    def columns(self) -> TextColumns:
        assert isinstance(self.settings.columns, TextColumns)
        return self.settings.columns

    def examples(self, source: Source) -> Examples[TextExample]:
        columns = self.columns
        return read_texts_with_labels(
            source,
            text=columns.text,
            pair=columns.pair,
            label=columns.label,
            kind=self.label_kind,
            labels=self.names or None,
            separator=columns.separator,
            skip_bad=self.settings.skip_bad,
        )

    def restore_labels(self, config: EncoderConfig) -> None:
        self.names = config.labels

    def label_names(self) -> Sequence[str]:
        return self.names

    def folder_settings(self) -> TextFolderSettings:
        return TextFolderSettings(**self.common_settings(), pairs=self.columns.pair is not None)

    def group(self, example: TextExample) -> str:
        return f"{example.text}\n{example.pair}"

    def encode(self, examples: list[TextExample]) -> Encoded[TextExample]:
        encoded = encode_texts(
            self.tokenizer,
            [example.text for example in examples],
            [example.pair for example in examples],
            max_length=self.max_length,
        )
        items = [Item((ids,), self.target(example)) for ids, example in zip(encoded.ids, examples, strict=True)]
        return Encoded(examples, items, notes={"truncated": encoded.truncated})

    @abstractmethod
    def target(self, example: TextExample) -> npt.NDArray[np.generic]:
        """The label as an array for the loss."""

    def head_loss(self, model: TaskModel, batch: LabelledBatch) -> Tensor:
        assert isinstance(model, SequenceClassifier)
        return model.loss(batch.tokens, batch.sequences, batch.labels, batch.total, batch.weights)

    def predictions(self, encoded: Encoded[TextExample], outputs: Outputs) -> list[Scores]:
        return [decode_scores(logits, self.problem_type) for logits in outputs]

    def text_result(
        self, example: TextExample, expected: object, predicted: object, error: float, scores: Scores
    ) -> ExampleResult:
        """A result with the score of every label in its record."""
        record: dict[str, Any] = {**origin_fields(example.origin), "text": example.text}
        if example.pair is not None:
            record["pair"] = example.pair
        named = {name: float(value) for name, value in zip(self.names, scores, strict=True)}
        text = example.text if example.pair is None else f"{example.text} / {example.pair}"
        record |= {"expected": expected, "predicted": predicted, "scores": named}
        return ExampleResult(text, _display(expected), _display(predicted), error, record)


def decode_scores(logits: npt.NDArray[np.floating], problem_type: str | None) -> Scores:
    """The probability of each label of a text, or its numbers, from the outputs of a `SequenceClassifier`.

    The probabilities of classes add up to 1 (softmax); those of multi-label models are independent (sigmoid).
    """
    if problem_type == "single_label_classification":
        return torch.from_numpy(logits).softmax(-1).numpy()
    return torch.from_numpy(logits).sigmoid().numpy() if problem_type == "multi_label_classification" else logits


def _display(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _label(
    record: Record, column: str | Sequence[str], kind: LabelKind, separator: str
) -> str | tuple[str, ...] | float | RejectedRecord:
    if not isinstance(column, str):
        return _columns_with_1(record, column)
    if column not in record.values:
        return missing_column(record, column)
    value = record.values[column]
    if kind == "number":
        return _number(value, column, record)
    if kind == "class":
        remedy = '; numbers are learned with task = "regress"' if isinstance(value, float) else ""
        sentence = f"{column} is {value!r} and should be a label{remedy}."
        return label_text(value) or RejectedRecord("not a label", sentence, record.origin)
    parts = _split_labels(value, separator) if isinstance(value, str) else value
    not_a_list = RejectedRecord("not a label", f"{column} is {value!r} and should be a list of labels.", record.origin)
    if not isinstance(parts, list) or (isinstance(value, str) and not is_unicode(value)):
        return not_a_list
    several = [label_text(part) for part in parts]
    if isinstance(value, list) and None in several:
        return not_a_list
    if len(several) > len(set(several)) and set(several) <= {"0", "1", "true", "false"}:
        sentence = (
            f"{column} is {value!r}, which seems to have a 0 or 1 for each label; give the names of the labels with "
            "1, or a column of 0 and 1 for each label and their names in data.label."
        )
        return RejectedRecord("zeros and ones for labels", sentence, record.origin)
    return tuple(dict.fromkeys(one for one in several if one))


def _split_labels(value: str, separator: str) -> list[Any]:
    """The labels in a text: a list in the notation of Python, JSON or NumPy, or labels between separators."""
    text = value.strip()
    if len(text) < 2 or text[0] + text[-1] not in ("[]", "()", "{}"):
        return value.split(separator)
    if re.fullmatch(r"[\d\s.]+", text[1:-1]):  # NumPy writes no commas
        return text[1:-1].split()
    between = re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", text[1:-1])
    try:
        return list(ast.literal_eval(f"[{between}]"))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text[1:-1].split(separator) if text[0] == "[" else value.split(separator)


def _columns_with_1(record: Record, columns: Sequence[str]) -> tuple[str, ...] | RejectedRecord:
    labels = []
    for column in columns:
        if column not in record.values:
            return missing_column(record, column)
        value = label_text(record.values[column])
        if value not in ("0", "1", "false", "true"):
            sentence = f"{column} is {record.values[column]!r} and should be 0 or 1."
            return RejectedRecord("neither 0 nor 1", sentence, record.origin)
        if value in ("1", "true"):
            labels.append(composed(column))
    return tuple(labels)


def _number(value: object, column: str, record: Record) -> float | RejectedRecord:
    number = math.nan
    if isinstance(value, str | SupportsFloat) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if math.isfinite(number):
        return number
    return RejectedRecord("not a number", f"{column} is {value!r} and should be a finite number.", record.origin)
