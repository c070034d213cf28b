"""The manifest of a shard folder, a file beside the shards."""

import json
from pathlib import Path

from pydantic import ValidationError

from modernbert.config import Config
from modernbert.errors import DataError

NAME = "manifest.json"


class ShardFile(Config):
    """One `.ds` file."""

    name: str
    documents: int
    tokens: int


class Manifest(Config):
    """Counts and origin of the shards of one source. `bytes` is the UTF-8 length of the text that was tokenised."""

    source: str
    documents: int
    tokens: int
    bytes: int
    token_bytes: int
    vocab_size: int
    tokenizer: str
    tokenizer_sha256: str
    fingerprint: str
    skipped: dict[str, int]
    files: tuple[ShardFile, ...]

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a shard folder, or None if it was written by datatrove alone.

        Raises:
            DataError: the manifest is damaged.
        """
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError):
            raise DataError(f"{path} is damaged; remove {folder} and run `modernbert corpus` again.") from None

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder that no process reads yet."""
        (folder / NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
