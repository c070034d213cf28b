"""Search in an index with one stage, or with the fusion of several, and optional reranking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from modernbert.errors import ConfigError, DataError
from modernbert.files import sampled_hash
from modernbert.search.build import BUILDING, FORMAT, Models, open_stages, read_manifest
from modernbert.search.model_hash import model_hash
from modernbert.search.passages import OFFSETS, TEXTS, Passage, Passages
from modernbert.search.stages import STAGES, Method, Ranking, Stage
from modernbert.tasks.inputs import check_count, check_texts
from modernbert.tasks.ranking.fusion import Fusion, Scored, fuse, fusion_named, interpolate_reranking
from modernbert.tasks.rerank import Reranker


@dataclass(frozen=True)
class Hit:
    """A retrieved passage with its rank (from 1) and its score."""

    rank: int
    score: float
    number: int  # of the passage in the index
    passage: Passage


class Index:
    """An index on disk. It is searched without loading all of it, and models load on first use."""

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
                "it is not complete: run `modernbert search index` again" if unfinished else "it has no manifest.json"
            )
            raise DataError(f"{folder} is not an index: {hint}.")
        if manifest["format"] != FORMAT:
            raise DataError(f"{folder} has the format {manifest['format']!r}, not {FORMAT}; build the index again.")
        try:
            index = cls(folder, manifest, device)
            complete = (
                len(index.passages) == manifest["passages"] and {"bm25", "int8", "approximate"} <= manifest.keys()
            )
        except (OSError, ValueError, EOFError, KeyError):
            complete = False
        if not complete:
            raise DataError(f"{folder} is damaged: its passages are not those of its manifest; build the index again.")
        index._check_files((TEXTS, OFFSETS))
        return index

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
        fusion: Fusion = "rrf",
        bm25_weight: float = 1.0,
        first_stage_weight: float = 0.0,
    ) -> list[list[Hit]]:
        """The best passages of each query.

        `hybrid` is the `fusion` of all stages; `auto` is hybrid if there are several stages. In a hybrid, each stage
        contributes its best `candidates`, and BM25 has `bm25_weight` times the weight of another stage. A reranker
        reorders the best `candidates`; with `first_stage_weight`, their scores before it count too, with this weight:
        both are scaled to 0..1 first, those of the reranker before its activation.

        Raises:
            ConfigError: the index has no such stage, or a weight is negative or not a number, or that of BM25 is 0.
            DataError: a model has changed since the index was built, a query is empty or not a text, or `top_k` or
                `candidates` is not above 0.
        """
        if not 0 < bm25_weight < math.inf:
            raise ConfigError(f"bm25_weight is {bm25_weight}; it must be a positive number.")
        fusion = fusion_named(fusion)
        if not 0 <= first_stage_weight < math.inf:
            raise ConfigError(f"first_stage_weight is {first_stage_weight}; it must be 0 or a positive number.")
        queries = check_texts(queries, "Query")
        top_k, candidates = check_count(top_k, "top_k", "passage"), check_count(candidates, "candidates", "passage")
        selected = self._selected(method)
        weights = [bm25_weight if one == "bm25" else 1.0 for one in selected]
        count = max(top_k, candidates) if reranker is not None or len(selected) > 1 else top_k
        ranked = [self._stage(one).search(self.folder, queries, count) for one in selected]
        results = []
        for number, query in enumerate(queries):
            rankings = [_pairs(each[number]) for each in ranked]
            pairs = rankings[0] if len(rankings) == 1 else fuse(rankings, weights, fusion)
            if reranker is not None and pairs:
                first = pairs[:candidates]
                pairs = self._reranked(query, first, reranker, raw_scores=first_stage_weight > 0)
                pairs = interpolate_reranking(first, pairs, first_stage_weight)
            best = pairs[:top_k]
            results.append(
                [Hit(rank, score, place, self.passages[place]) for rank, (place, score) in enumerate(best, 1)]
            )
        return results

    def _selected(self, method: str) -> list[Method]:
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
            self._check_files(STAGES[method].files)
            models = Models(bm25=method == "bm25")
            if method != "bm25":
                recorded = self.manifest["models"][method]
                if model_hash(recorded["path"]) != recorded["hash"]:
                    raise DataError(
                        f"{recorded['path']} has changed since {self.folder} was built; build the index again."
                    )
                models = Models(bm25=False, **{method: recorded["path"]})
            manifest = self.manifest
            [self._stages[method]] = open_stages(models, self.device, manifest["int8"], manifest["approximate"])
        return self._stages[method]

    def _check_files(self, names: Sequence[str]) -> None:
        """Check files, and the files of folders, against the manifest. Earlier versions recorded no files.

        Of files above 64 MiB a sample is read.

        Raises:
            DataError: one is missing or has other bytes.
        """
        recorded = self.manifest.get("files", {})
        for name in (one for one in recorded if one.partition("/")[0] in names):
            path = self.folder / name
            if not path.is_file() or sampled_hash(path) != recorded[name]:
                raise DataError(f"{path} is missing or damaged; copy it again, or build the index again.")

    def _reranked(self, query: str, pairs: Scored, reranker: Reranker, raw_scores: bool) -> Scored:
        texts = [self.passages[place].text for place, _ in pairs]
        return [
            (pairs[one["corpus_id"]][0], one["score"]) for one in reranker.rank(query, texts, raw_scores=raw_scores)
        ]


def _pairs(ranking: Ranking) -> Scored:
    return list(zip(ranking[0].tolist(), ranking[1].tolist(), strict=True))
