"""Spans of a text as labels of tokens, and predictions for tokens as spans of the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from modernbert.packed import IGNORED
from modernbert.stream.masking import framed_labels
from modernbert.tasks.tokens.reading import SpanExample
from modernbert.tasks.tokens.tags import Span, best_path, bio_tags, changes_inside_word, label_changes, spans_of_tags
from modernbert.text.framing import Frame, Ids, encodings
from modernbert.text.offsets import TokenizedText, best_windows, windows
from modernbert.text.words import WordOffsets, inside_word, splits_cluster, widen_to_words

ScoredSpans = tuple[tuple[Span, float], ...]  # the spans of one text, each with its probability


@dataclass(frozen=True, eq=False)
class Units:
    """The pieces of a text that get one tag each: words, or else the smallest pieces that tokens end with.

    `anchors` are the tokens whose outputs decide on their tags: the first of each, and of no other. Words that have the
    same first token are one unit, as are tokens that share a character or a grapheme cluster: no span can end between
    them.
    """

    places: WordOffsets
    anchors: npt.NDArray[np.int64]
    of_tokens: npt.NDArray[np.int64]  # (tokens,) the unit of each token whose label is learned, -1 for the others

    @classmethod
    def of(cls, text: TokenizedText, words: WordOffsets | None) -> "Units":
        if words is not None and len(text.ids):
            return cls._of_words(text, words)
        places: list[tuple[int, int]] = []
        anchors: list[int] = []
        of_tokens = np.full(len(text.ids), -1, dtype=np.int64)
        for token, (begin, end) in enumerate(text.offsets.tolist()):
            if begin == end:
                continue  # white space belongs to no span, and ends none
            if places and (begin < places[-1][1] or (begin == places[-1][1] and splits_cluster(text.text, begin))):
                places[-1] = (places[-1][0], max(end, places[-1][1]))
            else:
                places.append((begin, end))
                anchors.append(token)
            of_tokens[token] = len(places) - 1
        return cls(tuple(places), np.array(anchors, dtype=np.int64), of_tokens)

    @classmethod
    def _of_words(cls, text: TokenizedText, words: WordOffsets) -> "Units":
        begins = np.array([begin for begin, _ in words], dtype=np.int64)
        of_words = np.searchsorted(text.offsets[:, 1], begins, side="right").clip(max=len(text.ids) - 1)
        anchors, first = np.unique(of_words, return_index=True)
        last = np.append(first[1:], len(words)) - 1
        places = tuple((words[one][0], words[other][1]) for one, other in zip(first, last, strict=True))
        of_tokens = np.full(len(text.ids), -1, dtype=np.int64)
        of_tokens[anchors] = np.arange(len(places))
        return cls(places, anchors.astype(np.int64), of_tokens)

    def tags(self, spans: Sequence[Span]) -> list[str]:
        """The tag of each unit. A unit in two spans belongs to the first of them."""
        tags = ["O"] * len(self.places)
        unit = 0
        for span in spans:
            while unit < len(tags) and self.places[unit][1] <= span.begin:
                unit += 1
            begin = "B"
            while unit < len(tags) and self.places[unit][0] < span.end:
                tags[unit] = f"{begin}-{span.label}"
                begin, unit = "I", unit + 1
        return tags


@dataclass(frozen=True, eq=False)
class SpanWindow:
    """A stretch of a text with [CLS] and [SEP], and the class of each token, -100 where none is learned."""

    example: int
    begin: int  # its first token, counted in the text
    end: int
    ids: Ids
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EncodedSpans:
    """Texts with marked spans as a token classifier reads them.

    `lost` are the spans that no prediction can equal, as they begin or end inside a unit, each with the number of its
    example before it.
    """

    tags: tuple[str, ...]
    texts: list[TokenizedText]
    units: list[Units]
    windows: list[SpanWindow]
    lost: list[tuple[int, Span]]


def encode_spans(
    tokenizer: Tokenizer, examples: Sequence[SpanExample], tags: Sequence[str], *, max_length: int, overlap: int
) -> EncodedSpans:
    """Windows of at most `max_length` tokens; neighbours of the same text share `overlap` tokens, at most half of them.

    The words of an example are its units, and the first token of each has the label; where it has none, all tokens have
    one. `tags` are those of `bio_tags`.

    Raises:
        ConfigError: `max_length` leaves no room for a token.
    """
    frame = Frame.of(tokenizer)
    numbers: Mapping[str, int] = {tag: number for number, tag in enumerate(tags)}
    texts, all_units, cut = [], [], []
    lost: list[tuple[int, Span]] = []
    encoded = encodings(tokenizer, [example.text for example in examples])
    for number, (example, encoding) in enumerate(zip(examples, encoded, strict=True)):
        text = TokenizedText.of(example.text, encoding)
        units = Units.of(text, example.words)
        own = units.tags(example.spans)
        recovered = set(spans_of_tags(units.places, own))
        lost += [(number, span) for span in example.spans if span not in recovered]
        labels = _token_labels(units, own, numbers)
        for begin, end in windows(len(text.ids), frame.content_length(max_length), overlap):
            ids = frame.ids(text.ids[begin:end])
            cut.append(SpanWindow(number, begin, end, ids, framed_labels(labels[begin:end])))
        texts.append(text)
        all_units.append(units)
    return EncodedSpans(tuple(tags), texts, all_units, cut, lost)


def spans_that_cut_words(example: SpanExample) -> list[Span]:
    """The spans of which an end is between two letters or digits."""
    text = example.text
    return [span for span in example.spans if inside_word(text, span.begin) or inside_word(text, span.end)]


def span_inside_word(tokenizer: Tokenizer, example: SpanExample) -> tuple[Span, Span] | None:
    """The first span that cuts a word between two letters where no unit ends, and the same span with the whole word.

    Such a span is most likely a mistake of counting. Scripts without spaces and Hangul have no such words.
    """
    text = example.text
    suspects = spans_that_cut_words(example)
    if not suspects:
        return None
    lost = {span for _, span in encode_spans(tokenizer, [example], bio_tags([span.label for span in example.spans]),
                                             max_length=len(text.encode()) * 4 + 16, overlap=0).lost}  # fmt: skip
    for span in suspects:
        if span in lost:
            return span, Span(*widen_to_words(text, span.begin, span.end), span.label)
    return None


def decode_spans(
    encoded: EncodedSpans,
    logits: Sequence[npt.NDArray[np.floating]],
    words: Sequence[WordOffsets | None] | None = None,
) -> list[ScoredSpans]:
    """The spans of each text, each with the mean probability of its tags.

    The tags are the most probable ones together of which none goes on with a span under another label (`best_path`).
    `logits` has for each window (tokens, tags), [CLS] and [SEP] included. Where windows share a token, the one decides
    in which it has the most context. No span begins or ends inside one of the `words` of its text, if they are given.
    """
    forbidden, forbidden_inside = label_changes(encoded.tags), changes_inside_word(encoded.tags)
    of_texts: list[list[int]] = [[] for _ in encoded.texts]
    for number, window in enumerate(encoded.windows):
        of_texts[window.example].append(number)
    assert len(logits) == len(encoded.windows), "one array of logits for each window"
    decoded: list[ScoredSpans] = []
    given = [None] * len(encoded.texts) if words is None else words
    for units, numbers, own_words in zip(encoded.units, of_texts, given, strict=True):
        own = [encoded.windows[number] for number in numbers]
        if not units.places:
            decoded.append(())
            continue
        chosen = best_windows([(window.begin, window.end) for window in own])[units.anchors]
        begins = np.array([window.begin for window in own])
        rows = np.stack(
            [
                logits[numbers[window]][1 + anchor - begins[window]]
                for window, anchor in zip(chosen.tolist(), units.anchors.tolist(), strict=True)
            ]
        ).astype(np.float64)
        rows -= rows.max(1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        inside = None if own_words is None else _inside(units.places, own_words)
        path = best_path(rows, forbidden, forbidden_inside, inside)
        probabilities = np.exp(np.take_along_axis(rows, path[:, None], 1)[:, 0])
        decoded.append(_scored(units.places, [encoded.tags[index] for index in path], probabilities))
    return decoded


def _inside(places: WordOffsets, words: WordOffsets) -> npt.NDArray[np.bool_]:
    """Which units begin inside a word, and not with it."""
    begins, ends = np.array(words, dtype=np.int64).reshape(-1, 2).T
    units = np.array([begin for begin, _ in places], dtype=np.int64)
    word = np.searchsorted(begins, units, side="right") - 1
    return (word >= 0) & (units > begins[word]) & (units < ends[word])


def _token_labels(units: Units, tags: Sequence[str], numbers: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """The class of each token. Behind the first token of a unit the span goes on."""
    first = np.array([numbers[tag] for tag in tags], dtype=np.int64)
    going_on = np.array([numbers[f"I-{tag[2:]}" if tag != "O" else tag] for tag in tags], dtype=np.int64)
    labels = np.full(len(units.of_tokens), IGNORED, dtype=np.int64)
    learned = units.of_tokens >= 0
    labels[learned] = going_on[units.of_tokens[learned]]
    labels[units.anchors] = first
    return labels


def _scored(places: WordOffsets, tags: Sequence[str], probabilities: npt.NDArray[np.float64]) -> ScoredSpans:
    begins = {begin: number for number, (begin, _) in enumerate(places)}
    ends = {end: number for number, (_, end) in enumerate(places)}
    return tuple(
        (span, float(probabilities[begins[span.begin] : ends[span.end] + 1].mean()))
        for span in spans_of_tags(places, tags)
    )
