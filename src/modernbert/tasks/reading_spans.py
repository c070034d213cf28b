"""A text with spans out of a record: spans by their offsets, or words with tags."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from modernbert.text.examples import Origin, Span, SpanExample, is_tag
from modernbert.text.records import Bad, Record, missing_column
from modernbert.text.words import join, parts_cluster

_BEGIN = ("begin", "start", "start_offset")
_END = ("end", "end_offset")
_LABEL = ("label", "type", "tag")
_TEXT = ("text", "name")


def marked_example(record: Record, text: str, column: str) -> SpanExample | Bad:
    """A text and the spans that `column` lists."""
    if column not in record.values:
        return missing_column(record, column)
    listed = record.values[column]
    if not isinstance(listed, list):
        return Bad(
            "no spans", f"{column} is {listed!r} and should be a list, empty if nothing is marked.", record.origin
        )
    spans = []
    for one in listed:
        begin, end, label, told = _span(one)
        if not isinstance(begin, int) or not isinstance(end, int) or not isinstance(label, str) or not label:
            sentence = f'the span {one!r} should tell begin, end and label, as in [0, 7, "ORG"].'
            return Bad("strange span", sentence, record.origin)
        if not 0 <= begin < end <= len(text):
            sentence = f"the span {begin} to {end} ({label}) is empty or outside its text of {len(text)} characters."
            return Bad("span outside its text", sentence, record.origin)
        if isinstance(told, str) and told != text[begin:end]:
            sentence = f"the span {begin} to {end} holds {text[begin:end]!r} and not {told!r}; count characters."
            return Bad("another text in the span", sentence, record.origin)
        if not text[begin:end].strip():
            sentence = f"the span {begin} to {end} ({label}) holds white space alone; mark a word."
            return Bad("empty span", sentence, record.origin)
        begin, end = end - len(text[begin:end].lstrip()), begin + len(text[begin:end].rstrip())
        if parts_cluster(text, begin) or parts_cluster(text, end):
            sentence = (
                f"the span {begin} to {end} ({label}), {text[begin:end]!r}, parts a letter from its marks; count "
                "characters, marks included."
            )
            return Bad("span inside a character", sentence, record.origin)
        spans.append(Span(begin, end, label))
    spans.sort(key=lambda span: span.begin)
    for one, other in pairwise(spans):
        if other.begin < one.end:
            sentence = (
                f"the spans {one.begin} to {one.end} ({one.label}) and {other.begin} to {other.end} ({other.label}) "
                "overlap; keep one of them."
            )
            return Bad("overlapping spans", sentence, record.origin)
    return SpanExample(text, tuple(spans), None, record.origin)


def tagged_example(record: Record, word_column: str, tag_column: str, joined_by: str) -> SpanExample | Bad:
    """A text of words, and the spans that their tags mean."""
    for column in (word_column, tag_column):
        if column not in record.values:
            tagged = [name for name, cells in record.values.items() if name.isdecimal() and all(map(is_tag, cells))]
            if column == "tags" and len(tagged) > 1:
                sentence = (
                    f"the columns {' and '.join(tagged)} all hold tags; name one of them, as data.tags = {tagged[0]}."
                )
                return Bad("several columns of tags", sentence, record.origin)
            return missing_column(record, column)
    words, tags = record.values[word_column], record.values[tag_column]
    for column, listed in ((word_column, words), (tag_column, tags)):
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            sentence = f"{column} is {_short(listed)} and should be a list of texts."
            if isinstance(listed, list) and all(isinstance(one, int) for one in listed):
                sentence = f"{column} holds numbers, and the file does not name what they mean; write tags as texts."
            return Bad("strange words", sentence, record.origin)
    if len(words) != len(tags):
        sentence = (
            f"{word_column} and {tag_column} should be lists of the same length, and have {len(words)} and {len(tags)} "
            "elements."
        )
        return Bad("strange words", sentence, record.origin)
    if not words or not all(word.strip() for word in words):
        return Bad("empty text", "a word is empty; leave it out.", record.origin)
    if any("\ud800" <= character <= "\udfff" for word in words for character in word):  # no tokenizer takes it
        return Bad("half a surrogate pair", "a word holds half a surrogate pair; write it again.", record.origin)
    for number, tag in enumerate(tags):
        if not is_tag(tag):
            lines = record.values.get("lines")
            origin = Origin(record.origin.file, lines[number]) if isinstance(lines, list) else record.origin
            return Bad("strange tag", f"{tag!r} is no tag; write O, B-NAME or I-NAME.", origin)
    text, places = join(words, joined_by)
    return SpanExample(text, spans_of_tags(places, tags), places, record.origin)


def spans_of_tags(places: Sequence[tuple[int, int]], tags: Sequence[str]) -> tuple[Span, ...]:
    """The spans that tags over pieces of a text mean, read as the CoNLL script reads them.

    B and S begin a span; I, M and E go on with one of the same label, or begin one; E and S end it. So IOB, IOB2,
    BIOES, BILOU, BMES and BMEO are all read.
    """
    spans: list[Span] = []
    going_on = False
    for (begin, end), tag in zip(places, tags, strict=True):
        kind, label = tag[:1], tag[2:]
        if kind == "O":
            going_on = False
        elif kind in "IMEL" and going_on and spans[-1].label == label:
            spans[-1] = Span(spans[-1].begin, max(end, spans[-1].end), label)
        else:
            spans.append(Span(begin, end, label))
        going_on = kind in "BIM"
    return tuple(spans)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _span(one: Any) -> tuple[Any, Any, Any, Any]:
    """Begin, end, label and, where it is told, the text."""
    if isinstance(one, list | tuple) and len(one) == 3:
        return one[0], one[1], one[2], None
    if not isinstance(one, dict):
        return None, None, None, None
    begin, end, label, told = (
        next((one[name] for name in names if name in one), None) for names in (_BEGIN, _END, _LABEL, _TEXT)
    )
    if isinstance(one.get("span"), list) and len(one["span"]) == 2:
        begin, end = one["span"]
    return begin, end, label, told
