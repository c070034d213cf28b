"""What is measured: batches of documents of certain lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import ConfigError

BATCH_TOKENS = 16_384  # of a padded batch, where a work has more than one
PUBLISHED_DOCUMENTS = 8192
_ROUND_TOKENS = 1024  # of a round, at least: a single call on 16 tokens is over before the machine is awake


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Documents as the padded contestants take them, right padded; zeros on padding."""

    lengths: tuple[int, ...]
    ids: Tensor  # (documents, longest), int64
    alone: bool  # nothing of another shape follows in this work

    @property
    def real(self) -> Tensor:
        """(documents, longest): true on real tokens."""
        return torch.arange(self.ids.shape[1])[None, :] < torch.tensor(self.lengths)[:, None]

    @property
    def mask(self) -> Tensor:
        return self.real.long()

    @property
    def full(self) -> bool:
        """Whether nothing is padding."""
        return len(set(self.lengths)) == 1


@dataclass(frozen=True)
class Work:
    """Documents of some lengths, and how many the same set has where it was published, if it was."""

    name: str
    lengths: tuple[int, ...]
    of_documents: int | None = None
    repeats: int | None = None  # passes of a round; enough of them for `_ROUND_TOKENS` unless set

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def passes(self) -> int:
        """How often a round goes over the documents."""
        return self.repeats or max(1, _ROUND_TOKENS // self.tokens)

    def batches(self, vocab_size: int, seed: int = 42, at_once: int | None = None) -> tuple[PaddedBatch, ...]:
        """Random ids (as published: uniform in 100..16000), in batches of at most `at_once` tokens with their padding.

        That is `BATCH_TOKENS` unless it is given.
        """
        generator = np.random.default_rng(seed)
        size = max(1, (at_once or BATCH_TOKENS) // max(self.lengths))
        groups = [self.lengths[begin : begin + size] for begin in range(0, len(self.lengths), size)]
        found = []
        for lengths in groups:
            drawn = generator.integers(100, min(16_000, vocab_size), (len(lengths), max(lengths)))
            batch = PaddedBatch(lengths, torch.from_numpy(drawn), len(groups) == 1)
            found.append(PaddedBatch(lengths, batch.ids * batch.real, batch.alone))
        return tuple(found)


def ragged(count: int, mean: int, longest: int, seed: int = 42) -> tuple[int, ...]:
    """Lengths around a mean (normal, sigma = mean / 2, at least 16), of which one is `longest`."""
    drawn = np.random.default_rng(seed).normal(mean, mean / 2, count - 1).clip(16, longest).astype(int)
    rest = drawn + (mean * count - longest - int(drawn.sum())) // (count - 1)  # so that the mean is what is said
    return (longest, *rest.clip(16, longest).tolist())


def published(documents: int) -> tuple[Work, ...]:
    """The four sets of the paper (arXiv 2412.13663, section 4.2), the first `documents` of their 8,192 documents each.

    Fixed: all as long as can be. Variable: normal around half of that, sigma an eighth of it.

    Raises:
        ConfigError: there are not so many.
    """
    if not 1 <= documents <= PUBLISHED_DOCUMENTS:
        raise ConfigError(f"The published sets have {PUBLISHED_DOCUMENTS:,} documents; take between 1 and all of them.")
    works = []
    for longest, mean in ((512, 256), (8192, 4102)):
        drawn = np.random.default_rng(42).normal(mean, longest / 8, PUBLISHED_DOCUMENTS).clip(1, longest).astype(int)
        works.append(Work(f"{longest:,} fixed", (longest,) * documents, PUBLISHED_DOCUMENTS))
        works.append(Work(f"{longest:,} variable", tuple(drawn[:documents].tolist()), PUBLISHED_DOCUMENTS))
    return tuple(works)


def choose(works: Sequence[Work], names: Sequence[str]) -> tuple[Work, ...]:
    """Those of these names, or all without a name.

    Raises:
        ConfigError: there is no work of such a name.
    """
    known = {work.name: work for work in works}
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no work {name!r}; the works are: {'; '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) or tuple(works)
