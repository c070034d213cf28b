"""Initialization and regularization of sparse vectors."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.model.retrieval import SparseEncoder
from modernbert.model.sparse_pooling import highest_logits
from modernbert.packed import Sequences
from modernbert.stream.batching import shuffled
from modernbert.text.framing import Ids

logger = logging.getLogger(__name__)

_SAMPLE = 128  # number of documents that set the bias


@torch.no_grad()
def initialize_sparse(model: SparseEncoder, documents: Sequence[Ids], active_entries: int | None) -> None:
    """Initialize a model that was not a retriever, from the token ids of training documents.

    A query table, if the model has one, is set to the inverse document frequencies. If documents of a sample have more
    than `active_entries` weights above 0 (their median), the bias of the decoder is lowered: for each entry by its mean
    logit in the sample, so that an entry which all documents have does not weigh more than a rare one, and for all
    entries by the number that leaves `active_entries`. The logits of a masked language model may all be above 0,
    because softmax does not depend on their offset.
    """
    if model.query_table is not None:
        model.query_table.copy_(inverse_document_frequencies(documents, model.config.vocab_size))
    bias = model.decoder.bias
    if active_entries is None or active_entries >= model.config.vocab_size or not documents:
        return
    if bias is None:
        logger.info("The decoder has no bias, so settings.active_entries has no effect.")
        return
    sample = [documents[index] for index in shuffled(len(documents), 0, 0)[:_SAMPLE].tolist()]
    logits = _highest_logits(model, sample)
    before = int((logits > 0).sum(1).median())
    if before <= active_entries:
        return
    mean = logits.mean(0)
    excess = (logits - mean).topk(active_entries + 1).values[:, -1].median()
    bias.sub_(mean + excess)
    logger.info(
        "The decoder's bias was lowered: a document had %s weights above 0 and has %s now.",
        f"{before:,}",
        f"{active_entries:,}",
    )


def _highest_logits(model: SparseEncoder, documents: Sequence[Ids]) -> Float[Tensor, "documents vocabulary"]:
    """The highest logit of each entry in each document, without dropout."""
    training = model.training
    model.eval()
    device = model.decoder.weight.device
    found = []
    for ids in documents:
        tokens, sequences = torch.from_numpy(ids).to(device), Sequences.from_lengths([len(ids)]).to(device)
        hidden = model.head(model.model(tokens, sequences))
        found.append(highest_logits(hidden, model.decoder.weight, model.decoder.bias, sequences).float())
    model.train(training)
    return torch.cat(found)


def flops(vectors: Float[Tensor, "rows vocabulary"], threshold: int | None = None) -> Float[Tensor, ""]:
    """The sum over the vocabulary of the squared mean weight (Paria et al. 2020, arXiv 2004.05665).

    This approximates the number of multiplications for the score of two random vectors. Vectors with at most
    `threshold` weights above 0 count as zeros.
    """
    if threshold is not None:
        vectors = vectors * ((vectors != 0).sum(1, keepdim=True) > threshold)
    return vectors.float().mean(0).square().sum()


def inverse_document_frequencies(documents: Iterable[Ids], size: int) -> Float[Tensor, "vocabulary"]:
    """For each of `size` ids ln(1 + (n - df + 0.5) / (df + 0.5)), where df of n documents have the id, as in BM25.

    It is above 0 even for an id in all documents, and largest for an id in no document.
    """
    counts, total = np.zeros(size, dtype=np.int64), 0
    for ids in documents:
        counts[np.unique(ids)] += 1
        total += 1
    return torch.from_numpy(np.log1p((total - counts + 0.5) / (counts + 0.5)).astype(np.float32))


def warmed_up(weight: float, progress: float, warmup: float) -> float:
    """The weight of the regularizer at `progress` (0 to 1), which grows quadratically until `warmup`.

    The full weight from the beginning would make every vector empty before it has learned anything (Formal et al. 2021,
    arXiv 2109.10086, section 3).
    """
    return weight if progress >= warmup else weight * (progress / warmup) ** 2
