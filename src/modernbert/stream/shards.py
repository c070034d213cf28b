"""Token shards in datatrove's format, memory mapped: `*.ds` ids, `*.ds.index` document ends, `*.ds.metadata`."""

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert.errors import DataError
from modernbert.stream.manifest import Manifest
from modernbert.text.tokenizer import Vocabulary

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
# Indices or lengths of all documents of a corpus, whose memory grows with it: 4 bytes each as long as they suffice.
Counts = npt.NDArray[np.signedinteger]

_SAMPLE_DOCUMENTS = 1000  # checked before a run against the tokenizer
_BLOCK, _BLOCKS = 1 << 16, 256  # size and number of the blocks of a large shard that are hashed
_SPLIT_SEED = 1234  # the held-out documents depend on the corpus alone, not on the seed of a run


@dataclass(frozen=True)
class Shard:
    """One `.ds` file: ids of all its documents, and where each document ends."""

    path: Path
    tokens: Tokens
    ends: npt.NDArray[np.uint64]


class Shards:
    """All documents of a folder of token shards, in the order of file names. Ids carry no special tokens."""

    def __init__(self, folder: Path, shards: Sequence[Shard], manifest: Manifest | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards = tuple(shards)
        self._vocab_size: int | None = None  # set by `check_vocabulary`; larger ids are then an error
        self._first_document = np.cumsum([0, *(len(shard.ends) for shard in shards)])

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Map the shards of a folder that `modernbert corpus` or datatrove wrote, without reading them.

        Subfolders are not searched: each is a separate source.

        Raises:
            DataError: there is no folder or no shard in it, or a shard does not match its index or the manifest.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"There is no shard folder {folder}; write it with `modernbert corpus`.")
        manifest = Manifest.read(folder)
        for file in manifest.files if manifest else ():
            if not (folder / file.name).is_file():
                raise DataError(
                    f"{folder / file.name} is missing, but its manifest names it; put it back, or remove "
                    f"{folder} and run `modernbert corpus` again."
                )
        shards = [_open_shard(path, manifest) for path in sorted(folder.glob("*.ds"))]
        for index in sorted(folder.glob("*.ds.index")):
            if not index.with_suffix("").is_file():
                raise DataError(f"{index} has no {index.stem} beside it; copy both, or remove the index.")
        opened = cls(folder, shards, manifest)
        if opened.num_documents == 0:
            inner = next(iter(sorted(folder.glob("*/*.ds"))), None)
            remedy = f"give {inner.parent}, which does" if inner else "write it with `modernbert corpus`"
            raise DataError(f"{folder} holds no document in *.ds; {remedy}.")
        if manifest and (manifest.documents, manifest.tokens) != (opened.num_documents, opened.num_tokens):
            raise DataError(
                f"{folder} holds {opened.num_documents:,} documents and {opened.num_tokens:,} tokens but its manifest "
                f"says {manifest.documents:,} and {manifest.tokens:,}; remove it and run `modernbert corpus` again."
            )
        return opened

    def check_present(self) -> None:
        """Check that no shard was removed or changed in size after it was opened.

        Raises:
            DataError: a shard has changed; the message names it.
        """
        for shard in self._shards:
            size = shard.path.stat().st_size if shard.path.is_file() else None
            if size != shard.tokens.nbytes:
                problem = "is missing" if size is None else f"has now {size:,} bytes instead of {shard.tokens.nbytes:,}"
                raise DataError(f"{shard.path} {problem}; put it back and give the same command again.")

    def fingerprint(self) -> str:
        """A hash by which a run recognizes its shards: names, sizes, document ends, and ids.

        From a shard above 16 MiB it reads 256 blocks of 64 KiB, evenly spread, which takes seconds for any corpus. It
        detects shards that were rebuilt or swapped, but possibly not a single changed id.
        """
        digest = hashlib.sha256()
        for shard in self._shards:
            size = shard.tokens.nbytes
            digest.update(f"{shard.path.name} {size} {len(shard.ends)}\n".encode())
            digest.update(np.ascontiguousarray(shard.ends).tobytes())
            with shard.path.open("rb") as file:
                for offset in _block_offsets(size):
                    file.seek(offset)
                    digest.update(file.read(_BLOCK))
        return digest.hexdigest()

    @property
    def num_documents(self) -> int:
        return int(self._first_document[-1])

    @property
    def num_tokens(self) -> int:
        return sum(len(shard.tokens) for shard in self._shards)

    @cached_property
    def lengths(self) -> Counts:
        """Tokens of every document.

        Raises:
            DataError: the document ends in an index decrease.
        """
        parts: list[Counts] = []
        for shard in self._shards:
            _check_size(shard.path.with_name(f"{shard.path.name}.index"), shard.ends)
            lengths = np.diff(shard.ends.astype(np.int64), prepend=0)
            if lengths.min(initial=0) < 0:
                raise DataError(f"The document ends in {shard.path}.index decrease; write the shard again.")
            parts.append(lengths.astype(_dtype_for(int(lengths.max(initial=0)))))
        return np.concatenate(parts)

    def document(self, index: int) -> Tokens:
        """The ids of one document, a view into the mapped file."""
        return self.slice(index, 0, None)

    def slice(self, index: int, start: int, stop: int | None) -> Tokens:
        """Some ids of one document, from `start` to `stop` (None: its end).

        Raises:
            DataError: the shard was truncated after it was opened, or, after `check_vocabulary`, an id is outside the
                vocabulary.
        """
        number = int(np.searchsorted(self._first_document, index, side="right")) - 1
        shard, local = self._shards[number], index - int(self._first_document[number])
        _check_size(shard.path, shard.tokens)
        _check_size(shard.path.with_name(f"{shard.path.name}.index"), shard.ends)
        begin = int(shard.ends[local - 1]) if local else 0
        end = int(shard.ends[local])
        ids = shard.tokens[begin + start : end if stop is None else min(end, begin + stop)]
        if self._vocab_size is not None and ids.max(initial=0) >= self._vocab_size:
            raise DataError(
                f"{shard.path} holds the id {ids.max()} in document {local}, outside the vocabulary of "
                f"{self._vocab_size}; write the shard again with this tokenizer."
            )
        return ids

    def check_vocabulary(self, vocabulary: Vocabulary, tokenizer_sha256: str) -> None:
        """Check that the shards were written with this tokenizer, by the manifest and the ids of the first documents.

        Raises:
            DataError: they were written with another tokenizer, have ids outside the vocabulary, or already have [CLS]
                and [SEP], which packing would add a second time.
        """
        if self.manifest is not None and self.manifest.tokenizer_sha256 != tokenizer_sha256:
            raise DataError(
                f"{self.folder} was tokenised with another tokenizer ({self.manifest.tokenizer}); "
                "give that one, or write the shards again."
            )
        first = [self.document(i) for i in range(min(_SAMPLE_DOCUMENTS, self.num_documents))]
        sample = [ids for ids in first if len(ids)]
        highest = max((int(ids.max()) for ids in sample), default=0)
        if highest >= vocabulary.size:
            raise DataError(
                f"{self.folder} holds the id {highest}, outside the vocabulary of {vocabulary.size}; "
                "give the tokenizer that wrote it."
            )
        if sample and (
            all(ids[0] == vocabulary.cls_id for ids in sample) or all(ids[-1] == vocabulary.sep_id for ids in sample)
        ):
            raise DataError(
                f"The documents in {self.folder} already begin with [CLS] or end with [SEP], which packing adds; write "
                "them without: datatrove does with a tokenizer.json whose post_processor is null and no eos_token."
            )
        self._vocab_size = vocabulary.size

    def split(self, validation_fraction: float) -> "Split":
        """Hold out a fraction of the documents, at least one, and always the same ones.

        Raises:
            DataError: there is only one document.
        """
        if self.num_documents < 2:
            raise DataError(f"{self.folder} holds one document only; at least two are needed to hold one out.")
        order = np.random.Generator(np.random.PCG64DXSM(_SPLIT_SEED)).permutation(_indices(self.num_documents))
        held_out = min(max(1, round(validation_fraction * self.num_documents)), self.num_documents - 1)
        return Split(Documents(self, np.sort(order[held_out:])), Documents(self, np.sort(order[:held_out])))


@dataclass(frozen=True, eq=False)
class Documents:
    """Some documents of some shards."""

    shards: Shards
    indices: Counts

    @classmethod
    def all_of(cls, shards: Shards) -> "Documents":
        return cls(shards, _indices(shards.num_documents))

    @property
    def lengths(self) -> Counts:
        """Tokens of every document, in the order of `indices`; computed at each call."""
        return self.shards.lengths[self.indices]

    def between(self, min_tokens: int, max_tokens: int | None) -> "Documents":
        """The documents of at least `min_tokens` and at most `max_tokens` tokens (None: no limit)."""
        if min_tokens == 0 and max_tokens is None:
            return self
        lengths = self.lengths
        fitting = lengths >= min_tokens
        if max_tokens is not None:
            fitting &= lengths <= max_tokens
        return self if fitting.all() else Documents(self.shards, self.indices[fitting])


@dataclass(frozen=True, eq=False)
class Split:
    """The training documents and the held-out documents."""

    train: Documents
    validation: Documents


def _open_shard(path: Path, manifest: Manifest | None) -> Shard:
    index = path.with_name(f"{path.name}.index")
    if not index.is_file():
        raise DataError(f"{path} has no {index.name} beside it; copy both, or write the shard again.")
    if index.stat().st_size % 8:
        raise DataError(f"{index} is truncated: its size is not a multiple of 8 bytes; write the shard again.")
    ends = np.memmap(index, dtype="<u8", mode="r") if index.stat().st_size else np.zeros(0, dtype="<u8")
    num_tokens, size = int(ends[-1]) if len(ends) else 0, path.stat().st_size
    width = manifest.token_bytes if manifest else _token_bytes(path, num_tokens)
    if size != num_tokens * width:
        raise DataError(
            f"{path} has {size:,} bytes but its index says {num_tokens:,} tokens of {width} bytes; write it again."
        )
    dtype = "<u2" if width == 2 else "<u4"
    if not size:
        return Shard(path, np.zeros(0, dtype=dtype), ends)
    tokens = np.memmap(path, dtype=dtype, mode="r")
    if hasattr(mmap, "MADV_RANDOM") and isinstance(tokens.base, mmap.mmap):
        # Documents are read in random order, so the system's read-ahead is useless: docs/benchmarks/loader.md.
        tokens.base.madvise(mmap.MADV_RANDOM)
    return Shard(path, tokens, ends)


def _check_size(path: Path, mapped: npt.NDArray[Any]) -> None:
    """Check that a mapped file has not become shorter: a read after its end kills the process (SIGBUS).

    Raises:
        DataError: the file is shorter.
    """
    mapping = getattr(mapped, "_mmap", None)
    if mapping is not None and mapping.size() < mapped.nbytes:
        raise DataError(
            f"{path} has now {mapping.size():,} bytes instead of {mapped.nbytes:,}; put it back and give the same "
            "command again."
        )


def _block_offsets(size: int) -> list[int]:
    """The offsets of the blocks that `fingerprint` reads: all of a small file, otherwise evenly spread ones."""
    blocks = -(-size // _BLOCK)
    if blocks <= _BLOCKS:
        return [block * _BLOCK for block in range(blocks)]
    return [round(number * (size - _BLOCK) / (_BLOCKS - 1)) for number in range(_BLOCKS)]


def _indices(count: int) -> Counts:
    """0, 1, 2, ... below `count`."""
    return np.arange(count, dtype=_dtype_for(count))


def _dtype_for(highest: int) -> type[np.signedinteger]:
    return np.int32 if highest <= np.iinfo(np.int32).max else np.int64


def _token_bytes(path: Path, num_tokens: int) -> int:
    """Bytes of an id: the last field of the first line of `.ds.metadata`, otherwise derived from the file size."""
    metadata = path.with_name(f"{path.name}.metadata")
    if metadata.is_file():
        field = metadata.read_text(encoding="utf-8", errors="replace").partition("\n")[0].rpartition("|")[2]
        if field in ("2", "4"):
            return int(field)
    return 4 if path.stat().st_size == 4 * num_tokens else 2
