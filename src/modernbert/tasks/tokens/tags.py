"""Spans as tags of words or tokens, and the best sequence of tags that means spans."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Span:
    """A piece of a text with a label: `text[begin:end]` in characters (Unicode code points)."""

    begin: int
    end: int
    label: str


def bio_tags(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes of a token: O, and for each label, in order, B- where a span begins and I- where it goes on."""
    return ("O", *(f"{begin}-{label}" for label in sorted(set(labels)) for begin in "BI"))


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


def best_path(
    scores: Float[np.ndarray, "units tags"],
    forbidden: Bool[np.ndarray, "tags tags"],
    forbidden_inside: Bool[np.ndarray, "tags tags"] | None = None,
    inside: Bool[np.ndarray, "units"] | None = None,
) -> Int[np.ndarray, "units"]:
    """The classes with the highest sum of scores among which b never follows a where `forbidden[a, b]` (Viterbi 1967).

    Some class has to be allowed behind each. Of a unit that is `inside` something `forbidden_inside` says it instead.
    """
    path: npt.NDArray[np.int64] = scores.argmax(1)
    kinds = np.stack([forbidden, forbidden if forbidden_inside is None else forbidden_inside])
    kind = np.zeros(len(scores), dtype=np.int64) if inside is None else inside.astype(np.int64)
    if not kinds[kind[1:], path[:-1], path[1:]].any():
        return path
    bars = np.where(kinds, -np.inf, 0.0)
    reached = scores[0]
    came_from = np.empty(scores.shape, dtype=np.int64)
    for unit in range(1, len(scores)):
        ways = reached[:, None] + bars[kind[unit]]
        came_from[unit] = ways.argmax(0)
        reached = ways.max(0) + scores[unit]
    path[-1] = reached.argmax()
    for unit in range(len(scores) - 1, 0, -1):
        path[unit - 1] = came_from[unit, path[unit]]
    return path


def label_changes(tags: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Pairs of tags in which the second one would continue the span of the first one with another label.

    I- after O is allowed, as spans begin in this way in some data sets.
    """
    inside, going_on, same = _kinds(tags)
    return inside[:, None] & going_on[None, :] & ~same


def changes_inside_word(tags: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Pairs of tags that are not allowed inside a word, where a span can only continue."""
    inside, going_on, same = _kinds(tags)
    outside = np.array([tag == "O" for tag in tags])
    return ~((inside[:, None] & going_on[None, :] & same) | (outside[:, None] & outside[None, :]))


def _kinds(tags: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which tags may be followed by the rest of their span, which are such a rest, and which have the same label."""
    labels = np.array([tag[2:] for tag in tags])
    inside = np.array([tag[0] in "BIM" for tag in tags])
    going_on = np.array([tag[0] in "IELM" for tag in tags])
    return inside, going_on, labels[:, None] == labels[None, :]
