"""The query table of a sparse model: a weight for each token id, in a separate folder.

The folder has the format of `SparseStaticEmbedding` of sentence-transformers, with one weight for each entry of the
tokenizer; a model may embed more ids than its tokenizer has.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import CheckpointError
from modernbert.model.folder import TOKENIZER_FILES, check_numbers, read_json, read_tensors

_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def read_table(folder: Path, documents: Path, vocab_size: int) -> Float[Tensor, "vocab"]:
    """The weights in the folder of a table; 0 for missing ids. `documents` is the folder of the encoder.

    Raises:
        CheckpointError: it is not the folder of a table, or queries and documents have different tokenizers.
    """
    tensors = read_tensors(folder)
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    weight = tensors.get("weight")
    if weight is None or len(tensors) > 1 or weight.dim() != 1 or len(weight) > vocab_size:
        raise CheckpointError(f"{folder} should hold one weight for each of {vocab_size} tokens, but holds {shapes}.")
    check_numbers(tensors, torch.float32, folder)
    query_parts, document_parts = (_encoding_parts(place / _TOKENIZER) for place in (folder, documents))
    if query_parts is not None and document_parts is not None:
        known = query_parts.pop("added_tokens")  # a table may have additional tokens that occur in no text
        if any(token not in known for token in document_parts.pop("added_tokens")) or query_parts != document_parts:
            raise CheckpointError(
                f"{folder}: queries and documents have different tokenizers, which is not implemented."
            )
    table = torch.zeros(vocab_size)
    table[: len(weight)] = weight.float()
    return table


def write_table(table: Float[Tensor, "vocab"], source: Path, folder: Path, max_length: int) -> None:
    """Write the folder of a table, with the tokenizer in `source` if there is one. A query has `max_length` tokens.

    Raises:
        CheckpointError: the ids of the tokenizer have gaps, or it has more ids than the table.
    """
    folder.mkdir(exist_ok=True)
    save_file({"weight": table.detach().float().cpu().contiguous()}, folder / "model.safetensors", {"format": "pt"})
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (folder / _TOKENIZER).is_file():
        _add_unused_tokens(folder / _TOKENIZER, len(table))
    path = folder / _TOKENIZER_CONFIG
    if path.is_file():
        path.write_text(json.dumps(read_json(path) | {"model_max_length": max_length}, indent=2), encoding="utf-8")


def _add_unused_tokens(path: Path, size: int) -> None:
    """Add tokens that occur in no text until there are `size` tokens."""
    tokenizer = Tokenizer.from_file(str(path))
    first = tokenizer.get_vocab_size(with_added_tokens=True)
    if first == size:
        return
    tokenizer.add_special_tokens([f"<|no token {number}|>" for number in range(first, size)])
    if sorted(tokenizer.get_vocab(with_added_tokens=True).values()) != list(range(size)):
        raise CheckpointError(
            f"The ids of the tokenizer have gaps, or there are more than the {size} of the model; a query table needs "
            "one weight for each id."
        )
    tokenizer.save(str(path))


def _encoding_parts(path: Path) -> dict[str, Any] | None:
    """The parts of a tokenizer that determine the tokens of a text."""
    if not path.is_file():
        return None
    values = read_json(path)
    return {key: values.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
