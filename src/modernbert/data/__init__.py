"""From text to packed batches: tokenizer, corpus, shards, packing, masking, loader.

The names below load on first use, as only the loader needs torch: writing and inspecting shards goes without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modernbert.data.loader import Batch, Loader, Row, validation_batches
    from modernbert.data.shards import Documents, Shards
    from modernbert.data.tokenizer import Vocabulary, load_tokenizer

_HOMES = {
    "Batch": "loader",
    "Documents": "shards",
    "Loader": "loader",
    "Row": "loader",
    "Shards": "shards",
    "Vocabulary": "tokenizer",
    "load_tokenizer": "tokenizer",
    "validation_batches": "loader",
}

__all__ = ["Batch", "Documents", "Loader", "Row", "Shards", "Vocabulary", "load_tokenizer", "validation_batches"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
