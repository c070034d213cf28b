"""Convert questions and contexts to token ids, answers to token positions, and outputs to answers in the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from modernbert.tasks.answer.reading import QuestionExample
from modernbert.text.framing import Frame, Ids, encodings
from modernbert.text.offsets import TokenizedText, windows
from modernbert.text.words import widen_to_clusters


@dataclass(frozen=True, eq=False)
class QuestionWindow:
    """`[CLS] question [SEP] window of the context [SEP]`.

    `labels` (2,) are the positions of the first and the last token of the answer in `ids`; both are 0, which is [CLS],
    if the window does not hold the complete answer.
    """

    example: int
    begin: int  # index of its first token in the context
    end: int
    context_at: int  # position of that token in `ids`
    ids: Ids
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EncodedQuestions:
    """Questions as a model reads them. `lost` counts the answers of white space alone, which cannot be learned."""

    contexts: list[TokenizedText]
    windows: list[QuestionWindow]
    truncated: int  # questions
    lost: int


@dataclass(frozen=True)
class Answer:
    """An answer with its offsets in the context in characters; an empty text at 0 means no answer.

    `score` is the sum of two logits; the probabilities of all candidates for a question add up to 1.
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

    Of several accepted answers, the first one is learned. A question is truncated to half of the window.

    Raises:
        ConfigError: `max_length` is too short for a question and a context.
    """
    frame = Frame.of(tokenizer)
    contexts: list[TokenizedText] = []
    question_windows: list[QuestionWindow] = []
    truncated = lost = 0
    questions = encodings(tokenizer, [example.question for example in examples])
    encoded_contexts = encodings(tokenizer, [example.context for example in examples])
    for number, (example, question, encoding) in enumerate(zip(examples, questions, encoded_contexts, strict=True)):
        context = TokenizedText.of(example.context, encoding)
        contexts.append(context)
        kept = question.ids[: max(1, frame.content_length(max_length, 2) // 2)]
        truncated += len(kept) < len(question.ids)
        span = None
        if example.answers:
            answer = example.answers[0]
            span = context.covering(*widen_to_clusters(context.text, answer.begin, answer.begin + len(answer.text)))
            lost += span is None
        context_at = len(kept) + 2
        for begin, end in windows(len(context.ids), frame.content_length(max_length, 2) - len(kept), overlap):
            ids = frame.ids(kept, context.ids[begin:end])
            labels = np.zeros(2, dtype=np.int64)
            if span is not None and begin <= span[0] and span[1] < end:
                labels += np.array(span) - begin + context_at
            question_windows.append(QuestionWindow(number, begin, end, context_at, ids, labels))
    return EncodedQuestions(contexts, question_windows, truncated, lost)


def decode_answers(
    encoded: EncodedQuestions,
    logits: Sequence[npt.NDArray[np.floating]],
    *,
    n_best: int = 20,
    max_answer_tokens: int = 64,
    no_answer_threshold: float | None = None,
) -> list[list[Answer]]:
    """The answers to each question, best first, from all windows over its context.

    `logits` has for each window (tokens, 2), begin and end. The score of "no answer" is the lowest score of [CLS] in a
    window, as in the SQuAD 2.0 evaluation. The empty answer is first if its score exceeds that of the best answer by
    more than the threshold; without a threshold there is no empty answer. An answer has whole grapheme clusters.
    """
    candidates: list[dict[tuple[int, int], float]] = [{} for _ in encoded.contexts]
    no_answer_scores = [np.inf] * len(encoded.contexts)
    assert len(logits) == len(encoded.windows), "one array of logits for each window"
    for window, scores in zip(encoded.windows, logits, strict=True):
        no_answer_scores[window.example] = min(no_answer_scores[window.example], float(scores[0].sum()))
        inside = np.asarray(scores[window.context_at : window.context_at + window.end - window.begin], dtype=np.float64)
        offsets = encoded.contexts[window.example].offsets[window.begin : window.end]
        scores_of = candidates[window.example]
        for first, last, score in best_pairs(inside[:, 0], inside[:, 1], n_best, max_answer_tokens):
            span = int(offsets[first, 0]), int(offsets[last, 1])
            if span[0] < span[1]:
                span = widen_to_clusters(encoded.contexts[window.example].text, *span)
                scores_of[span] = max(score, scores_of.get(span, -np.inf))
    return [
        _ranked(context.text, scores_of, no_answer_score, n_best, no_answer_threshold)
        for context, scores_of, no_answer_score in zip(encoded.contexts, candidates, no_answer_scores, strict=True)
    ]


def best_pairs(
    begins: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], n_best: int, longest: int
) -> list[tuple[int, int, float]]:
    """The pairs of a first and a last token with the highest sums of scores, at most `longest` tokens long."""
    padded = np.concatenate([ends, np.full(longest - 1, -np.inf)])
    sums = begins[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    flat = sums.ravel()
    best = np.argpartition(-flat, min(n_best, len(flat)) - 1)[:n_best]
    best = best[np.lexsort((best, -flat[best]))]
    return [
        (int(index // longest), int(index // longest + index % longest), float(flat[index]))
        for index in best
        if np.isfinite(flat[index])
    ]


def _ranked(
    text: str, scores_of: dict[tuple[int, int], float], no_answer_score: float, n_best: int, threshold: float | None
) -> list[Answer]:
    ordered = sorted(scores_of.items(), key=lambda item: (-item[1], item[0]))[:n_best]
    answers = [(text[begin:end], begin, end, score) for (begin, end), score in ordered]
    if threshold is not None:
        first = not ordered or no_answer_score - ordered[0][1] > threshold
        above = sum(score >= no_answer_score for *_, score in answers)
        answers.insert(0 if first else max(1, above), ("", 0, 0, no_answer_score))
    scores = np.array([score for *_, score in answers])
    weights = np.exp(scores - scores.max(initial=-np.inf))
    return [Answer(*answer, float(weight / weights.sum())) for answer, weight in zip(answers, weights, strict=True)]
