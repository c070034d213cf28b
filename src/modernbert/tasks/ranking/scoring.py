"""Add the scores of a teacher to examples, and write scored or mined examples as training data."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write
from modernbert.tasks.embed import Embedder
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.tasks.ranking.mining import Mined, Mining
from modernbert.tasks.rerank import Reranker

Teacher = Callable[[Sequence[tuple[str, str]]], Sequence[float]]  # scores of pairs of a query and a document

_PAIRS_AT_ONCE = 4096
REPORT = "# Hard negatives"  # its first line
_SAMPLES = 5


def with_teacher_scores(examples: Sequence[RankingExample], teacher: Teacher) -> Iterable[RankingExample]:
    """The examples with the scores that a teacher gives to their documents, in batches.

    Any function of pairs may be a teacher, such as `Reranker.predict` or a client of a service.

    Raises:
        DataError: a score is not finite.
    """
    waiting: list[RankingExample] = []
    for example in examples:
        waiting.append(example)
        if sum(len(one.documents) for one in waiting) >= _PAIRS_AT_ONCE:
            yield from _score_batch(waiting, teacher)
            waiting = []
    if waiting:
        yield from _score_batch(waiting, teacher)


def _score_batch(examples: Sequence[RankingExample], teacher: Teacher) -> list[RankingExample]:
    pairs = [(example.query, document) for example in examples for document in example.documents]
    scores = np.asarray(teacher(pairs), dtype=np.float64)
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise DataError("The teacher must return one finite number for each pair.")
    ends = np.cumsum([len(example.documents) for example in examples])
    parts = np.split(scores, ends[:-1])
    return [replace(one, scores=tuple(part.tolist())) for one, part in zip(examples, parts, strict=True)]


def as_teacher(predictor: object) -> Teacher:
    """A reranker as a teacher, by its logits, or an embedder, by the similarity of its vectors.

    Raises:
        ConfigError: the predictor is of another kind.
    """
    if isinstance(predictor, Reranker):
        return lambda pairs: predictor.predict(pairs, raw_scores=True).tolist()
    if not isinstance(predictor, Embedder):
        raise ConfigError("A teacher is a reranker, or an embedder with one vector for a text.")
    embedder = predictor

    def similarities(pairs: Sequence[tuple[str, str]]) -> list[float]:
        queries, documents = (list(dict.fromkeys(each)) for each in zip(*pairs, strict=True))
        query_vectors = dict(zip(queries, embedder.encode_query(queries), strict=True))
        document_vectors = dict(zip(documents, embedder.encode_document(documents), strict=True))
        return [
            float(embedder.similarity(query_vectors[query], document_vectors[document])) for query, document in pairs
        ]

    return similarities


def write_examples(examples: Iterable[RankingExample], path: Path) -> int:
    """Write JSON lines with `query`, `documents` and `scores`, or, without scores, `positive` and `negative`.

    Returns the number of lines.
    """
    count = 0
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        for example in examples:
            values: dict[str, object] = {"query": example.query}
            if example.scores is None:
                values |= {"positive": example.documents[0], "negative": list(example.documents[1:])}
            else:
                values |= {"documents": list(example.documents), "scores": list(example.scores)}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
            count += 1
    return count


def mining_report(mined: Mined, settings: Mining, ranker: str, pairs: int) -> str:
    """A Markdown report of the mined negatives and the rejected candidates, with samples."""
    lines = [
        REPORT,
        "",
        f"{len(mined.examples):,} of {pairs:,} pairs have negatives of {ranker}, ranks {settings.first} to "
        f"{settings.last}; {mined.num_without_negatives:,} pairs have none.",
        "",
        "| left out | documents |",
        "|---|---:|",
        *(f"| {reason} | {count:,} |" for reason, count in mined.left_out.items()),
        "",
        "## Samples",
    ]
    step = max(1, len(mined.examples) // _SAMPLES)
    for example in mined.examples[::step][:_SAMPLES]:
        lines += ["", f"**{_short(example.query)}**", "", f"- positive: {_short(example.documents[0])}"]
        lines += [f"- negative: {_short(text)}" for text in example.documents[1:4]]
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
