"""Steps of a datatrove pipeline. This module needs datatrove."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseReader
from datatrove.pipeline.tokens.tokenizer import TokenizedFile

from modernbert.corpus import samples
from modernbert.files import FileRecord, atomic_write, file_record
from modernbert.text import documents as reading
from modernbert.text.tokenizer import load_tokenizer, num_ids

SKIPPED = "skipped"  # the metadata key with the reason why a document is skipped


class SourceReader(BaseReader):  # type: ignore[misc]
    """Documents of the files of a task, in order. Unusable documents have the reason in their metadata.

    Each task writes the records of its files to the folder `records`.
    """

    name = "files"

    def __init__(
        self,
        tasks: list[list[Path]],
        kind: reading.Kind,
        text_key: str,
        min_characters: int,
        limit_documents: int | None,
        records: Path,
    ) -> None:
        super().__init__(limit=limit_documents or -1, text_key=text_key)
        self.tasks = tasks
        self.kind = kind
        self.min_characters = min_characters
        self.records = records

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        num_documents = 0
        records: list[FileRecord] = []
        for path in self.tasks[rank]:
            records.append(file_record(path))
            with atomic_write(self.records / f"{rank:05d}.json") as partial:
                partial.write_text(json.dumps(records), encoding="utf-8")
            for document in reading.read_documents(path, self.kind, self.text_key):
                if isinstance(document, reading.Skipped):
                    yield Document(text="", id=document.origin, metadata={SKIPPED: document.reason})
                    continue
                if len(document.text) < self.min_characters:
                    yield Document(text=document.text, id=document.origin, metadata={SKIPPED: "too short"})
                    continue
                if num_documents == self.limit:
                    return
                num_documents += 1
                yield Document(text=document.text, id=document.origin)


class TokenShardWriter(PipelineStep):  # type: ignore[misc]
    """Tokenize the documents of a task into one shard, in order and without special tokens.

    It also writes a small file of counts, for the progress bar and for the manifest.
    """

    name = "token shards"
    type = "writer"

    def __init__(self, folder: Path, source: str, tokenizer: Path, batch_characters: int) -> None:
        super().__init__()
        self.folder = folder
        self.source = source
        self.tokenizer = tokenizer
        self.batch_characters = batch_characters

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        tokenizer = load_tokenizer(self.tokenizer)
        tokenizer.encode_special_tokens = True  # "[MASK]" written in a text is text
        token_bytes = 2 if num_ids(tokenizer) <= 1 << 16 else 4
        name = f"{self.source}-{rank:05d}.ds"
        file = TokenizedFile(
            str(self.folder),
            name,
            tokenizer_name_or_path=str(self.tokenizer),
            save_final_metadata=True,
            token_size=token_bytes,
        )
        counts: dict[str, Any] = {"file": name, "documents": 0, "tokens": 0, "bytes": 0, "token_bytes": token_bytes}
        counts["skipped"] = {}
        waiting: list[str] = []
        refused = samples.Samples()
        characters = 0

        def flush() -> None:
            for text, encoding in zip(
                waiting, tokenizer.encode_batch_fast(waiting, add_special_tokens=False), strict=True
            ):
                ids = np.asarray(encoding.ids, dtype=f"<u{token_bytes}")
                file.write_bytes(ids.tobytes())
                counts["documents"] += 1
                counts["tokens"] += len(ids)
                counts["bytes"] += len(text.encode("utf-8", "ignore"))
            waiting.clear()
            self._write_counts(counts, rank)

        for document in data:
            if reason := document.metadata.get(SKIPPED):
                counts["skipped"][reason] = counts["skipped"].get(reason, 0) + 1
                refused.add(reason, document.id, document.text)
                continue
            waiting.append(document.text)
            characters += len(document.text)
            if characters >= self.batch_characters:
                flush()
                characters = 0
            yield document
        flush()
        file.close()
        refused.write(self.folder / "refused" / f"{rank:05d}.json")

    def _write_counts(self, counts: dict[str, Any], rank: int) -> None:
        path = self.folder / "progress" / f"{rank:05d}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(counts), encoding="utf-8")
        partial.rename(path)
