"""Embedding and reranking compared with sentence-transformers, on the same folder and texts, after a parity check."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from modernbert.bench.remaining import log_remaining
from modernbert.bench.roofline import MATRIX_FLOPS, encoder_flops, matrix_products
from modernbert.bench.timing import alternate, check_rounds, machine, peak_memory, use_threads
from modernbert.errors import ConfigError, DataError
from modernbert.installation import install_command
from modernbert.tasks.embed import Embedder
from modernbert.tasks.rerank import Reranker

Model = TypeVar("Model", Embedder, Reranker)
EnginePrecision = Literal["fp32", "bf16", "int8"]

_MAX_ERROR = 1e-4  # in fp32, relative to the largest number, from different orders of summation
_MIN_COSINE = 0.999  # between a vector in bf16 or int8 and the one in fp32


@dataclass(frozen=True)
class EngineSpeed:
    """The speed of one engine (medians of the rounds), and its error against sentence-transformers in fp32."""

    engine: str
    texts_per_second: float
    tokens_per_second: float
    speedup: float  # over sentence-transformers, median of the rounds' ratios
    error: float  # largest difference, relative to the largest number
    least_cosine: float | None  # over all texts; None for scores
    memory_bytes: int | None  # added to the process by a call
    roofline_fraction: float | None  # time of the matrix products alone over the measured time; None for int8


@dataclass(frozen=True)
class RetrievalReport:
    """The speeds of all engines on one machine."""

    model: str
    texts: int
    tokens: int
    threads: int
    rounds: int
    machine: dict[str, str]
    engines: tuple[EngineSpeed, ...]


def bench_embed(
    model: str,
    texts: Sequence[str],
    engines: Sequence[EnginePrecision] = ("fp32", "int8"),
    threads: int | None = None,
    rounds: int = 3,
    max_length: int | None = None,
) -> RetrievalReport:
    """Embed texts with sentence-transformers in fp32 and with this package.

    Raises:
        ConfigError: sentence-transformers is missing.
        DataError: the outputs of the two differ.
    """
    used = _prepare(threads, rounds)
    theirs = _theirs("SentenceTransformer", model, max_length)
    ours = {name: _ours(Embedder, model, name, max_length) for name in engines}
    first = next(iter(ours.values()))
    listed = list(texts)
    lengths = [len(ids) for ids in first.texts.encode(listed).ids]
    flops = encoder_flops(first.model.config, lengths)
    runs: dict[str, Callable[[], Any]] = {"sentence-transformers": lambda: theirs.encode(listed)}
    runs |= {name: _call(one.encode, listed) for name, one in ours.items()}
    return _measure(model, sum(lengths), flops, len(listed), runs, used, rounds, vectors=True)


def bench_rerank(
    model: str,
    query: str,
    documents: Sequence[str],
    engines: Sequence[EnginePrecision] = ("fp32", "int8"),
    threads: int | None = None,
    rounds: int = 3,
    max_length: int | None = None,
) -> RetrievalReport:
    """Score pairs of a query and documents with `CrossEncoder` in fp32 and with this package.

    Raises:
        ConfigError: sentence-transformers is missing.
        DataError: the outputs of the two differ.
    """
    used = _prepare(threads, rounds)
    theirs = _theirs("CrossEncoder", model, max_length)
    ours = {name: _ours(Reranker, model, name, max_length) for name in engines}
    pairs = [(query, document) for document in documents]
    first = next(iter(ours.values()))
    lengths = [len(ids) for ids in first.texts.encode_pairs(pairs).ids]
    flops = encoder_flops(first.model.config, lengths)
    runs: dict[str, Callable[[], Any]] = {"sentence-transformers": lambda: theirs.predict(pairs)}
    runs |= {name: _call(one.predict, pairs) for name, one in ours.items()}
    return _measure(model, sum(lengths), flops, len(pairs), runs, used, rounds, vectors=False)


def _prepare(threads: int | None, rounds: int) -> int:
    check_rounds(rounds)
    return use_threads(threads)


def _theirs(kind: str, model: str, max_length: int | None) -> Any:
    try:
        import sentence_transformers
    except ImportError:
        raise ConfigError(f"This benchmark needs sentence-transformers: {install_command('peers')}.") from None
    loaded = getattr(sentence_transformers, kind)(model, device="cpu", model_kwargs={"dtype": torch.float32})
    if max_length is not None:
        loaded.max_seq_length = max_length
    return loaded


def _ours(kind: type[Model], model: str, engine: EnginePrecision, max_length: int | None) -> Model:
    dtype = torch.bfloat16 if engine == "bf16" else torch.float32
    return kind.from_pretrained(model, max_length=max_length, device="cpu", dtype=dtype, int8=engine == "int8")


def _call(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


def _measure(
    model: str,
    tokens: int,
    flops: float,
    texts: int,
    runs: Mapping[str, Callable[[], Any]],
    threads: int,
    rounds: int,
    *,
    vectors: bool,
) -> RetrievalReport:
    began = time.perf_counter()
    expected = np.asarray(next(iter(runs.values()))())
    log_remaining((rounds + 2) * len(runs) * (time.perf_counter() - began))  # at the speed of sentence-transformers
    errors = {name: _errors(np.asarray(run()), expected, name, vectors) for name, run in runs.items()}
    memory = {name: peak_memory(run) for name, run in runs.items()}
    dtypes = {"sentence-transformers": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    products = {
        f"products in {dtype}": matrix_products(dtype) for dtype in {dtypes[name] for name in runs if name in dtypes}
    }
    seconds = alternate({**runs, **products}, rounds, "retrieval")
    theirs = next(iter(seconds.values()))

    def roofline_fraction(name: str) -> float | None:
        if name not in dtypes:
            return None
        fastest = statistics.median(seconds[f"products in {dtypes[name]}"]) * flops / MATRIX_FLOPS
        return fastest / statistics.median(seconds[name])

    engines = [
        EngineSpeed(
            name,
            texts / statistics.median(each),
            tokens / statistics.median(each),
            statistics.median(other / own for other, own in zip(theirs, each, strict=True)),
            *errors[name],
            memory[name],
            roofline_fraction(name),
        )
        for name, each in seconds.items()
        if name in runs
    ]
    packages = ("torch", "transformers", "sentence-transformers")
    return RetrievalReport(str(Path(model).name), texts, tokens, threads, rounds, machine(packages), tuple(engines))


def _errors(found: Any, expected: Any, name: str, vectors: bool) -> tuple[float, float | None]:
    """The largest relative difference, and the least cosine between vectors.

    Raises:
        DataError: one of them is larger than the precision explains.
    """
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not vectors:
        least = None
    else:
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        least = float(((found * expected).sum(1) / lengths).min())
    exact = name in ("fp32", "sentence-transformers")
    if (exact and error > _MAX_ERROR) or (least is not None and least < _MIN_COSINE):
        raise DataError(
            f"The output of {name} differs from that of sentence-transformers: error {error:.2g}, least cosine "
            f"{least}; report this as a bug."
        )
    return error, least
