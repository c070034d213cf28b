"""From text to packed batches: tokenizer, corpus, shards, packing, masking, loader."""

from modernbert.data.loader import Batch, Loader, validation_batches
from modernbert.data.shards import Documents, Shards
from modernbert.data.tokenizer import Vocabulary, load_tokenizer

__all__ = ["Batch", "Documents", "Loader", "Shards", "Vocabulary", "load_tokenizer", "validation_batches"]
