"""Embedding and reranking beside sentence-transformers: the same folder, the same texts, taking turns; parity first."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from modernbert.bench.timing import alternate, check_rounds, machine, peak_memory, use_threads
from modernbert.errors import ConfigError, DataError
from modernbert.installation import install_command
from modernbert.tasks.embed import Embedder
from modernbert.tasks.rerank import Reranker

Engine = Literal["fp32", "bf16", "int8"]

_LARGEST_ERROR = 1e-4  # of fp32, relative to the largest number, between two programs that add up in another order
_LEAST_COSINE = 0.999  # of vectors in fewer bits, to those in fp32


@dataclass(frozen=True)
class Engines:
    """How fast one program was: medians over the rounds, and how near it was to sentence-transformers in fp32."""

    engine: str
    texts_per_second: float
    tokens_per_second: float
    speedup: float  # over sentence-transformers, median of the rounds' ratios
    error: float  # largest difference, relative to the largest number
    least_cosine: float | None  # over the texts, of vectors
    memory_bytes: int | None  # that a call adds to the process


@dataclass(frozen=True)
class RetrievalReport:
    """A measurement and where it was taken."""

    model: str
    texts: int
    tokens: int
    threads: int
    rounds: int
    machine: dict[str, str]
    engines: tuple[Engines, ...]


def bench_embed(
    model: str,
    texts: Sequence[str],
    engines: Sequence[Engine] = ("fp32", "int8"),
    threads: int | None = None,
    rounds: int = 3,
) -> RetrievalReport:
    """Vectors of texts, by sentence-transformers in fp32 and by this package.

    Raises:
        ConfigError: sentence-transformers is missing.
        DataError: this package computes something else.
    """
    used = _prepare(threads, rounds)
    theirs = _theirs("SentenceTransformer", model)
    ours = {name: _embedder(model, name) for name in engines}
    first = next(iter(ours.values()))
    listed = list(texts)
    tokens = sum(len(ids) for ids in first.texts.encode(listed).ids)
    runs: dict[str, Callable[[], Any]] = {"sentence-transformers": lambda: theirs.encode(listed)}
    runs |= {name: _call(one.encode, listed) for name, one in ours.items()}
    return _measure(model, len(listed), tokens, runs, used, rounds, vectors=True)


def bench_rerank(
    model: str,
    query: str,
    documents: Sequence[str],
    engines: Sequence[Engine] = ("fp32", "int8"),
    threads: int | None = None,
    rounds: int = 3,
) -> RetrievalReport:
    """Scores of pairs of a query and documents, by `CrossEncoder` in fp32 and by this package.

    Raises:
        ConfigError: sentence-transformers is missing.
        DataError: this package computes something else.
    """
    used = _prepare(threads, rounds)
    theirs = _theirs("CrossEncoder", model)
    ours = {
        name: Reranker.from_pretrained(model, device="cpu", dtype=_dtype(name), int8=name == "int8") for name in engines
    }
    pairs = [(query, document) for document in documents]
    tokens = sum(len(ids) for ids in next(iter(ours.values())).texts.encode_pairs(pairs).ids)
    runs: dict[str, Callable[[], Any]] = {"sentence-transformers": lambda: theirs.predict(pairs)}
    runs |= {name: _call(one.predict, pairs) for name, one in ours.items()}
    return _measure(model, len(pairs), tokens, runs, used, rounds, vectors=False)


def _prepare(threads: int | None, rounds: int) -> int:
    check_rounds(rounds)
    return use_threads(threads)


def _theirs(kind: str, model: str) -> Any:
    try:
        import sentence_transformers
    except ImportError:
        raise ConfigError(f"This benchmark needs sentence-transformers: {install_command('peers')}.") from None
    return getattr(sentence_transformers, kind)(model, device="cpu", model_kwargs={"dtype": torch.float32})


def _dtype(engine: Engine) -> torch.dtype:
    return torch.bfloat16 if engine == "bf16" else torch.float32


def _embedder(model: str, engine: Engine) -> Embedder:
    return Embedder.from_pretrained(model, device="cpu", dtype=_dtype(engine), int8=engine == "int8")


def _call(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


def _measure(
    model: str,
    texts: int,
    tokens: int,
    runs: Mapping[str, Callable[[], Any]],
    threads: int,
    rounds: int,
    *,
    vectors: bool,
) -> RetrievalReport:
    expected = np.asarray(next(iter(runs.values()))())
    nearness = {name: _nearness(np.asarray(run()), expected, name, vectors) for name, run in runs.items()}
    memory = {name: peak_memory(run) for name, run in runs.items()}
    seconds = alternate(runs, rounds, "retrieval")
    theirs = next(iter(seconds.values()))
    engines = [
        Engines(
            name,
            texts / statistics.median(each),
            tokens / statistics.median(each),
            statistics.median(other / own for other, own in zip(theirs, each, strict=True)),
            *nearness[name],
            memory[name],
        )
        for name, each in seconds.items()
    ]
    packages = ("torch", "transformers", "sentence-transformers")
    return RetrievalReport(str(Path(model).name), texts, tokens, threads, rounds, machine(packages), tuple(engines))


def _nearness(found: Any, expected: Any, name: str, vectors: bool) -> tuple[float, float | None]:
    """The largest relative difference, and the least cosine of vectors.

    Raises:
        DataError: either is too far off for that arithmetic.
    """
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not vectors:
        least = None
    else:
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        least = float(((found * expected).sum(1) / lengths).min())
    exact = name in ("fp32", "sentence-transformers")
    if (exact and error > _LARGEST_ERROR) or (least is not None and least < _LEAST_COSINE):
        raise DataError(
            f"{name} computes something else than sentence-transformers: error {error:.2g}, least cosine {least}."
        )
    return error, least
