"""Tiny folders of random models for tests of retrieval, and texts in several forms."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from corpora import make_tokenizer
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.text.tokenizer import Vocabulary, load_tokenizer

TEXTS = [
    "A parser reads the whole file.",
    "indent!",
    "The month of May has 31 days, and the calendar starts on Monday, not on Sunday. " * 3,
    "raise ValueError('no such group')",
    "Zürich and 東京 are far apart — how far?",
    "default values, again: default values",
]
QUERIES = ["how does the parser work", "days of a month?"]
PROMPTS = {"query": "search_query: ", "document": "search_document: "}


def base_folder(folder: Path, markers: tuple[str, ...] = (), head: type[MaskedLM] = MaskedLM, **changes: Any) -> Path:
    """The folder of a tiny masked language model with perturbed weights; `markers` are added to its tokens."""
    tokenizer_folder = make_tokenizer(folder / "tokenizer")
    if markers:
        tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        tokenizer.add_tokens(list(markers))
        tokenizer.save(str(tokenizer_folder / "tokenizer.json"))
    vocabulary = Vocabulary.of(load_tokenizer(tokenizer_folder))
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "local_attention": 16,
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
    model = head(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "model", tokenizer=tokenizer_folder)
    return folder / "model"
