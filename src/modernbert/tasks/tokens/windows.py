"""Convert spans of a text to labels of tokens, and predictions for tokens to spans of the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from modernbert.packed import IGNORED
from modernbert.stream.masking import framed_labels
from modernbert.tasks.tokens.reading import SpanExample
from modernbert.tasks.tokens.tags import (
    Span,
    best_path,
    bio_tags,
    forbidden_inside_word,
    forbidden_transitions,
    spans_of_tags,
)
from modernbert.text.framing import Frame, Ids, encodings
from modernbert.text.offsets import TokenizedText, best_windows, windows
from modernbert.text.words import WordOffsets, inside_word, splits_cluster, widen_to_words

ScoredSpans = tuple[tuple[Span, float], ...]  # the spans of one text, each with its probability


@dataclass(frozen=True, eq=False)
class Units:
    """The parts of a text that get one tag each: words, or otherwise the smallest parts that end with a token.

    `anchors` are the tokens whose outputs decide the tags: the first token of each unit. Words with the same first
    token are one unit, as are tokens that share a character or a grapheme cluster: no span can end between them.
    """

    offsets: WordOffsets
    anchors: npt.NDArray[np.int64]
    unit_of_token: npt.NDArray[np.int64]  # (tokens,) the unit of each token that has a label, -1 for other tokens

    @classmethod
    def of(cls, text: TokenizedText, words: WordOffsets | None) -> "Units":
        if words is not None and len(text.ids):
            return cls._of_words(text, words)
        offsets: list[tuple[int, int]] = []
        anchors: list[int] = []
        unit_of_token = np.full(len(text.ids), -1, dtype=np.int64)
        for token, (begin, end) in enumerate(text.offsets.tolist()):
            if begin == end:
                continue  # white space is outside of spans
            if offsets and (begin < offsets[-1][1] or (begin == offsets[-1][1] and splits_cluster(text.text, begin))):
                offsets[-1] = (offsets[-1][0], max(end, offsets[-1][1]))
            else:
                offsets.append((begin, end))
                anchors.append(token)
            unit_of_token[token] = len(offsets) - 1
        return cls(tuple(offsets), np.array(anchors, dtype=np.int64), unit_of_token)

    @classmethod
    def _of_words(cls, text: TokenizedText, words: WordOffsets) -> "Units":
        begins = np.array([begin for begin, _ in words], dtype=np.int64)
        first_tokens = np.searchsorted(text.offsets[:, 1], begins, side="right").clip(max=len(text.ids) - 1)
        anchors, first = np.unique(first_tokens, return_index=True)
        last = np.append(first[1:], len(words)) - 1
        offsets = tuple((words[one][0], words[other][1]) for one, other in zip(first, last, strict=True))
        unit_of_token = np.full(len(text.ids), -1, dtype=np.int64)
        unit_of_token[anchors] = np.arange(len(offsets))
        return cls(offsets, anchors.astype(np.int64), unit_of_token)

    def tags(self, spans: Sequence[Span]) -> list[str]:
        """The tag of each unit. A unit in two spans gets the tag of the first one."""
        tags = ["O"] * len(self.offsets)
        unit = 0
        for span in spans:
            while unit < len(tags) and self.offsets[unit][1] <= span.begin:
                unit += 1
            begin = "B"
            while unit < len(tags) and self.offsets[unit][0] < span.end:
                tags[unit] = f"{begin}-{span.label}"
                begin, unit = "I", unit + 1
        return tags


@dataclass(frozen=True, eq=False)
class SpanWindow:
    """A window of a text with [CLS] and [SEP], and the class of each token, -100 if it has none."""

    example: int
    begin: int  # index of its first token in the text
    end: int
    ids: Ids
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EncodedSpans:
    """Texts with marked spans as a token classifier reads them.

    `lost` are spans that no prediction can equal, as they begin or end inside a unit, with the index of their example.
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

    The words of an example are its units, and the first token of each has the label. Without words, all tokens have
    labels. `tags` are those of `bio_tags`.

    Raises:
        ConfigError: `max_length` is too short for a token.
    """
    frame = Frame.of(tokenizer)
    numbers: Mapping[str, int] = {tag: number for number, tag in enumerate(tags)}
    texts, all_units, span_windows = [], [], []
    lost: list[tuple[int, Span]] = []
    encoded = encodings(tokenizer, [example.text for example in examples])
    for number, (example, encoding) in enumerate(zip(examples, encoded, strict=True)):
        text = TokenizedText.of(example.text, encoding)
        units = Units.of(text, example.words)
        unit_tags = units.tags(example.spans)
        recovered = set(spans_of_tags(units.offsets, unit_tags))
        lost += [(number, span) for span in example.spans if span not in recovered]
        labels = _token_labels(units, unit_tags, numbers)
        for begin, end in windows(len(text.ids), frame.content_length(max_length), overlap):
            ids = frame.ids(text.ids[begin:end])
            span_windows.append(SpanWindow(number, begin, end, ids, framed_labels(labels[begin:end])))
        texts.append(text)
        all_units.append(units)
    return EncodedSpans(tuple(tags), texts, all_units, span_windows, lost)


def spans_that_cut_words(example: SpanExample) -> list[Span]:
    """The spans with an end between two letters or digits."""
    text = example.text
    return [span for span in example.spans if inside_word(text, span.begin) or inside_word(text, span.end)]


def span_inside_word(tokenizer: Tokenizer, example: SpanExample) -> tuple[Span, Span] | None:
    """The first span that cuts a word between two letters where no unit ends, and the same span with the whole word.

    Its offsets are most likely wrong. The check does not apply to Hangul and scripts without spaces.
    """
    text = example.text
    candidates = spans_that_cut_words(example)
    if not candidates:
        return None
    lost = {span for _, span in encode_spans(tokenizer, [example], bio_tags([span.label for span in example.spans]),
                                             max_length=len(text.encode()) * 4 + 16, overlap=0).lost}  # fmt: skip
    for span in candidates:
        if span in lost:
            return span, Span(*widen_to_words(text, span.begin, span.end), span.label)
    return None


def decode_spans(
    encoded: EncodedSpans,
    logits: Sequence[npt.NDArray[np.floating]],
    words: Sequence[WordOffsets | None] | None = None,
) -> list[ScoredSpans]:
    """The spans of each text, each with the mean probability of its tags.

    The tags are the most probable sequence in which no span continues with another label (`best_path`). `logits` has
    for each window (tokens, tags), including [CLS] and [SEP]. If windows share a token, the one with the most context
    of the token decides. If `words` are given, no span begins or ends inside a word.
    """
    forbidden, forbidden_inside = forbidden_transitions(encoded.tags), forbidden_inside_word(encoded.tags)
    windows_of_text: list[list[int]] = [[] for _ in encoded.texts]
    for number, window in enumerate(encoded.windows):
        windows_of_text[window.example].append(number)
    assert len(logits) == len(encoded.windows), "one array of logits for each window"
    decoded: list[ScoredSpans] = []
    words_by_text = [None] * len(encoded.texts) if words is None else words
    for units, numbers, text_words in zip(encoded.units, windows_of_text, words_by_text, strict=True):
        text_windows = [encoded.windows[number] for number in numbers]
        if not units.offsets:
            decoded.append(())
            continue
        chosen = best_windows([(window.begin, window.end) for window in text_windows])[units.anchors]
        begins = np.array([window.begin for window in text_windows])
        rows = np.stack(
            [
                logits[numbers[window]][1 + anchor - begins[window]]
                for window, anchor in zip(chosen.tolist(), units.anchors.tolist(), strict=True)
            ]
        ).astype(np.float64)
        rows -= rows.max(1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        inside = None if text_words is None else _inside(units.offsets, text_words)
        path = best_path(rows, forbidden, forbidden_inside, inside)
        probabilities = np.exp(np.take_along_axis(rows, path[:, None], 1)[:, 0])
        decoded.append(_scored(units.offsets, [encoded.tags[index] for index in path], probabilities))
    return decoded


def _inside(offsets: WordOffsets, words: WordOffsets) -> npt.NDArray[np.bool_]:
    """Which units begin inside a word, after its first character."""
    begins, ends = np.array(words, dtype=np.int64).reshape(-1, 2).T
    units = np.array([begin for begin, _ in offsets], dtype=np.int64)
    word = np.searchsorted(begins, units, side="right") - 1
    return (word >= 0) & (units > begins[word]) & (units < ends[word])


def _token_labels(units: Units, tags: Sequence[str], numbers: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """The class of each token. Further tokens of a unit are inside the span."""
    first = np.array([numbers[tag] for tag in tags], dtype=np.int64)
    inside = np.array([numbers[f"I-{tag[2:]}" if tag != "O" else tag] for tag in tags], dtype=np.int64)
    labels = np.full(len(units.unit_of_token), IGNORED, dtype=np.int64)
    learned = units.unit_of_token >= 0
    labels[learned] = inside[units.unit_of_token[learned]]
    labels[units.anchors] = first
    return labels


def _scored(offsets: WordOffsets, tags: Sequence[str], probabilities: npt.NDArray[np.float64]) -> ScoredSpans:
    begins = {begin: number for number, (begin, _) in enumerate(offsets)}
    ends = {end: number for number, (_, end) in enumerate(offsets)}
    return tuple(
        (span, float(probabilities[begins[span.begin] : ends[span.end] + 1].mean()))
        for span in spans_of_tags(offsets, tags)
    )
