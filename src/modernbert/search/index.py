"""Search in an index: one stage, or several with their ranks added up, and the best ones reranked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from modernbert.errors import ConfigError, DataError
from modernbert.search.build import BUILDING, FORMAT, Models, open_stages, read_manifest
from modernbert.search.model_hash import model_hash
from modernbert.search.passages import Passage, Passages
from modernbert.search.stages import Found, Method, Stage
from modernbert.tasks.inputs import check_count, check_texts
from modernbert.tasks.ranking.fusion import reciprocal_rank_fusion
from modernbert.tasks.rerank import Reranker


@dataclass(frozen=True)
class Hit:
    """A passage that was found, with its place from 1 on, and the score that put it there."""

    rank: int
    score: float
    number: int  # of the passage in the index
    passage: Passage


class Index:
    """An index on disk, searched where it lies. Its models load when they are first needed."""

    def __init__(self, folder: Path, manifest: dict[str, Any], device: str = "auto") -> None:
        self.folder, self.manifest, self.device = folder, manifest, device
        self.passages = Passages(folder)
        self._stages: dict[Method, Stage] = {}

    @classmethod
    def open(cls, folder: str | Path, device: str = "auto") -> Self:
        """Open an index.

        Raises:
            DataError: the index does not exist, is not complete, is damaged, or was written by another version.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest is None:
            unfinished = (folder / BUILDING).is_dir()
            hint = (
                "it is not complete: give `modernbert search index` again" if unfinished else "it has no manifest.json"
            )
            raise DataError(f"{folder} is not an index: {hint}.")
        if manifest["format"] != FORMAT:
            raise DataError(f"{folder} has the form {manifest['format']!r}, not {FORMAT}; make the index again.")
        try:
            found = cls(folder, manifest, device)
            whole = len(found.passages) == manifest["passages"] and {"bm25", "int8", "approximate"} <= manifest.keys()
        except (OSError, ValueError, EOFError, KeyError):
            whole = False
        if not whole:
            raise DataError(f"{folder} is damaged: its passages are not those of its manifest; make the index again.")
        return found

    @property
    def methods(self) -> list[Method]:
        """The stages that this index has."""
        return [*self.manifest["models"], *(["bm25"] if self.manifest["bm25"] else [])]

    def search(
        self,
        queries: Sequence[str],
        method: Method | Literal["hybrid", "auto"] = "auto",
        *,
        top_k: int = 10,
        reranker: Reranker | None = None,
        candidates: int = 100,
        bm25_weight: float = 1.0,
    ) -> list[list[Hit]]:
        """The best passages of each query. `hybrid` adds up the reciprocal ranks of all stages; `auto` is hybrid
        where there are several. A reranker reads the best `candidates`, which is also what each stage gives to hybrid.
        In a hybrid, BM25 counts `bm25_weight` times as much as each other stage.

        Raises:
            ConfigError: the index has no such stage, or the weight is not a positive number.
            DataError: a model is not the one that the index was made with, a query is empty or not a text, or `top_k`
                or `candidates` is not above 0.
        """
        if not 0 < bm25_weight < math.inf:
            raise ConfigError(f"bm25_weight is {bm25_weight}; it must be a positive number.")
        queries = check_texts(queries, "Query")
        top_k, candidates = check_count(top_k, "top_k", "passage"), check_count(candidates, "candidates", "passage")
        wanted = self._wanted(method)
        weights = [bm25_weight if one == "bm25" else 1.0 for one in wanted]
        count = max(top_k, candidates) if reranker is not None or len(wanted) > 1 else top_k
        ranked = [self._stage(one).search(self.folder, queries, count) for one in wanted]
        found = []
        for number, query in enumerate(queries):
            rankings = [each[number] for each in ranked]
            if len(rankings) == 1:
                pairs = _pairs(rankings[0])
            else:
                pairs = reciprocal_rank_fusion([numbers.tolist() for numbers, _ in rankings], weights)
            if reranker is not None and pairs:
                pairs = self._reranked(query, pairs[:candidates], reranker)
            best = pairs[:top_k]
            found.append([Hit(rank, score, place, self.passages[place]) for rank, (place, score) in enumerate(best, 1)])
        return found

    def _wanted(self, method: str) -> list[Method]:
        if method in ("auto", "hybrid"):
            if method == "hybrid" and len(self.methods) < 2:
                raise ConfigError(f"{self.folder} has only {self.methods[0]}; hybrid needs two stages.")
            return self.methods
        chosen = [one for one in self.methods if one == method]
        if not chosen:
            raise ConfigError(f"{self.folder} has no {method!r}; it has {', '.join(self.methods)}.")
        return chosen

    def _stage(self, method: Method) -> Stage:
        if method not in self._stages:
            models = Models(bm25=method == "bm25")
            if method != "bm25":
                recorded = self.manifest["models"][method]
                if model_hash(recorded["path"]) != recorded["hash"]:
                    raise DataError(
                        f"{recorded['path']} has changed since {self.folder} was made; make the index again."
                    )
                models = Models(bm25=False, **{method: recorded["path"]})
            manifest = self.manifest
            [self._stages[method]] = open_stages(models, self.device, manifest["int8"], manifest["approximate"])
        return self._stages[method]

    def _reranked(self, query: str, pairs: Sequence[tuple[int, float]], reranker: Reranker) -> list[tuple[int, float]]:
        texts = [self.passages[place].text for place, _ in pairs]
        return [(pairs[one["corpus_id"]][0], one["score"]) for one in reranker.rank(query, texts)]


def _pairs(found: Found) -> list[tuple[int, float]]:
    return list(zip(found[0].tolist(), found[1].tolist(), strict=True))
