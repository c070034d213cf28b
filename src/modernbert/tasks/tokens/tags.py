"""Spans as tags of words or tokens, and the best valid sequence of tags."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Span:
    """A labelled part of a text: `text[begin:end]` in characters (Unicode code points)."""

    begin: int
    end: int
    label: str


def bio_tags(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes of a token: O, and for each label, in order, B- at the begin of a span and I- inside it."""
    return ("O", *(f"{begin}-{label}" for label in sorted(set(labels)) for begin in "BI"))


def spans_of_tags(offsets: Sequence[tuple[int, int]], tags: Sequence[str]) -> tuple[Span, ...]:
    """The spans of the tags of a text, as the CoNLL script reads them.

    B and S begin a span; I, M and E continue a span of the same label, or begin one; E and S end it. So IOB, IOB2,
    BIOES, BILOU, BMES and BMEO are all valid.
    """
    spans: list[Span] = []
    open_span = False
    for (begin, end), tag in zip(offsets, tags, strict=True):
        kind, label = tag[:1], tag[2:]
        if kind == "O":
            open_span = False
        elif kind in "IMEL" and open_span and spans[-1].label == label:
            spans[-1] = Span(spans[-1].begin, max(end, spans[-1].end), label)
        else:
            spans.append(Span(begin, end, label))
        open_span = kind in "BIM"
    return tuple(spans)


def best_path(
    scores: Float[np.ndarray, "units tags"],
    forbidden: Bool[np.ndarray, "tags tags"],
    forbidden_inside: Bool[np.ndarray, "tags tags"] | None = None,
    inside: Bool[np.ndarray, "units"] | None = None,
) -> Int[np.ndarray, "units"]:
    """The classes with the highest sum of scores in which b does not follow a if `forbidden[a, b]` (Viterbi 1967).

    After each class, some class must be allowed. For units that are `inside` a word, `forbidden_inside` is used.
    """
    path: npt.NDArray[np.int64] = scores.argmax(1)
    masks = np.stack([forbidden, forbidden if forbidden_inside is None else forbidden_inside])
    mask_index = np.zeros(len(scores), dtype=np.int64) if inside is None else inside.astype(np.int64)
    if not masks[mask_index[1:], path[:-1], path[1:]].any():
        return path
    penalties = np.where(masks, -np.inf, 0.0)
    best_scores = scores[0]
    previous = np.empty(scores.shape, dtype=np.int64)
    for unit in range(1, len(scores)):
        path_scores = best_scores[:, None] + penalties[mask_index[unit]]
        previous[unit] = path_scores.argmax(0)
        best_scores = path_scores.max(0) + scores[unit]
    path[-1] = best_scores.argmax()
    for unit in range(len(scores) - 1, 0, -1):
        path[unit - 1] = previous[unit, path[unit]]
    return path


def forbidden_transitions(tags: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Pairs of tags in which the second one would continue the span of the first one with another label.

    I- after O is allowed, as it begins a span in some data sets.
    """
    inside, continues, same = _tag_properties(tags)
    return inside[:, None] & continues[None, :] & ~same


def forbidden_inside_word(tags: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Pairs of tags that are not allowed inside a word, where a span can only continue."""
    inside, continues, same = _tag_properties(tags)
    outside = np.array([tag == "O" for tag in tags])
    return ~((inside[:, None] & continues[None, :] & same) | (outside[:, None] & outside[None, :]))


def _tag_properties(tags: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which tags may precede the rest of their span, which may continue a span, and which pairs have the same label."""
    labels = np.array([tag[2:] for tag in tags])
    inside = np.array([tag[0] in "BIM" for tag in tags])
    continues = np.array([tag[0] in "IELM" for tag in tags])
    return inside, continues, labels[:, None] == labels[None, :]
