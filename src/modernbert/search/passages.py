"""Passages: parts of documents as units of retrieval, on disk with random access."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

import numpy as np

from modernbert.errors import DataError
from modernbert.progress import Progress
from modernbert.search.stores.store import plain
from modernbert.tasks.reading import is_unicode
from modernbert.text.opening import UnreadableError, find_files, read_lines
from modernbert.text.records import RejectedRecord, format_of, read_file
from modernbert.text.words import splits_cluster

logger = logging.getLogger(__name__)

Splitter = Callable[[str], list[str]]

TEXTS, OFFSETS = "passages.jsonl", "passages.offsets.npy"
_IDS = ("_id", "id", "docid", "doc_id")
_CHARACTERS, _OVERLAP_CHARACTERS = 1200, 200  # of a passage that is split without a tokenizer


@dataclass(frozen=True)
class Passage:
    """A part of a document; `id` is the id of the document, or else the location of its text."""

    id: str
    part: int  # from 0
    source: str
    text: str


class Passages(Sequence[Passage]):
    """The passages of an index, read from disk one by one."""

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        self._bytes = np.memmap(folder / TEXTS, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        begin, end = int(self._offsets[index]), int(self._offsets[index + 1])
        return Passage(**json.loads(self._bytes[begin:end].tobytes()))


def write_passages(folder: Path, sources: Sequence[str], split: Splitter, text_key: str = "text") -> int:
    """Write the passages of files and folders, and return their number. A warning counts records without text.

    Raises:
        DataError: there is no such file, or no text at all.
    """
    offsets = [0]
    skipped = 0
    with (folder / TEXTS).open("wb") as file, Progress(unit=" passages", desc="reading texts") as bar:
        for document in _documents(sources, text_key):
            if document is None:
                skipped += 1
                continue
            identifier, source, text = document
            for part, passage_text in enumerate(split(text)):
                passage = Passage(plain(identifier), part, plain(source), passage_text)
                line = json.dumps(asdict(passage), ensure_ascii=False) + "\n"
                offsets.append(offsets[-1] + file.write(line.encode("utf-8")))
                bar.update()
    if skipped:
        logger.warning("%d documents without text (in tables: in the column %r) were skipped.", skipped, text_key)
    if len(offsets) == 1:
        raise DataError(f"{', '.join(sources)}: there is no text; is {text_key!r} the name of the text column?")
    np.save(folder / OFFSETS, np.array(offsets, dtype=np.uint64))
    return len(offsets) - 1


def split_by_characters(text: str) -> list[str]:
    """Overlapping parts of a few hundred words, split at white space if possible."""
    parts: list[str] = []
    begin = 0
    while begin < len(text):
        end = min(len(text), begin + _CHARACTERS)
        if end < len(text) and (space := text.rfind(" ", begin + _CHARACTERS // 2, end)) > 0:
            end = space
        end = _cluster_boundary(text, end, begin)
        parts.append(text[begin:end])
        if end == len(text):
            break
        begin = max(begin + 1, _cluster_boundary(text, end - _OVERLAP_CHARACTERS, begin))
    return [part for part in parts if part.strip()]


def _cluster_boundary(text: str, place: int, lowest: int) -> int:
    """The last offset up to `place` that does not cut a grapheme cluster; `place` if there is none above `lowest`."""
    found = place
    while found > lowest and splits_cluster(text, found):
        found -= 1
    return found if found > lowest else place


def source_files(sources: Sequence[str]) -> list[Path]:
    """The files of `sources`.

    Raises:
        DataError: there is none.
    """
    return find_files(sources)


def _documents(sources: Sequence[str], text_key: str) -> Iterator[tuple[str, str, str] | None]:
    """Id, location and text of each document; None for one without text."""
    for file in source_files(sources):
        kind = format_of(file)
        try:
            if kind not in ("jsonl", "json", "csv", "tsv", "parquet"):
                text = "".join(line for _, line in read_lines(file))
                yield (file.name, str(file), text) if text.strip() else None
                continue
            for record in read_file(file, kind):
                if isinstance(record, RejectedRecord):
                    yield None
                    continue
                value, title = record.values.get(text_key), record.values.get("title")
                if not isinstance(value, str) or not value.strip():
                    yield None
                    continue
                if not all(map(is_unicode, (value, title if isinstance(title, str) else ""))):
                    yield None
                    continue
                identifier = next((record.values[key] for key in _IDS if record.values.get(key)), record.origin)
                titled = f"{title}\n{value}" if isinstance(title, str) and title.strip() else value
                yield str(identifier), str(record.origin), titled
        except UnreadableError as error:
            logger.warning("%s cannot be read (%s).", error.origin, error.reason)
            yield None
