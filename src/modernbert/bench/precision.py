"""The effect of lower precision on a trained model and real text: masked-LM loss, and similarity of embeddings."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modernbert.errors import DataError
from modernbert.model import MaskedLM
from modernbert.model.optimized import optimize_for_inference
from modernbert.packed import Sequences
from modernbert.stream.loader import Batch
from modernbert.stream.masking import mask_tokens
from modernbert.text.framing import FRAME_TOKENS, encode_texts
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train.validation import evaluate

_MASK_RATIO = 0.15
_BATCH_TEXTS = 16


@dataclass(frozen=True)
class Form:
    """A model in one precision. Cosines are between its mean-pooled embeddings of the texts and those in fp32."""

    name: str
    loss: float  # nats per masked token
    accuracy: float
    mean_cosine: float
    lowest_cosine: float


@dataclass(frozen=True)
class Precisions:
    """One model in all precisions, on the same texts and masks."""

    model: str
    texts: int
    tokens: int
    masked: int
    forms: tuple[Form, ...]


def bench_precision(folder: str | Path, texts: Iterable[str], *, limit: int = 256, length: int = 512) -> Precisions:
    """Measure a model in fp32, and optimized for inference in fp32, bf16 and int8, on the first `limit` texts.

    Raises:
        DataError: there is no text.
        BackendError: the native kernels do not run on this machine, or do not support this model.
    """
    model = MaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.tokenizer_source is not None
    tokenizer = load_tokenizer(model.tokenizer_source)
    vocabulary = Vocabulary.of(tokenizer)
    max_length = min(length, model.config.max_position_embeddings)
    framed = encode_texts(tokenizer, list(islice(texts, limit)), max_length=max_length)
    encoded = [ids.tolist() for ids in framed.ids if len(ids) > FRAME_TOKENS]
    if not encoded:
        raise DataError("The files have no text; give files with texts.")
    batches = [_masked(encoded[i : i + _BATCH_TEXTS], vocabulary, i) for i in range(0, len(encoded), _BATCH_TEXTS)]
    expected = _embeddings(model, encoded)
    forms, masked = [], 0
    for name, dtype, int8 in (
        ("fp32, plain modules", torch.float32, None),
        ("fp32", torch.float32, False),
        ("bf16", torch.bfloat16, False),
        ("int8 beside fp32", torch.float32, True),
        ("int8 beside bf16", torch.bfloat16, True),
    ):
        form = copy.deepcopy(model).to(dtype)
        if int8 is not None:
            optimize_for_inference(form, int8=int8)
        found = evaluate(form, batches, vocabulary, "fp32")
        masked = int(found["predictions"])
        cosines = F.cosine_similarity(_embeddings(form, encoded), expected)
        forms.append(Form(name, found["loss"], found["accuracy"], float(cosines.mean()), float(cosines.min())))
    return Precisions(str(folder), len(encoded), sum(map(len, encoded)), masked, tuple(forms))


def _masked(encoded: list[list[int]], vocabulary: Vocabulary, seed: int) -> Batch:
    ids = np.concatenate([np.array(one, dtype=np.int64) for one in encoded])
    inputs, labels = mask_tokens(ids, vocabulary, ratio=_MASK_RATIO, seed=seed, step=0)
    sequences = Sequences.from_lengths(map(len, encoded))
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), sequences, len(encoded))


@torch.inference_mode()
def _embeddings(model: MaskedLM, encoded: list[list[int]]) -> Tensor:
    found = []
    for begin in range(0, len(encoded), _BATCH_TEXTS):
        part = encoded[begin : begin + _BATCH_TEXTS]
        hidden = model.model(torch.tensor([i for ids in part for i in ids]), Sequences.from_lengths(map(len, part)))
        found += [rows.float().mean(0) for rows in hidden.split([len(ids) for ids in part])]
    return torch.stack(found)
