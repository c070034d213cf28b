"""Folders that sentence-transformers or PyLate loads, from a folder of this package."""

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
_MEANT = {"encoder": "embedder", "fill-mask": "embedder", "classifier": "reranker"}
_MARKERS = {"query": "[Q] ", "document": "[D] "}
_SKIPPED = tuple("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")  # what PyLate leaves out of documents


def export_sentence_transformers(folder: str | Path, output: str | Path, *, kind: str | None = None) -> dict[str, Any]:
    """Write a folder that sentence-transformers loads, of a plain model or one for retrieval.

    An encoder or a masked language model becomes an embedder with mean pooling, or what `kind` says (`embedder`,
    `reranker`, `multi-vector`, `sparse`); a classifier becomes a `CrossEncoder`.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: there is no such kind, or sentence-transformers has nothing for it.
        DataError: `output` holds something else than a model.
    """
    found = find_folder(folder)
    chosen = kind or _MEANT.get(kind_of(found), kind_of(found))
    if chosen not in _KINDS:
        raise ConfigError(
            f"sentence-transformers has nothing for a model of the kind {chosen}; choose with --kind one of: "
            f"{', '.join(_KINDS)}."
        )
    _check_output(found, Path(output))
    model: RetrievalModel[Any] = _KINDS[chosen].from_pretrained(found)
    model.save_pretrained(output)
    return {"target": "sentence-transformers", "kind": chosen, "output": str(output)}


def export_pylate(folder: str | Path, output: str | Path) -> dict[str, Any]:
    """Write a folder that PyLate loads as `models.ColBERT`, and sentence-transformers as `MultiVectorEncoder`.

    Of a model for late interaction, its own settings; of any other, those of PyLate: `[Q] ` and `[D] ` are added to the
    vocabulary where it has none, queries are filled up to 32 tokens, and the projection to 128 dimensions is
    reinitialized, to be trained.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: PyLate's form cannot say what the model's settings say; the reason is named.
        DataError: `output` holds something else than a model, or the model has no tokenizer.
    """
    found = find_folder(folder)
    _check_output(found, Path(output))
    if not (found / "tokenizer.json").is_file():
        raise DataError(f"{folder} has no tokenizer.json, which PyLate needs; copy it into the folder.")
    if kind_of(found) == "multi-vector":
        settings = read_multi_vector(found)
        if reason := pylate_reason(found, settings):
            raise ConfigError(
                f"{folder} cannot be written for PyLate ({reason}); export sentence-transformers instead."
            )
        MultiVectorEncoder.from_pretrained(found).save_pretrained(output)
        return {"target": "pylate", "trained_projection": True, "output": str(output)}
    with TemporaryDirectory() as scratch:
        encoder = Encoder.from_pretrained(found)
        encoder = _with_markers(encoder, found, Path(scratch))
        encoder.save_pretrained(scratch, tokenizer=scratch)
        settings = MultiVectorSettings(
            prompts=_MARKERS, query_length=32, document_length=min(180, encoder.config.max_position_embeddings),
            expansion=Expansion(length=32), skip_words=_SKIPPED,
        )  # fmt: skip
        MultiVectorEncoder.from_pretrained(scratch, settings=settings).save_pretrained(output)
    logger.info("%s has no projection for late interaction: a fresh one of %d dimensions is written, to be trained.",
                folder, COLBERT_DIMENSIONS)  # fmt: skip
    return {"target": "pylate", "trained_projection": False, "output": str(output)}


def _check_output(found: Path, output: Path) -> None:
    if output.resolve() == found.resolve():
        raise DataError(f"{output} is the model itself; choose another folder with --output.")


def _with_markers(encoder: Encoder, folder: Path, scratch: Path) -> Encoder:
    """The encoder with a tokenizer in `scratch` that has the markers, and an embedding for each of its tokens.

    New rows are the mean of the others.
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
        grown = Encoder(parse(type(config), config.model_dump() | {"vocab_size": size}, where=str(folder)))
    grown.load_state_dict(encoder.state_dict() | {"embeddings.tok_embeddings.weight": torch.cat([table, rows])},
                          assign=True)  # fmt: skip
    assert isinstance(grown, nn.Module)
    return grown.eval()
