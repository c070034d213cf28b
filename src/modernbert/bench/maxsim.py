"""Late-interaction scores of one query compared with sentence-transformers and with what no method can do without."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from modernbert.bench.timing import alternate, check_rounds, machine, relative_error, use_threads
from modernbert.errors import ConfigError, DataError
from modernbert.installation import install_command
from modernbert.tasks.ranking.maxsim import maxsim_scores

OURS, PEER = "modernbert", "sentence-transformers"
PRODUCTS, COPY = "products alone", "one copy of the vectors"
_DIMENSIONS, _QUERY_TOKENS = 128, 32  # of ColBERT (arXiv 2004.12832)
_SHORTEST, _LONGEST = 20, 280  # tokens of a document
_MAX_ERROR = 1e-5  # relative


@dataclass(frozen=True)
class MaxSimReport:
    """Milliseconds of one query (medians of the rounds) for each way, and the description of the workload."""

    document_tokens: int
    documents: int
    query_tokens: int
    dimensions: int
    threads: int
    rounds: int
    machine: dict[str, str]
    milliseconds: dict[str, float]


def bench_maxsim(document_tokens: int = 100_000, threads: int | None = None, rounds: int = 15) -> MaxSimReport:
    """Score random documents of 20 to 280 vectors in fp32 for one query of 32 vectors.

    Two bounds are measured too: the matrix product of all vectors without the maxima, and a copy of the vectors.

    Raises:
        ConfigError: sentence-transformers is missing.
        DataError: the scores of the two differ.
    """
    check_rounds(rounds)
    used = use_threads(threads)
    try:
        from sentence_transformers.util.similarity import maxsim
    except ImportError:
        raise ConfigError(f"This benchmark needs sentence-transformers 6: {install_command('peers')}.") from None
    generator = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < document_tokens:
        lengths.append(int(torch.randint(_SHORTEST, _LONGEST, (), generator=generator)))
    vectors = torch.nn.functional.normalize(torch.randn(sum(lengths), _DIMENSIONS, generator=generator), dim=1)
    query = torch.nn.functional.normalize(torch.randn(_QUERY_TOKENS, _DIMENSIONS, generator=generator), dim=1)
    documents = list(vectors.split(lengths))
    array, columns = vectors.numpy(), query.t().contiguous()
    products, copy = torch.empty(len(vectors), _QUERY_TOKENS), torch.empty_like(vectors)
    runs: dict[str, Callable[[], Any]] = {
        PEER: lambda: maxsim([query], documents),
        OURS: lambda: maxsim_scores([query], array, lengths),
        PRODUCTS: lambda: torch.mm(vectors, columns, out=products),
        COPY: lambda: copy.copy_(vectors),
    }
    error = relative_error(runs[OURS](), runs[PEER]())
    if error > _MAX_ERROR:
        raise DataError(f"The scores differ from those of sentence-transformers by {error:.2g}; report this as a bug.")
    seconds = alternate(runs, rounds, "MaxSim")
    milliseconds = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    versions = machine(("torch", "sentence-transformers"))
    return MaxSimReport(sum(lengths), len(lengths), _QUERY_TOKENS, _DIMENSIONS, used, rounds, versions, milliseconds)
