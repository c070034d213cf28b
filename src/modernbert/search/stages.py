"""Retrieval stages: dense vectors, sparse weights, late interaction and BM25, with their files and their search."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from modernbert.errors import ConfigError, DataError
from modernbert.installation import install_command
from modernbert.search.passages import Passages
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.ranking.maxsim import document_blocks, maxsim_scores
from modernbert.tasks.similarity import similarity
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.text.bm25 import bm25_words, english_stems, language_of, load_bm25s, words_of

Method = Literal["dense", "sparse", "late", "bm25"]
Arrays = dict[str, npt.NDArray[Any]]
Ranking = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]  # passage numbers, best first, and their scores

_BLOCK_ROWS = 1 << 16
_LANGUAGE_FILE = "bm25/language.txt"
_LANGUAGE_SAMPLE = 1000  # number of passages that decide the language of BM25
_BLOCK_TOKENS = 1 << 17


class Stage(ABC):
    """A representation of passages: it is computed shard by shard, merged into files, and searched in these."""

    method: ClassVar[Method]
    files: ClassVar[tuple[str, ...]]  # names of files or folders in the index

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Arrays:
        """The arrays to store for some passages."""

    @abstractmethod
    def merge(self, shards: Sequence[Path], folder: Path) -> None:
        """Write the files of the index from the shards (.npz), in order."""

    @abstractmethod
    def search(self, folder: Path, queries: Sequence[str], count: int) -> list[Ranking]:
        """The best passages of each query, at most `count`."""


class DenseStage(Stage):
    """One vector for each passage. The search is exact and reads all vectors from disk, block by block.

    With `approximate` it searches a graph (HNSW, arXiv 1603.09320, package usearch), for millions of passages.

    Raises:
        ConfigError: `approximate` is set, and the model compares vectors by a distance.
    """

    method = "dense"
    files = ("dense.npy", "dense.usearch")

    def __init__(self, model: Embedder, approximate: bool = False) -> None:
        self.model, self.approximate = model, approximate
        self._normalized = model.model.settings.similarity == "cosine"
        if approximate and model.model.settings.similarity not in ("cosine", "dot"):
            raise ConfigError(
                f"An approximate index is for vectors compared by cosine or dot, not {model.model.settings.similarity}."
            )

    def encode(self, texts: Sequence[str]) -> Arrays:
        return {"vectors": self.model.encode_document(list(texts), normalize_embeddings=self._normalized)}

    def merge(self, shards: Sequence[Path], folder: Path) -> None:
        merge_rows(shards, "vectors", folder / self.files[0])
        if not self.approximate:
            return
        vectors = np.load(folder / self.files[0], mmap_mode="r")
        graph = _usearch()(ndim=vectors.shape[1], metric="ip", dtype="f32")
        for begin in range(0, len(vectors), _BLOCK_ROWS):
            block = np.array(vectors[begin : begin + _BLOCK_ROWS])
            graph.add(np.arange(begin, begin + len(block)), block)
        graph.save(str(folder / self.files[1]))

    def search(self, folder: Path, queries: Sequence[str], count: int) -> list[Ranking]:
        query_vectors = self.model.encode_query(list(queries), normalize_embeddings=self._normalized)
        if self.approximate:
            graph = _usearch().restore(str(folder / self.files[1]), view=True)
            matches = [graph.search(query, count) for query in query_vectors]
            return [(one.keys.astype(np.int64), -one.distances.astype(np.float32) + 1) for one in matches]
        vectors = np.load(folder / self.files[0], mmap_mode="r")
        name = "dot" if self._normalized else self.model.model.settings.similarity
        best = [_TopK(count) for _ in queries]
        for begin in range(0, len(vectors), _BLOCK_ROWS):
            block = torch.from_numpy(np.array(vectors[begin : begin + _BLOCK_ROWS]))
            for one, scores in zip(best, similarity(query_vectors, block, name).numpy(), strict=True):
                one.add(begin, scores)
        return [one.ranking() for one in best]


class SparseStage(Stage):
    """An inverted index: the passages and weights of each vocabulary entry."""

    method = "sparse"
    files = ("sparse.begins.npy", "sparse.passages.npy", "sparse.weights.npy")

    def __init__(self, model: SparseEmbedder) -> None:
        self.model = model

    def encode(self, texts: Sequence[str]) -> Arrays:
        weights = self.model.encode_document(list(texts))
        rows, columns = weights.indices().numpy()
        return {
            "rows": rows.astype(np.int32),
            "columns": columns.astype(np.int32),
            "weights": weights.values().numpy(),
            "count": np.array(len(texts)),
        }

    def merge(self, shards: Sequence[Path], folder: Path) -> None:
        before, parts = 0, []
        for path in shards:
            with np.load(path) as arrays:
                parts.append((arrays["rows"].astype(np.int64) + before, arrays["columns"], arrays["weights"]))
                before += int(arrays["count"])
        rows, columns, weights = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.argsort(columns, kind="stable")
        begins = np.searchsorted(columns[order], np.arange(self.model.dimensions + 1))
        for name, values in (
            ("begins", begins),
            ("passages", rows[order].astype(np.int32)),
            ("weights", weights[order]),
        ):
            np.save(folder / f"sparse.{name}.npy", values)

    def search(self, folder: Path, queries: Sequence[str], count: int) -> list[Ranking]:
        begins, passages, weights = (
            np.load(folder / f"sparse.{name}.npy", mmap_mode="r") for name in ("begins", "passages", "weights")
        )
        total = len(np.load(folder / "passages.offsets.npy", mmap_mode="r")) - 1
        rankings = []
        for query in self.model.encode_query(list(queries)).to_dense():
            scores = np.zeros(total, dtype=np.float32)
            for token in query.nonzero().squeeze(1).tolist():
                part = slice(int(begins[token]), int(begins[token + 1]))
                scores[passages[part]] += float(query[token]) * weights[part]  # a passage occurs once per token
            best = _TopK(count)
            best.add(0, scores)
            rankings.append(best.ranking(above=0))
        return rankings


class LateStage(Stage):
    """The vectors of all tokens. The search is exact and compares the query with every passage."""

    method = "late"
    files = ("late.npy", "late.ends.npy")

    def __init__(self, model: MultiVectorEmbedder) -> None:
        self.model = model

    def encode(self, texts: Sequence[str]) -> Arrays:
        vectors = self.model.encode_document(list(texts))
        return {
            "vectors": np.concatenate(list(vectors)).astype(np.float16),
            "lengths": np.array([len(one) for one in vectors], dtype=np.int64),
        }

    def merge(self, shards: Sequence[Path], folder: Path) -> None:
        merge_rows(shards, "vectors", folder / "late.npy")
        lengths = np.concatenate([np.load(path)["lengths"] for path in shards])
        np.save(folder / "late.ends.npy", np.concatenate([[0], lengths.cumsum()]))

    def search(self, folder: Path, queries: Sequence[str], count: int) -> list[Ranking]:
        vectors, ends = np.load(folder / "late.npy", mmap_mode="r"), np.load(folder / "late.ends.npy")
        query_vectors = list(self.model.encode_query(list(queries)))
        best = [_TopK(count) for _ in queries]
        for begin, end in document_blocks(ends, _BLOCK_TOKENS):
            lengths = np.diff(ends[begin : end + 1]).tolist()
            scores = maxsim_scores(query_vectors, vectors[ends[begin] : ends[end]], lengths)
            for one, of_query in zip(best, scores.numpy(), strict=True):
                one.add(begin, of_query)
        return [one.ranking() for one in best]


class Bm25Stage(Stage):
    """BM25 (Robertson and Zaragoza 2009) of the package bm25s, in Lucene's variant: k1 1.5, b 0.75.

    English passages are counted by stems, others by words or pairs of characters (`language_of`).
    """

    method = "bm25"
    files = ("bm25",)

    def encode(self, texts: Sequence[str]) -> Arrays:
        return {"words": np.array(["\0".join(words_of(text)) for text in texts], dtype=np.str_)}

    def merge(self, shards: Sequence[Path], folder: Path) -> None:
        words: list[list[str]] = []
        for path in shards:
            with np.load(path) as arrays:
                words += [line.split("\0") for line in arrays["words"].tolist()]
        passages = Passages(folder)
        step = max(1, len(passages) // _LANGUAGE_SAMPLE)
        language = language_of([passages[number].text for number in range(0, len(passages), step)])
        index = load_bm25s("or --no-bm25").BM25()
        index.index(english_stems(words) if language == "en" else words, show_progress=False)
        index.save(str(folder / "bm25"), show_progress=False)
        (folder / _LANGUAGE_FILE).write_text(language, encoding="utf-8")

    def search(self, folder: Path, queries: Sequence[str], count: int) -> list[Ranking]:
        index = load_bm25s("or --no-bm25").BM25.load(str(folder / "bm25"), mmap=True, show_progress=False)
        path = folder / _LANGUAGE_FILE
        language = path.read_text(encoding="utf-8") if path.is_file() else "any"  # as earlier versions counted
        rankings = []
        for words in bm25_words(queries, language):
            known = [word for word in words if word in index.vocab_dict]
            best = _TopK(count)
            if known:
                best.add(0, np.asarray(index.get_scores(known)))
            rankings.append(best.ranking(above=0))
        return rankings


STAGES: dict[Method, type[Stage]] = {one.method: one for one in (DenseStage, SparseStage, LateStage, Bm25Stage)}


class _TopK:
    """The `count` highest scores so far, with their passage numbers; equal scores are in order of the numbers."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._numbers = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float32)

    def add(self, begin: int, scores: npt.NDArray[np.float32]) -> None:
        """Add the scores of consecutive passages, the first of which has the number `begin`."""
        numbers = np.arange(begin, begin + len(scores))
        if len(scores) > self._count:
            numbers = numbers[np.argpartition(-scores, self._count - 1)[: self._count]]
            scores = scores[numbers - begin]
        numbers, scores = np.append(self._numbers, numbers), np.append(self._scores, scores)
        order = np.lexsort((numbers, -scores))[: self._count]
        self._numbers, self._scores = numbers[order], scores[order].astype(np.float32)

    def ranking(self, above: float = -np.inf) -> Ranking:
        kept = self._scores > above
        return self._numbers[kept], self._scores[kept]


def merge_rows(shards: Sequence[Path], name: str, output: Path) -> None:
    """Concatenate an array of several .npz files into one .npy file, without loading all of them into memory."""
    shapes = []
    for path in shards:
        with np.load(path) as arrays:
            shapes.append((arrays[name].shape, arrays[name].dtype))
    total = sum(shape[0] for shape, _ in shapes)
    merged = np.lib.format.open_memmap(output, "w+", shapes[0][1], (total, *shapes[0][0][1:]))
    begin = 0
    for path in shards:
        with np.load(path) as arrays:
            rows = arrays[name]
        merged[begin : begin + len(rows)] = rows
        begin += len(rows)
    merged.flush()


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise DataError(
            f"An approximate index needs usearch: {install_command('neighbours')}, or leave --approximate out."
        ) from None
    return Index
