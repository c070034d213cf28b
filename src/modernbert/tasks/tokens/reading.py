"""Read texts with labelled spans, given by their offsets or as words with tags."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import field_validator

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
from modernbert.tasks.tokens.tags import Span, spans_of_tags
from modernbert.text.conll import is_tag
from modernbert.text.records import Origin, Record, RejectedRecord, Source, missing_column
from modernbert.text.words import WordOffsets, join, splits_cluster

_BEGIN = ("begin", "start", "start_offset")
_END = ("end", "end_offset")
_LABEL = ("label", "type", "tag")
_TEXT = ("text", "name")


@dataclass(frozen=True)
class SpanExample:
    """A text and the spans in it, in order and not overlapping.

    `words` are the offsets of the units with one tag each: the words of the file (CoNLL), or those of a `WordRule`;
    None if only the spans are known.
    """

    text: str
    spans: tuple[Span, ...]
    words: WordOffsets | None
    origin: Origin


class SpanColumns(Columns):
    """The columns of texts with spans: `text` and `spans`, or `words` and `tags`."""

    text: str = "text"  # the column of the texts
    spans: str = "entities"  # spans with offsets in characters
    words: str | None = None  # words and tags instead of text and spans; CoNLL files have them, also by number
    tags: str | None = None  # the tags of the words, with `words`
    joined_by: str = " "  # text between words
    inside_words: bool = False  # spans may begin and end inside a word

    @field_validator("words", "tags", mode="before")
    @classmethod
    def _as_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_spans(
    source: Source | str | Path,
    *,
    text: str = "text",
    spans: str = "entities",
    words: str | None = None,
    tags: str | None = None,
    joined_by: str = " ",
    labels: Collection[str] | None = None,
    check: Callable[[SpanExample], RejectedRecord | None] | None = None,
    skip_bad: bool = False,
) -> Examples[SpanExample]:
    """Texts with labelled spans.

    Either a column `text` and a column `spans`, a list of [begin, end, label] or of objects with those names (also
    `start`, `start_offset`, `end_offset`, `span`, `type`; a `text` or `name` of a span must be equal to the text at its
    offsets). Or columns `words` and `tags` (IOB, IOB2, BIOES), as in CoNLL files; the text is then the words joined by
    `joined_by`. Offsets count characters. `labels` are the allowed ones; `check` may reject an example. White space at
    the ends of a span is removed.
    """
    known = None if labels is None else known_labels(labels)

    def make(record: Record) -> SpanExample | RejectedRecord:
        if words is not None or (text not in record.values and "words" in record.values):
            example = tagged_example(record, words or "words", tags or "tags", joined_by)
        else:
            content = text_in(record, text)
            example = content if isinstance(content, RejectedRecord) else marked_example(record, content, spans)
        if isinstance(example, RejectedRecord):
            return example
        if known is not None:
            for span in example.spans:
                if span.label not in known:
                    return unknown_label(record, span.label, known.values())
            spans_known = tuple(replace(span, label=known[span.label]) for span in example.spans)
            example = replace(example, spans=spans_known)
        return (check and check(example)) or example

    return Examples(source, make, skip_bad)


def marked_example(record: Record, text: str, column: str) -> SpanExample | RejectedRecord:
    """A text and the spans that `column` lists."""
    if column not in record.values:
        return missing_column(record, column)
    listed = record.values[column]
    if not isinstance(listed, list):
        return RejectedRecord(
            "invalid spans", f"{column} is {listed!r} and should be a list, empty if there are no spans.", record.origin
        )
    spans = []
    for one in listed:
        begin, end, label, covered = _span(one)
        label = label_text(label) if isinstance(label, str) else None
        if type(begin) is not int or type(end) is not int or label is None:
            sentence = f'the span {one!r} should give begin, end and label, as in [0, 7, "ORG"].'
            return RejectedRecord("invalid span", sentence, record.origin)
        if not 0 <= begin < end <= len(text):
            sentence = f"the span {begin} to {end} ({label}) is empty or outside its text of {len(text)} characters."
            return RejectedRecord("span outside its text", sentence, record.origin)
        if isinstance(covered, str) and covered != text[begin:end]:
            sentence = f"the span {begin} to {end} holds {text[begin:end]!r} and not {covered!r}; count characters."
            return RejectedRecord("other text in the span", sentence, record.origin)
        if not text[begin:end].strip():
            sentence = f"the span {begin} to {end} ({label}) holds white space alone; include a word."
            return RejectedRecord("empty span", sentence, record.origin)
        begin, end = end - len(text[begin:end].lstrip()), begin + len(text[begin:end].rstrip())
        if splits_cluster(text, begin) or splits_cluster(text, end):
            sentence = (
                f"the span {begin} to {end} ({label}), {text[begin:end]!r}, splits a letter from its marks; count "
                "characters, marks included."
            )
            return RejectedRecord("span inside a character", sentence, record.origin)
        spans.append(Span(begin, end, label))
    spans.sort(key=lambda span: span.begin)
    for one, other in pairwise(spans):
        if other.begin < one.end:
            sentence = (
                f"the spans {one.begin} to {one.end} ({one.label}) and {other.begin} to {other.end} ({other.label}) "
                "overlap; keep one of them."
            )
            return RejectedRecord("overlapping spans", sentence, record.origin)
    return SpanExample(text, tuple(spans), None, record.origin)


def tagged_example(record: Record, word_column: str, tag_column: str, joined_by: str) -> SpanExample | RejectedRecord:
    """A text of words, and the spans of their tags."""
    for column in (word_column, tag_column):
        if column not in record.values:
            tagged = [name for name, cells in record.values.items() if name.isdecimal() and all(map(is_tag, cells))]
            if column == "tags" and len(tagged) > 1:
                sentence = (
                    f"the columns {' and '.join(tagged)} all hold tags; name one of them, as data.tags = {tagged[0]}."
                )
                return RejectedRecord("several columns of tags", sentence, record.origin)
            return missing_column(record, column)
    words, tags = record.values[word_column], record.values[tag_column]
    for column, listed in ((word_column, words), (tag_column, tags)):
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            sentence = f"{column} is {_short_repr(listed)} and should be a list of texts."
            if isinstance(listed, list) and all(isinstance(one, int) for one in listed):
                sentence = f"{column} holds numbers, and the file has no names for them; write tags as texts."
            return RejectedRecord("invalid words", sentence, record.origin)
    if len(words) != len(tags):
        sentence = (
            f"{word_column} and {tag_column} should be lists of the same length, and have {len(words)} and {len(tags)} "
            "elements."
        )
        return RejectedRecord("invalid words", sentence, record.origin)
    if not words or not all(word.strip() for word in words):
        return RejectedRecord("empty text", "a word is empty; leave it out.", record.origin)
    if not all(map(is_unicode, words)):
        return RejectedRecord(
            "unpaired surrogate", "a word holds an unpaired surrogate; write it again.", record.origin
        )
    for number, tag in enumerate(tags):
        if not is_tag(tag) or not is_unicode(tag):
            lines = record.values.get("lines")
            origin = Origin(record.origin.file, lines[number]) if isinstance(lines, list) else record.origin
            return RejectedRecord("invalid tag", f"{tag!r} is not a tag; write O, B-NAME or I-NAME.", origin)
    text, offsets = join(words, joined_by)
    return SpanExample(text, spans_of_tags(offsets, [composed(tag) for tag in tags]), offsets, record.origin)


def _short_repr(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _span(one: Any) -> tuple[Any, Any, Any, Any]:
    """Begin, end, label and, if it is given, the text of a span."""
    if isinstance(one, list | tuple) and len(one) == 3:
        return one[0], one[1], one[2], None
    if not isinstance(one, dict):
        return None, None, None, None
    begin, end, label, covered = (
        next((one[name] for name in names if name in one), None) for names in (_BEGIN, _END, _LABEL, _TEXT)
    )
    if isinstance(one.get("span"), list) and len(one["span"]) == 2:
        begin, end = one["span"]
    return begin, end, label, covered
