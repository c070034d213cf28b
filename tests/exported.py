"""Tiny folders of every kind of model, and texts to run them on."""

from pathlib import Path

import numpy as np
import torch

from modernbert.model import MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier
from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.model.retrieval_settings import DenseSettings
from retrieval import PROMPTS, base_folder

LABELS = {"id2label": {0: "no", 1: "yes", 2: "perhaps"}}


def folder_of(kind: str, place: Path, **changes: object) -> Path:
    """The folder of a tiny random model of this kind, with a byte-level BPE tokenizer."""
    torch.manual_seed(1)
    base = base_folder(place / "base", **changes)  # type: ignore[arg-type]
    target = place / kind
    if kind in ("fill-mask", "encoder"):
        return base
    if kind == "embedder":
        DenseEncoder.from_pretrained(base, settings=DenseSettings(normalize=True, prompts=PROMPTS)).save_pretrained(
            target
        )
        return target
    classes = {
        "classifier": SequenceClassifier, "tokens": TokenClassifier, "answers": QuestionAnswering,
        "choices": MultipleChoice, "reranker": CrossEncoder, "multi-vector": MultiVectorEncoder,
        "sparse": SparseEncoder,
    }  # fmt: skip
    changed = LABELS if kind in ("classifier", "tokens") else None
    classes[kind].from_pretrained(base, changes=changed).save_pretrained(target)
    return target


def batch_of(lengths: list[int], vocab_size: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids as a padded batch, and its mask."""
    ids = torch.randint(vocab_size, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    place = torch.arange(max(lengths))
    rows = torch.tensor(lengths)[:, None]
    mask = place >= max(lengths) - rows if left else place < rows
    return ids, mask.long()


def worst_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The lowest cosine between rows with the same index."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())
