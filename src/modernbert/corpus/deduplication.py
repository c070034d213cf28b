"""Duplicates and near duplicates: datatrove's exact and MinHash deduplication within one source.

The stages are the signatures of all documents, a search for equal ones, and the indices of the duplicates of each task.
This module is imported only when needed.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupConfig,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig

from modernbert.corpus import samples
from modernbert.corpus.filters import Words
from modernbert.corpus.recipe import Source
from modernbert.corpus.steps import SKIPPED
from modernbert.errors import DataError

_HASHES = HashConfig(
    precision=64, hash_fc="sha1"
)  # from the standard library; it is fast compared with splitting words
_HIGHEST_PRIORITY = 65_535  # datatrove stores it in two bytes
_PRIORITY = "priority"  # a metadata key: of equal documents, the one with the highest priority is kept
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "newline": "\n"}  # a path may not be UTF-8


def signatures(source: Source, folder: Path) -> PipelineStep:
    """The step that writes a signature for each document of a task."""
    if source.deduplicate == "exact":
        return ExactDedupSignature(str(folder / "signatures"), _exact())
    return MinhashDedupSignature(str(folder / "signatures"), _minhash(source), language=Words(source.language or "en"))


def searches(source: Source, folder: Path) -> Iterator[tuple[str, PipelineStep, int]]:
    """The searches for duplicates among all signatures: name, step, and number of tasks."""
    signature_folder, pairs, results = (str(folder / name) for name in ("signatures", "pairs", "duplicates"))
    if source.deduplicate == "exact":
        yield "search", _Quiet(ExactFindDedups(signature_folder, results, _exact())), 1
        return
    config = _minhash(source)
    yield "pairs", _Quiet(MinhashDedupBuckets(signature_folder, pairs, config=config)), config.num_buckets
    yield "clusters", _Quiet(MinhashDedupCluster(pairs, results, config)), 1


def duplicates(source: Source, folder: Path, rank: int) -> frozenset[int]:
    """The indices of the documents of a task that are duplicates of kept ones."""
    name = f"00000/{rank:05d}.c4_dup" if source.deduplicate == "exact" else f"{rank:06d}.remove"
    path = folder / "duplicates" / name
    return frozenset(np.fromfile(path, dtype="<u4").tolist()) if path.is_file() else frozenset()


class StagedDocuments(PipelineStep):  # type: ignore[misc]
    """Write all documents of a task to a file, and pass on those that are not skipped, for comparison."""

    name = "staged documents"
    type = "writer"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.folder.mkdir(exist_ok=True)
        if rank >= _HIGHEST_PRIORITY:
            raise DataError(f"Deduplication supports at most {_HIGHEST_PRIORITY:,} files; join some of them.")
        priority = _HIGHEST_PRIORITY - rank  # of equal documents, the first one in the order of the source is kept
        with zstandard.open(self.folder / f"{rank:05d}.jsonl.zst", "wt", **_TEXT) as file:
            for document in data:
                reason = document.metadata.get(SKIPPED)
                text = document.text[: samples.CHARACTERS] if reason else document.text
                file.write(json.dumps([document.id, text, reason], ensure_ascii=False) + "\n")
                if not reason:
                    document.metadata[_PRIORITY] = priority
                    yield document


class UniqueReader(PipelineStep):  # type: ignore[misc]
    """Read the staged documents, and mark duplicates as skipped."""

    name = "unique documents"
    type = "reader"

    def __init__(self, folder: Path, source: Source, search: Path) -> None:
        super().__init__()
        self.folder = folder
        self.source = source
        self.search = search

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        duplicate_indices = duplicates(self.source, self.search, rank)
        duplicate_reason = "duplicate" if self.source.deduplicate == "exact" else "near duplicate"
        index = 0
        with zstandard.open(self.folder / f"{rank:05d}.jsonl.zst", "rt", **_TEXT) as file:
            for origin, text, reason in map(json.loads, file):
                if not reason:
                    reason = duplicate_reason if index in duplicate_indices else None
                    index += 1
                yield Document(text=text, id=origin, metadata={SKIPPED: reason} if reason else {})


class _Quiet(PipelineStep):  # type: ignore[misc]
    """A datatrove step without its progress bars."""

    def __init__(self, step: PipelineStep) -> None:
        super().__init__()
        self.name = step.name
        self.type = step.type
        self.step = step

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            self.step.run(data, rank, world_size)


def _exact() -> ExactDedupConfig:
    return ExactDedupConfig(content_getter=_content, document_priority=_priority_of, hash_config=_HASHES)


def _content(document: Document) -> bytes:
    return document.text.encode("utf-8")


def _priority_of(document: Document) -> int:
    return document.metadata[_PRIORITY]


def _minhash(source: Source) -> MinhashConfig:
    settings = source.minhash
    return MinhashConfig(settings.ngram_words, settings.buckets, settings.hashes_per_bucket, hash_config=_HASHES)
