"""A hash that shows whether vectors come from the same model."""

import hashlib
from pathlib import Path

from modernbert.model.folder import find_folder

_NAMES = (
    "config.json",
    "tokenizer.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "router_config.json",
)


def model_hash(source: str | Path) -> str:
    """The SHA-256 of the files of a model folder that determine its outputs."""
    folder = find_folder(source)
    files = [folder / name for name in _NAMES if (folder / name).is_file()]
    for inside in (
        "*.safetensors",
        "*/config.json",
        "*/*.safetensors",
        "*/tokenizer.json",
        "*/sentence_bert_config.json",
    ):
        files += sorted(folder.glob(inside))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
