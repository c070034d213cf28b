"""A cached contrastive training step compared with that of sentence-transformers, with equal texts and weights.

Both compute the cosine InfoNCE loss of pairs with one hard negative over the batch. They embed the batch in
mini-batches, and again for the gradients (GradCache). They are timed only if the gradients agree. The time does not
include tokenization and the optimizer. sentence-transformers computes in fp32, this package in fp32 and in bf16.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.bench.remaining import log_remaining
from modernbert.bench.timing import (
    Speed,
    alternate,
    check_rounds,
    machine,
    peak_memory,
    relative_error,
    speed,
    use_threads,
)
from modernbert.errors import ConfigError, DataError
from modernbert.model.retrieval import DenseEncoder
from modernbert.runtime import Precision, autocast
from modernbert.tasks.ranking.encoding import encode_ranking
from modernbert.tasks.ranking.examples import RankingColumns, RankingExample, read_ranking
from modernbert.tasks.ranking.objective import RankingObjective
from modernbert.tasks.ranking.settings import RankingLoss
from modernbert.text.records import Source
from modernbert.text.tokenizer import load_tokenizer

TEMPERATURE = 0.05
_MAX_ERRORS: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.1}  # relative, of all gradients together


@dataclass(frozen=True)
class Step:
    """One engine: pairs per second, and the memory that a step adds."""

    engine: str
    pairs_per_second: Speed
    ratio: float  # against sentence-transformers, of the medians
    peak_bytes: int | None
    loss: float
    gradient_error: float | None  # against sentence-transformers


@dataclass(frozen=True)
class ContrastiveReport:
    """The report of `modernbert bench contrastive`."""

    model: str
    pairs: int
    tokens: int
    threads: int
    mini_batch: int
    tokens_at_once: int
    machine: dict[str, str]
    steps: list[Step]


def bench_contrastive(
    model: str,
    source: str,
    *,
    pairs: int = 128,
    max_length: int = 128,
    mini_batch: int = 16,
    tokens_at_once: int = 4096,
    rounds: int = 3,
    threads: int | None = None,
) -> ContrastiveReport:
    """Time a training step on `pairs` queries with a positive and a negative document each, from a file of triples.

    sentence-transformers embeds `mini_batch` sequences at once, this package `tokens_at_once` tokens.

    Raises:
        ConfigError: sentence-transformers is missing, or the gradients of the two differ.
        DataError: there are too few triples.
    """
    check_rounds(rounds)
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    except ImportError:
        raise ConfigError("This needs sentence-transformers: pip install 'modernbert[peers]'.") from None
    triples = distinct(read_ranking(Source(path=source), RankingColumns()), pairs)
    number = use_threads(threads)
    ours = DenseEncoder.from_pretrained(model, dtype=torch.float32).train()
    assert ours.tokenizer_source is not None
    tokenizer = load_tokenizer(ours.tokenizer_source)
    items = encode_ranking(triples, tokenizer, ours.settings, max_length)
    objectives = {
        precision: RankingObjective(
            ours,
            RankingLoss(temperature=TEMPERATURE).of("embed", False),
            tokens_at_once=tokens_at_once,
            precision=partial(autocast, torch.device("cpu"), precision),
        )
        for precision in _MAX_ERRORS
    }
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(Path(folder) / "model")
        theirs = SentenceTransformer(str(Path(folder) / "model"), device="cpu").train()
    theirs.max_seq_length = max_length
    columns = [[example.query for example in triples]]
    columns += [[example.documents[place] for example in triples] for place in (0, 1)]
    features = [theirs.preprocess(column) for column in columns]
    loss = CachedMultipleNegativesRankingLoss(theirs, scale=1 / TEMPERATURE, mini_batch_size=mini_batch)

    def our_step(precision: Precision) -> float:
        ours.zero_grad()
        return objectives[precision].backward(items, seed=1, progress=0.0)

    def their_step() -> float:
        theirs.zero_grad()
        value: Tensor = loss([dict(one) for one in features], None)
        value.backward()
        return float(value.detach())

    began = time.perf_counter()
    losses = {"sentence-transformers": their_step()}
    runs: dict[str, Callable[[], float]] = {"sentence-transformers": their_step}
    errors: dict[str, float] = {}
    for precision, limit in _MAX_ERRORS.items():
        name = f"modernbert, {precision}"
        runs[name] = partial(our_step, precision)
        losses[name] = runs[name]()
        errors[name] = _error(ours, theirs)
        if not errors[name] <= limit:
            raise ConfigError(
                f"The relative error of the gradients in {precision} is {errors[name]:.1e}, above the limit of "
                f"{limit:.0e}, so nothing was timed; check that sentence-transformers reads the texts in the same way "
                "(prompts, maximum length)."
            )
    log_remaining((rounds + 1) * (time.perf_counter() - began))  # the rounds, and one more for the memory
    seconds = alternate(runs, rounds, "contrastive step")
    speeds = {name: speed(len(triples), found) for name, found in seconds.items()}
    base = speeds["sentence-transformers"].median
    steps = [
        Step(name, speeds[name], speeds[name].median / base, peak_memory(run), losses[name],
             errors.get(name))
        for name, run in runs.items()
    ]  # fmt: skip
    tokens = sum(item.num_tokens for item in items)
    return ContrastiveReport(
        model, len(triples), tokens, number, mini_batch, tokens_at_once,
        machine(("sentence-transformers", "transformers")), steps,
    )  # fmt: skip


def distinct(examples: Sequence[RankingExample], count: int) -> list[RankingExample]:
    """The first `count` triples without a common text, so that the loss has no false negatives to exclude.

    Raises:
        DataError: there are fewer than `count`.
    """
    found: list[RankingExample] = []
    seen: set[str] = set()
    for example in examples:
        texts = {example.query, *example.documents[:2]}
        if len(example.documents) >= 2 and len(texts) == 3 and seen.isdisjoint(texts):
            seen |= texts
            found.append(RankingExample(example.query, example.documents[:2], None, example.origin))
        if len(found) == count:
            return found
    raise DataError(f"There are {len(found)} triples without a common text, but {count} are needed; give more triples.")


def _error(ours: DenseEncoder, theirs: Any) -> float:
    """The relative error of all gradients as one vector."""
    of_theirs = {name.removeprefix("0.model."): one.grad for name, one in theirs.named_parameters()}
    pairs = [
        (one.grad.flatten(), of_theirs[name.removeprefix("model.")].flatten())
        for name, one in ours.named_parameters()
        if one.grad is not None
    ]
    return relative_error(torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs]))
