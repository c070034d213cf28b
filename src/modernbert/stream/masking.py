"""Masking: the masked-language-model objective of BERT at ModernBERT's ratios."""

import numpy as np
import numpy.typing as npt

from modernbert.packed import IGNORED
from modernbert.text.tokenizer import Vocabulary

_MASKED, _RANDOM = 0.8, 0.1  # fractions of the predicted tokens (Devlin et al. 2018, arXiv 1810.04805, 3.1)

Ids = npt.NDArray[np.int64]


def mask_tokens(ids: Ids, vocabulary: Vocabulary, *, ratio: float, seed: int, step: int) -> tuple[Ids, Ids]:
    """Inputs and labels (-100 where nothing is predicted): a pure function of ids, seed and step.

    Every ordinary token is predicted with probability `ratio`. Of these, 80 % become [MASK], 10 % a random ordinary
    token, and 10 % are unchanged. Special tokens are neither predicted nor sampled. `seed` and `step` are below 2**64.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    predicted = (generator.random(len(ids)) < ratio) & ~vocabulary.special[ids]
    kind = generator.random(len(ids))
    random_ids = vocabulary.ordinary[generator.integers(len(vocabulary.ordinary), size=len(ids))]
    replaced = np.where(kind < _MASKED, vocabulary.mask_id, np.where(kind < _MASKED + _RANDOM, random_ids, ids))
    return np.where(predicted, replaced, ids), np.where(predicted, ids, IGNORED)


def framed_labels(labels: Ids) -> Ids:
    """The labels of a text between [CLS] and [SEP], which have none themselves."""
    return np.concatenate([[IGNORED], labels, [IGNORED]])
