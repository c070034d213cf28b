"""Small real data for tests: a tokenizer, a model, shards and recipes from the sources of Python."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modernbert.model import EncoderConfig, MaskedLM
from modernbert.text.documents import read_texts
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.text.tokenizer_training import train_tokenizer

PATHS = ["python:json", "python:textwrap", "python:calendar", "python:argparse"]


def make_tokenizer(folder: Path, vocab_size: int = 1024) -> Path:
    """A byte-level tokenizer trained on PATHS."""
    train_tokenizer(read_texts(PATHS), folder, vocab_size=vocab_size)
    return folder


def make_model(folder: Path, **changes: Any) -> Path:
    """The folder of a tiny masked language model with random weights, next to that of its tokenizer."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    vocabulary = Vocabulary.of(load_tokenizer(tokenizer))
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=vocabulary.size,
        pad_token_id=vocabulary.pad_id,
        cls_token_id=vocabulary.cls_id,
        sep_token_id=vocabulary.sep_id,
        mask_token_id=vocabulary.mask_id,
        **(sizes | changes),
    )
    MaskedLM(config).save_pretrained(folder / "model", tokenizer=tokenizer)
    return folder / "model"


def make_shards(folder: Path, tokenizer: Path, characters: int = 600) -> Path:
    """Shards of PATHS, split into short documents, in datatrove's format and without a manifest."""
    ids = load_tokenizer(tokenizer)
    documents = [
        ids.encode(text[first : first + characters], add_special_tokens=False).ids
        for text in read_texts(PATHS)
        for first in range(0, len(text), characters)
    ]
    write_shard(folder / "library.ds", documents)
    return folder


def write_shard(path: Path, documents: list[list[int]], dtype: str = "<u2") -> None:
    """One `.ds` file and its index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.concatenate([np.asarray(d, dtype=dtype) for d in documents]).tofile(path)
    np.cumsum([len(d) for d in documents], dtype="<u8").tofile(path.with_name(f"{path.name}.index"))


def tiny_recipe(tokenizer: Path, shards: Path, run: Path) -> dict[str, Any]:
    """Three phases in about twenty steps with a model of one global and one local layer, fp32."""
    return {
        "tokenizer": str(tokenizer),
        "data": {"library": str(shards)},
        "run": {
            "directory": str(run),
            "device": "cpu",
            "precision": "fp32",
            "microbatch_tokens": 512,
            "log_every_steps": 1,
            "checkpoint_every_steps": 4,
        },
        "model": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "local_attention": 32,
        },
        "validation": {"fraction": 0.05, "every_steps": 6, "tokens": 1024},
        "phases": {
            "pretrain": {
                "tokens": 8_000,
                "max_length": 128,
                "mixture": {"library": 1.0},
                "schedule": {"kind": "constant", "peak_lr": 3e-3, "warmup_tokens": 2_000},
                "batch_tokens": {"tokens": 1024, "start": 512, "warmup_tokens": 4_000},
            },
            "context": {"tokens": 3_000, "max_length": 256, "global_rope_theta": 160_000.0},
            "decay": {"tokens": 4_000, "schedule": {"kind": "one_minus_sqrt"}},
        },
    }


def interrupt_second_task(monkeypatch) -> None:
    """End the build of a corpus with a KeyboardInterrupt in its second task."""
    from modernbert.corpus import steps

    original = steps.TokenShardWriter.run

    def run(self, data, rank=0, world_size=1):
        if rank == 1:
            raise KeyboardInterrupt
        yield from original(self, data, rank, world_size)

    monkeypatch.setattr(steps.TokenShardWriter, "run", run)
