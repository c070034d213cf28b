"""Exact match and F1 of answers, by the definition of the SQuAD script."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt


def squad_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, unit: Literal["words", "characters"] = "words"
) -> npt.NDArray[np.float64]:
    """(questions, 2): exact match and F1 of each answer, by the definition of SQuAD's script, from 0 to 1.

    The best accepted answer counts. An empty prediction means no answer, which is correct if there is no accepted
    answer. F1 is over `words`, or over `characters` for languages without spaces.
    """
    scores = []
    for predicted, answers in zip(predictions, references, strict=True):
        normalized = normalized_answer(predicted, unit)
        accepted = [answer for text in answers if (answer := normalized_answer(text, unit))] or [""]
        scores.append(
            [max(each) for each in zip(*(_answer_scores(normalized, one, unit) for one in accepted), strict=True)]
        )
    return np.array(scores, dtype=np.float64).reshape(-1, 2)


def normalized_answer(text: str, unit: Literal["words", "characters"] = "words") -> str:
    """An answer, normalized for comparison.

    For words as in SQuAD's script: lower case, no ASCII punctuation, no articles, single spaces. For characters: NFKC,
    lower case, no punctuation of any script, no white space.
    """
    if unit == "words":
        kept = "".join(character for character in text.lower() if character not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(
        character
        for character in folded
        if not unicodedata.category(character).startswith("P")
        and character not in string.punctuation
        and not character.isspace()
    )


def _answer_scores(one: str, other: str, unit: Literal["words", "characters"]) -> tuple[float, float]:
    """Exact match and F1 of two normalized answers."""
    exact = float(one == other)
    units = (one.split(), other.split()) if unit == "words" else (list(one), list(other))
    if not units[0] or not units[1]:  # no answer, which is correct only if no answer is expected
        return exact, exact
    same = sum((Counter(units[0]) & Counter(units[1])).values())
    return exact, 2 * same / (len(units[0]) + len(units[1]))
