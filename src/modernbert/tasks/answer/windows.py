"""Questions and contexts as token ids, answers as positions of tokens, and outputs as answers in the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from modernbert.tasks.answer.reading import QuestionExample
from modernbert.text.framing import Frame, Ids, encodings
from modernbert.text.offsets import TokenizedText, windows


@dataclass(frozen=True, eq=False)
class QuestionWindow:
    """`[CLS] question [SEP] stretch of the context [SEP]`.

    `labels` (2,) are the first and the last token of the answer, counted in `ids`; both are 0, which is [CLS], where
    the stretch does not hold the whole answer.
    """

    example: int
    begin: int  # its first token of the context, counted there
    end: int
    context_at: int  # where that token is in `ids`
    ids: Ids
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EncodedQuestions:
    """Questions as a model reads them. `truncated` counts the questions that were cut, `lost` the answers of white
    space alone, which cannot be learned."""

    contexts: list[TokenizedText]
    windows: list[QuestionWindow]
    truncated: int
    lost: int


@dataclass(frozen=True)
class Answer:
    """An answer with its place in the context in characters; an empty text at 0 means that there is no answer.

    `score` is the sum of the two logits; `probability` is among all answers to the question that were considered.
    """

    text: str
    begin: int
    end: int
    score: float
    probability: float


def encode_questions(
    tokenizer: Tokenizer, examples: Sequence[QuestionExample], *, max_length: int, overlap: int
) -> EncodedQuestions:
    """Windows of at most `max_length` tokens over each context; neighbours share `overlap` tokens, at most half.

    Of several accepted answers the first one is learned. A question takes half of the room at most.

    Raises:
        ConfigError: `max_length` leaves no room for a token of each.
    """
    frame = Frame.of(tokenizer)
    contexts: list[TokenizedText] = []
    cut: list[QuestionWindow] = []
    truncated = lost = 0
    questions = encodings(tokenizer, [example.question for example in examples])
    encoded_contexts = encodings(tokenizer, [example.context for example in examples])
    for number, (example, question, encoding) in enumerate(zip(examples, questions, encoded_contexts, strict=True)):
        context = TokenizedText.of(example.context, encoding)
        contexts.append(context)
        kept = question.ids[: max(1, frame.content_length(max_length, 2) // 2)]
        truncated += len(kept) < len(question.ids)
        place = None
        if example.answers:
            answer = example.answers[0]
            place = context.covering(answer.begin, answer.begin + len(answer.text))
            lost += place is None
        context_at = len(kept) + 2
        for begin, end in windows(len(context.ids), frame.content_length(max_length, 2) - len(kept), overlap):
            ids = frame.ids(kept, context.ids[begin:end])
            labels = np.zeros(2, dtype=np.int64)
            if place is not None and begin <= place[0] and place[1] < end:
                labels += np.array(place) - begin + context_at
            cut.append(QuestionWindow(number, begin, end, context_at, ids, labels))
    return EncodedQuestions(contexts, cut, truncated, lost)


def decode_answers(
    encoded: EncodedQuestions,
    logits: Sequence[npt.NDArray[np.floating]],
    *,
    n_best: int = 20,
    max_answer_tokens: int = 64,
    no_answer_threshold: float | None = None,
) -> list[list[Answer]]:
    """The answers to each question, best first, from all windows over its context.

    `logits` has for each window (tokens, 2), begin and end. The score of no answer is the lowest that a window gives
    [CLS], as in the SQuAD 2.0 evaluation. With a threshold, the empty answer is the first one if its score is more than
    the threshold above the best answer's; without one it is left out.
    """
    candidates: list[dict[tuple[int, int], float]] = [{} for _ in encoded.contexts]
    null = [np.inf] * len(encoded.contexts)
    assert len(logits) == len(encoded.windows), "one array of logits for each window"
    for window, scores in zip(encoded.windows, logits, strict=True):
        null[window.example] = min(null[window.example], float(scores[0].sum()))
        inside = np.asarray(scores[window.context_at : window.context_at + window.end - window.begin], dtype=np.float64)
        offsets = encoded.contexts[window.example].offsets[window.begin : window.end]
        scores_of = candidates[window.example]
        for first, last, score in best_pairs(inside[:, 0], inside[:, 1], n_best, max_answer_tokens):
            place = int(offsets[first, 0]), int(offsets[last, 1])
            if place[0] < place[1]:
                scores_of[place] = max(score, scores_of.get(place, -np.inf))
    return [
        _ranked(context.text, scores_of, none, n_best, no_answer_threshold)
        for context, scores_of, none in zip(encoded.contexts, candidates, null, strict=True)
    ]


def best_pairs(
    begins: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], n_best: int, longest: int
) -> list[tuple[int, int, float]]:
    """The best pairs of a first and a last token at most `longest` tokens apart, by the sum of their scores."""
    padded = np.concatenate([ends, np.full(longest - 1, -np.inf)])
    sums = begins[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    flat = sums.ravel()
    best = np.argpartition(-flat, min(n_best, len(flat)) - 1)[:n_best]
    best = best[np.lexsort((best, -flat[best]))]
    return [
        (int(place // longest), int(place // longest + place % longest), float(flat[place]))
        for place in best
        if np.isfinite(flat[place])
    ]


def _ranked(
    text: str, scores_of: dict[tuple[int, int], float], none: float, n_best: int, threshold: float | None
) -> list[Answer]:
    ordered = sorted(scores_of.items(), key=lambda item: (-item[1], item[0]))[:n_best]
    answers = [(text[begin:end], begin, end, score) for (begin, end), score in ordered]
    if threshold is not None:
        first = not ordered or none - ordered[0][1] > threshold
        above = sum(score >= none for *_, score in answers)
        answers.insert(0 if first else max(1, above), ("", 0, 0, none))
    scores = np.array([score for *_, score in answers])
    weights = np.exp(scores - scores.max(initial=-np.inf))
    return [Answer(*answer, float(weight / weights.sum())) for answer, weight in zip(answers, weights, strict=True)]
