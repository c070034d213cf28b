"""The same text twice, or nearly: datatrove's exact and MinHash deduplication within one source.

Signatures of all documents, then a search for equal ones, then the numbers of the documents to leave out, for each
task. Imported only where it is wanted.
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

_HASHES = HashConfig(precision=64, hash_fc="sha1")  # of the standard library; splitting words takes far longer
_HIGHEST_PRIORITY = 65_535  # datatrove keeps it in two bytes
_PRIORITY = "priority"  # the key of the metadata: of equal documents the one with the highest stays
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "newline": "\n"}  # a path may be no UTF-8


def signatures(source: Source, folder: Path) -> PipelineStep:
    """The step that writes a signature for each document of a task."""
    if source.deduplicate == "exact":
        return ExactDedupSignature(str(folder / "signatures"), _exact())
    return MinhashDedupSignature(str(folder / "signatures"), _minhash(source), language=Words(source.language or "en"))


def searches(source: Source, folder: Path) -> Iterator[tuple[str, PipelineStep, int]]:
    """What finds the duplicates among all signatures: a name, a step, and its tasks."""
    found, pairs, results = (str(folder / name) for name in ("signatures", "pairs", "duplicates"))
    if source.deduplicate == "exact":
        yield "search", _Quietly(ExactFindDedups(found, results, _exact())), 1
        return
    config = _minhash(source)
    yield "pairs", _Quietly(MinhashDedupBuckets(found, pairs, config=config)), config.num_buckets
    yield "clusters", _Quietly(MinhashDedupCluster(pairs, results, config)), 1


def duplicates(source: Source, folder: Path, rank: int) -> frozenset[int]:
    """The numbers of the documents of a task that stand elsewhere too, and there they stay."""
    name = f"00000/{rank:05d}.c4_dup" if source.deduplicate == "exact" else f"{rank:06d}.remove"
    path = folder / "duplicates" / name
    return frozenset(np.fromfile(path, dtype="<u4").tolist()) if path.is_file() else frozenset()


class StagedDocuments(PipelineStep):  # type: ignore[misc]
    """Write all documents of a task to a file, and pass on those that are still wanted, to be compared."""

    name = "kept aside"
    type = "writer"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.folder.mkdir(exist_ok=True)
        if rank >= _HIGHEST_PRIORITY:
            raise DataError(f"Deduplication takes at most {_HIGHEST_PRIORITY:,} files; join some of them.")
        priority = _HIGHEST_PRIORITY - rank  # of equal documents the first in the order of the source stays
        with zstandard.open(self.folder / f"{rank:05d}.jsonl.zst", "wt", **_TEXT) as file:
            for document in data:
                reason = document.metadata.get(SKIPPED)
                text = document.text[: samples.CHARACTERS] if reason else document.text
                file.write(json.dumps([document.id, text, reason], ensure_ascii=False) + "\n")
                if not reason:
                    document.metadata[_PRIORITY] = priority
                    yield document


class UniqueReader(PipelineStep):  # type: ignore[misc]
    """Read the staged documents, and mark those that the search found to be duplicates."""

    name = "unique documents"
    type = "reader"

    def __init__(self, folder: Path, source: Source, search: Path) -> None:
        super().__init__()
        self.folder = folder
        self.source = source
        self.search = search

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        elsewhere = duplicates(self.source, self.search, rank)
        reason_elsewhere = "duplicate" if self.source.deduplicate == "exact" else "near duplicate"
        number = 0
        with zstandard.open(self.folder / f"{rank:05d}.jsonl.zst", "rt", **_TEXT) as file:
            for origin, text, reason in map(json.loads, file):
                if not reason:
                    reason = reason_elsewhere if number in elsewhere else None
                    number += 1
                yield Document(text=text, id=origin, metadata={SKIPPED: reason} if reason else {})


class _Quietly(PipelineStep):  # type: ignore[misc]
    """A step of datatrove that does all its work in `run`, without its progress bars."""

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
    wanted = source.minhash
    return MinhashConfig(wanted.ngram_words, wanted.buckets, wanted.hashes_per_bucket, hash_config=_HASHES)
