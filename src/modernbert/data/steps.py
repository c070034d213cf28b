"""Steps of a datatrove pipeline. Imported only where datatrove is installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result
from datatrove.pipeline.readers.base import BaseReader
from datatrove.pipeline.tokens.tokenizer import TokenizedFile

from modernbert.data import deduplication, reading, samples
from modernbert.data.filters import make_filters
from modernbert.data.recipe import Source
from modernbert.data.tokenizer import load_tokenizer

SKIPPED = "skipped"  # the key of the metadata under which a document that is not wanted carries the reason
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "newline": "\n"}  # a path may be no UTF-8


class SourceReader(BaseReader):  # type: ignore[misc]
    """Documents of the files of a task, in order. What cannot be used is passed on as a reason in the metadata."""

    name = "files"

    def __init__(
        self,
        tasks: list[list[Path]],
        kind: reading.Kind,
        text_key: str,
        min_characters: int,
        limit_documents: int | None,
    ) -> None:
        super().__init__(limit=limit_documents or -1, text_key=text_key)
        self.tasks = tasks
        self.kind = kind
        self.min_characters = min_characters

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        taken = 0
        for path in self.tasks[rank]:
            for found in reading.read_documents(path, self.kind, self.text_key):
                if isinstance(found, reading.Skipped):
                    yield Document(text="", id=found.origin, metadata={SKIPPED: found.reason})
                    continue
                if len(found.text) < self.min_characters:
                    yield Document(text=found.text, id=found.origin, metadata={SKIPPED: "too short"})
                    continue
                if taken == self.limit:
                    return
                taken += 1
                yield Document(text=found.text, id=found.origin)


class Sieve(PipelineStep):  # type: ignore[misc]
    """Ask the filters of a source, and pass on the name of the first that refuses as a reason in the metadata."""

    name = "sieve"
    type = "filter"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        filters = make_filters(self.source)  # here: language models do not travel between processes
        for document in data:
            if SKIPPED not in document.metadata and (refusal := _refusal(filters, document)):
                document.metadata[SKIPPED] = refusal
            yield document


def _refusal(filters: dict[str, BaseFilter], document: Document) -> str | None:
    for name, filter_ in filters.items():
        kept, reason = get_filter_result(filter_.filter(document))
        if not kept:
            return f"{name}: {reason}" if reason else name
    return None


class KeptAside(PipelineStep):  # type: ignore[misc]
    """Write all documents of a task to a file, and pass on those that are still wanted, to be compared."""

    name = "kept aside"
    type = "writer"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.folder.mkdir(exist_ok=True)
        with zstandard.open(self.folder / f"{rank:05d}.jsonl.zst", "wt", **_TEXT) as file:
            for document in data:
                reason = document.metadata.get(SKIPPED)
                text = document.text[: samples.CHARACTERS] if reason else document.text
                file.write(json.dumps([document.id, text, reason], ensure_ascii=False) + "\n")
                if not reason:
                    document.metadata[deduplication.PRIORITY] = deduplication.priority(rank)
                    yield document


class UniqueReader(PipelineStep):  # type: ignore[misc]
    """The documents that were kept aside, those marked that the search found to stand elsewhere."""

    name = "unique documents"
    type = "reader"

    def __init__(self, folder: Path, source: Source, search: Path) -> None:
        super().__init__()
        self.folder = folder
        self.source = source
        self.search = search

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        elsewhere = deduplication.duplicates(self.source, self.search, rank)
        reason_elsewhere = "duplicate" if self.source.deduplicate == "exact" else "near duplicate"
        number = 0
        with zstandard.open(self.folder / f"{rank:05d}.jsonl.zst", "rt", **_TEXT) as file:
            for origin, text, reason in map(json.loads, file):
                if not reason:
                    reason = reason_elsewhere if number in elsewhere else None
                    number += 1
                yield Document(text=text, id=origin, metadata={SKIPPED: reason} if reason else {})


class TokenShardWriter(PipelineStep):  # type: ignore[misc]
    """Tokenise the documents of a task into one shard, in their order and without special tokens.

    Beside the shard it keeps a small file of counts, first for the progress bar and at last for the manifest.
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
        token_bytes = 2 if tokenizer.get_vocab_size(with_added_tokens=True) <= 1 << 16 else 4
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
            self._publish(counts, rank)

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

    def _publish(self, counts: dict[str, Any], rank: int) -> None:
        path = self.folder / "progress" / f"{rank:05d}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(counts), encoding="utf-8")
        partial.rename(path)
