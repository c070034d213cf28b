"""Folders for sentence-transformers or PyLate."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from modernbert.config import parse
from modernbert.errors import ConfigError, DataError
from modernbert.export.source import kind_of
from modernbert.model.encoder import Encoder
from modernbert.model.folder import TOKENIZER_FILES, find_folder
from modernbert.model.retrieval import (
    COLBERT_DIMENSIONS,
    CrossEncoder,
    DenseEncoder,
    MultiVectorEncoder,
    RetrievalModel,
    SparseEncoder,
)
from modernbert.model.retrieval_folder import read_multi_vector
from modernbert.model.retrieval_saving import pylate_reason
from modernbert.model.retrieval_settings import Expansion, MultiVectorSettings

logger = logging.getLogger(__name__)

_KINDS: dict[str, type[Any]] = {
    "embedder": DenseEncoder,
    "reranker": CrossEncoder,
    "multi-vector": MultiVectorEncoder,
    "sparse": SparseEncoder,
}
_DEFAULT_KINDS = {"encoder": "embedder", "fill-mask": "embedder", "classifier": "reranker"}
_MARKERS = {"query": "[Q] ", "document": "[D] "}
_SKIPPED = tuple("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")  # tokens of documents that PyLate does not score


def export_sentence_transformers(folder: str | Path, output: str | Path, *, kind: str | None = None) -> dict[str, Any]:
    """Write a folder for sentence-transformers, from a plain model or one for retrieval.

    An encoder or a masked language model becomes an embedder with mean pooling, or another `kind` (`embedder`,
    `reranker`, `multi-vector`, `sparse`); a classifier becomes a `CrossEncoder`.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: the kind is unknown, or sentence-transformers does not support it.
        DataError: `output` holds other files than a model.
    """
    source_folder = find_folder(folder)
    chosen = kind or _DEFAULT_KINDS.get(kind_of(source_folder), kind_of(source_folder))
    if chosen not in _KINDS:
        raise ConfigError(
            f"sentence-transformers does not support models of the kind {chosen}; choose with --kind one of: "
            f"{', '.join(_KINDS)}."
        )
    _check_output(source_folder, Path(output))
    model: RetrievalModel[Any] = _KINDS[chosen].from_pretrained(source_folder)
    model.save_pretrained(output)
    return {"target": "sentence-transformers", "kind": chosen, "output": str(output)}


def export_pylate(folder: str | Path, output: str | Path) -> dict[str, Any]:
    """Write a folder that PyLate loads as `models.ColBERT`, and sentence-transformers as `MultiVectorEncoder`.

    A model for late interaction keeps its settings. Any other model gets the defaults of PyLate: the tokens `[Q] ` and
    `[D] `, queries expanded to 32 tokens, and an untrained projection to 128 dimensions.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: PyLate does not support a setting of the model; the message names the reason.
        DataError: `output` holds other files than a model, or the model has no tokenizer.
    """
    source_folder = find_folder(folder)
    _check_output(source_folder, Path(output))
    if not (source_folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} has no tokenizer.json, which PyLate needs; copy it into the folder.")
    if kind_of(source_folder) == "multi-vector":
        settings = read_multi_vector(source_folder)
        if reason := pylate_reason(source_folder, settings):
            raise ConfigError(
                f"{folder} cannot be written for PyLate ({reason}); export sentence-transformers instead."
            )
        MultiVectorEncoder.from_pretrained(source_folder).save_pretrained(output)
        return {"target": "pylate", "trained_projection": True, "output": str(output)}
    with TemporaryDirectory() as scratch:
        encoder = Encoder.from_pretrained(source_folder)
        encoder = _with_markers(encoder, source_folder, Path(scratch))
        encoder.save_pretrained(scratch, tokenizer=scratch)
        settings = MultiVectorSettings(
            prompts=_MARKERS, query_length=32, document_length=min(180, encoder.config.max_position_embeddings),
            expansion=Expansion(length=32), skip_words=_SKIPPED,
        )  # fmt: skip
        MultiVectorEncoder.from_pretrained(scratch, settings=settings).save_pretrained(output)
    logger.info("%s has no projection for late interaction: an untrained one of %d dimensions is written.",
                folder, COLBERT_DIMENSIONS)  # fmt: skip
    return {"target": "pylate", "trained_projection": False, "output": str(output)}


def _check_output(source_folder: Path, output: Path) -> None:
    if output.resolve() == source_folder.resolve():
        raise DataError(f"{output} is the model itself; choose another folder with --output.")


def _with_markers(encoder: Encoder, folder: Path, scratch: Path) -> Encoder:
    """Write a tokenizer with the markers into `scratch`, and return an encoder with embeddings for all its tokens.

    New embeddings are the mean of the others.
    """
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            (scratch / name).write_bytes((folder / name).read_bytes())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(list(_MARKERS.values()))
    tokenizer.save(str(scratch / "tokenizer.json"))
    needed = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    config = encoder.config
    if needed <= config.vocab_size:
        return encoder
    size = -(-needed // 64) * 64
    table = encoder.embeddings.tok_embeddings.weight.detach()
    rows = table.mean(0, keepdim=True).expand(size - config.vocab_size, -1)
    with torch.device("meta"):
        extended = Encoder(parse(type(config), config.model_dump() | {"vocab_size": size}, where=str(folder)))
    extended.load_state_dict(encoder.state_dict() | {"embeddings.tok_embeddings.weight": torch.cat([table, rows])},
                          assign=True)  # fmt: skip
    assert isinstance(extended, nn.Module)
    return extended.eval()
