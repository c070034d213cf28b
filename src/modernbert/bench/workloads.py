"""Workloads: batches of random documents of given lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import ConfigError

BATCH_TOKENS = 16_384  # size of a padded batch, if a workload has several batches
PUBLISHED_DOCUMENTS = 8192
_ROUND_TOKENS = 1024  # minimum of a round: a single call on 16 tokens is too short to time


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Documents that are padded on the right with zeros."""

    lengths: tuple[int, ...]
    ids: Tensor  # (documents, longest), int64
    only_batch: bool  # of its workload; then all calls have one shape

    @property
    def real(self) -> Tensor:
        """(documents, longest): true on real tokens."""
        return torch.arange(self.ids.shape[1])[None, :] < torch.tensor(self.lengths)[:, None]

    @property
    def mask(self) -> Tensor:
        return self.real.long()

    @property
    def full(self) -> bool:
        """Whether the batch has no padding."""
        return len(set(self.lengths)) == 1


@dataclass(frozen=True)
class Workload:
    """The lengths of documents; `of_documents` is the size of the published set from which they come, if any."""

    name: str
    lengths: tuple[int, ...]
    of_documents: int | None = None
    repeats: int | None = None  # passes in a round; by default enough for `_ROUND_TOKENS`

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def passes(self) -> int:
        """The number of passes over the documents in a round."""
        return self.repeats or max(1, _ROUND_TOKENS // self.tokens)

    def batches(self, vocab_size: int, seed: int = 42, at_once: int | None = None) -> tuple[PaddedBatch, ...]:
        """Random ids (uniform in 100..16000, as in the paper), in batches of at most `at_once` tokens with padding.

        `at_once` is `BATCH_TOKENS` by default.
        """
        generator = np.random.default_rng(seed)
        size = max(1, (at_once or BATCH_TOKENS) // max(self.lengths))
        groups = [self.lengths[begin : begin + size] for begin in range(0, len(self.lengths), size)]
        batches = []
        for lengths in groups:
            ids = generator.integers(100, min(16_000, vocab_size), (len(lengths), max(lengths)))
            batch = PaddedBatch(lengths, torch.from_numpy(ids), len(groups) == 1)
            batches.append(PaddedBatch(lengths, batch.ids * batch.real, batch.only_batch))
        return tuple(batches)


def ragged(count: int, mean: int, longest: int, seed: int = 42) -> tuple[int, ...]:
    """Random lengths (normal, sigma = mean / 2, at least 16) with this mean; the first one is `longest`."""
    rest = np.random.default_rng(seed).normal(mean, mean / 2, count - 1).clip(16, longest).astype(int)
    rest += (mean * count - longest - int(rest.sum())) // (count - 1)  # shifted to the exact mean
    return (longest, *rest.clip(16, longest).tolist())


def published(documents: int) -> tuple[Workload, ...]:
    """The first `documents` of the 8,192 documents of each of the paper's four sets (arXiv 2412.13663, section 4.2).

    Fixed: all have the maximum length. Variable: normal around half the maximum, sigma an eighth of it.

    Raises:
        ConfigError: the number is not between 1 and 8,192.
    """
    if not 1 <= documents <= PUBLISHED_DOCUMENTS:
        raise ConfigError(f"The published sets have {PUBLISHED_DOCUMENTS:,} documents; give a number up to that.")
    workloads = []
    for longest, mean in ((512, 256), (8192, 4102)):
        lengths = np.random.default_rng(42).normal(mean, longest / 8, PUBLISHED_DOCUMENTS).clip(1, longest).astype(int)
        workloads.append(Workload(f"{longest:,} fixed", (longest,) * documents, PUBLISHED_DOCUMENTS))
        workloads.append(Workload(f"{longest:,} variable", tuple(lengths[:documents].tolist()), PUBLISHED_DOCUMENTS))
    return tuple(workloads)


def choose(workloads: Sequence[Workload], names: Sequence[str]) -> tuple[Workload, ...]:
    """The workloads with these names, or all of them without names.

    Raises:
        ConfigError: a name is unknown.
    """
    known = {workload.name: workload for workload in workloads}
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no workload {name!r}; the workloads are: {'; '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) or tuple(workloads)
