"""Which tokens are predicted: the masked-language-model objective of BERT at ModernBERT's ratios."""

import numpy as np
import numpy.typing as npt

from modernbert.packed import IGNORED
from modernbert.text.tokenizer import Vocabulary

_MASKED, _RANDOM = 0.8, 0.1  # of the predicted tokens; the rest is kept (Devlin et al. 2018, arXiv 1810.04805, 3.1)

Ids = npt.NDArray[np.int64]


def mask_tokens(ids: Ids, vocabulary: Vocabulary, *, ratio: float, seed: int, step: int) -> tuple[Ids, Ids]:
    """Inputs and labels (-100 where nothing is predicted): a pure function of ids, seed and step.

    Every ordinary token is predicted with probability `ratio`; of those 80 % become [MASK], 10 % a random ordinary
    token, 10 % stay. Special tokens are never predicted and never drawn. `seed` and `step` are below 2**64.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    chosen = (generator.random(len(ids)) < ratio) & ~vocabulary.special[ids]
    fate = generator.random(len(ids))
    words = vocabulary.ordinary[generator.integers(len(vocabulary.ordinary), size=len(ids))]
    replaced = np.where(fate < _MASKED, vocabulary.mask_id, np.where(fate < _MASKED + _RANDOM, words, ids))
    return np.where(chosen, replaced, ids), np.where(chosen, ids, IGNORED)


def framed_labels(labels: Ids) -> Ids:
    """The labels of a text between [CLS] and [SEP], which have none themselves."""
    return np.concatenate([[IGNORED], labels, [IGNORED]])
