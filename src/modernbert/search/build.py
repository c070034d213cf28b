"""Build an index shard by shard; a stopped build can be resumed."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write, file_record, locked, move_into_place, sampled_hash, sync_tree
from modernbert.progress import Progress
from modernbert.search.model_hash import model_hash
from modernbert.search.passages import (
    OFFSETS,
    TEXTS,
    Passages,
    Splitter,
    source_files,
    split_by_characters,
    write_passages,
)
from modernbert.search.stages import STAGES, Bm25Stage, DenseStage, LateStage, Method, SparseStage, Stage
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.sparse import SparseEmbedder

logger = logging.getLogger(__name__)

MANIFEST, BUILDING = "manifest.json", ".modernbert-building"
FORMAT = 1
_INDEX_FILES = (
    TEXTS,
    OFFSETS,
    *(name for one in STAGES.values() for name in one.files),
)
SHARD_PASSAGES = 1024  # a stopped build loses at most one shard
CHUNK_TOKENS = 256


@dataclass(frozen=True)
class Models:
    """Model folders or hub ids of the retrieval stages."""

    dense: str | None = None
    sparse: str | None = None
    late: str | None = None
    bm25: bool = True

    def named(self) -> dict[Method, str]:
        """The stages with a model, and their models."""
        given: dict[Method, str | None] = {"dense": self.dense, "sparse": self.sparse, "late": self.late}
        return {method: str(source) for method, source in given.items() if source}


def build_index(
    sources: Sequence[str],
    output: str | Path,
    models: Models,
    *,
    text_key: str = "text",
    chunk_tokens: int | None = None,
    overlap_tokens: int | None = None,
    device: str = "auto",
    int8: bool = False,
    approximate: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build an index of the texts in files and folders, and return its manifest.

    A stopped build resumes with the same settings. Passages have at most `chunk_tokens` tokens of the first model (256,
    or fewer if a model reads fewer) and share `overlap_tokens` (an eighth of that) with the passage before.
    `approximate` searches dense vectors with a graph (HNSW), for millions of passages.

    Raises:
        DataError: there is no text, or `output` holds another index or other files.
        ConfigError: no stage is selected, or the chunks do not fit the model.
    """
    if not models.named() and not models.bm25:
        raise ConfigError("Name a model (--model, --sparse-model or --late-model), or do not switch BM25 off.")
    output = Path(output)
    settings: dict[str, Any] = {
        "format": FORMAT,
        "sources": [[str(path), *file_record(path)] for path in source_files(sources)],
        "text_key": text_key,
        "chunk_tokens": chunk_tokens,
        "overlap_tokens": overlap_tokens,
        "bm25": models.bm25,
        "int8": int8,
        "approximate": approximate,
        "models": {m: {"path": _absolute(path), "hash": model_hash(path)} for m, path in models.named().items()},
    }
    _check_output(output, overwrite)
    building = output / BUILDING
    building.mkdir(parents=True, exist_ok=True)
    with locked(building):
        manifest = read_manifest(output)
        if manifest is not None:  # another process may have finished it while this one waited for the lock
            shutil.rmtree(building, ignore_errors=True)
            if _same(manifest, settings):
                logger.info("%s is complete already.", output)
                return manifest
            raise DataError(f"{output} holds an index of other texts or models; choose another folder, or --overwrite.")
        _begin(building, settings)
        loaded = open_stages(models, device, int8, approximate)
        count = _write_passages(building, sources, _splitter(loaded, chunk_tokens, overlap_tokens), text_key)
        files = _encode(building, loaded, count)
        return _finish(building, output, loaded, files, settings | {"passages": count})


def open_stages(models: Models, device: str, int8: bool, approximate: bool = False) -> list[Stage]:
    """The stages with their models, loaded."""
    stages: list[Stage] = []
    if models.dense:
        stages.append(DenseStage(Embedder.from_pretrained(models.dense, device=device, int8=int8), approximate))
    if models.sparse:
        stages.append(SparseStage(SparseEmbedder.from_pretrained(models.sparse, device=device, int8=int8)))
    if models.late:
        stages.append(LateStage(MultiVectorEmbedder.from_pretrained(models.late, device=device, int8=int8)))
    return [*stages, *([Bm25Stage()] if models.bm25 else [])]


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_file():
        raise DataError(f"{output} is a file; choose a folder.")
    is_index = read_manifest(output) is not None or (output / BUILDING).is_dir()
    if output.is_dir() and any(output.iterdir()) and not is_index:
        raise DataError(f"{output} holds files that are not an index; choose another folder.")
    if overwrite and is_index:
        for name in (MANIFEST, BUILDING, *_INDEX_FILES):  # the manifest first: without it, the folder is not an index
            _remove(output / name)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an index, or None if there is no index.

    Raises:
        DataError: its manifest.json is damaged, or not the manifest of an index.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("models"), dict) or "format" not in manifest:
        raise DataError(f"{path} is not the manifest of an index; choose another folder.")
    return manifest


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _begin(building: Path, settings: dict[str, Any]) -> None:
    """Write the settings of the build, or check that a resumed build has the same ones."""
    path = building / "wanted.json"
    started = any(building.glob("*.npz")) or (building / "passages").is_dir()
    if started and not _same(json.loads(path.read_text(encoding="utf-8")), settings):
        raise DataError(
            f"{building.parent} was started with other texts or settings; give the same ones again, or --overwrite."
        )
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(settings), encoding="utf-8")  # paths may not be valid Unicode


def _same(manifest: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether an index, complete or not, has the same texts and settings.

    Files with another modification time are the same if their bytes are. Earlier versions recorded no hashes.
    """
    sources = manifest.get("sources")
    if not isinstance(sources, list) or len(sources) != len(settings["sources"]):
        return False
    for old, new in zip(sources, settings["sources"], strict=True):
        content = 3 if len(old) > 3 else 2
        if old[:2] != new[:2] or old[content] != new[content]:
            return False
    return all(manifest.get(key) == settings[key] for key in settings if key != "sources")


def _splitter(stages: Sequence[Stage], chunk_tokens: int | None, overlap_tokens: int | None) -> Splitter:
    models = [stage.model for stage in stages if isinstance(stage, DenseStage | SparseStage | LateStage)]
    if not models:
        return split_by_characters
    max_tokens = min(model.document_tokens for model in models)
    size = min(CHUNK_TOKENS, max_tokens) if chunk_tokens is None else chunk_tokens
    overlap = size // 8 if overlap_tokens is None else overlap_tokens
    if not 16 <= size <= max_tokens or not 0 <= overlap < size // 2:
        raise ConfigError(
            f"Chunks of {size} tokens with an overlap of {overlap} do not fit: these models read {max_tokens} tokens "
            "of a document, a chunk has at least 16, and the overlap is less than half of a chunk."
        )
    model = models[0]
    prompt = model.document_prompt
    return lambda text: [part for part in model.texts.windows(text, prompt, overlap, size) if part.strip()]


def _write_passages(building: Path, sources: Sequence[str], split: Splitter, text_key: str) -> int:
    done = building / "passages"
    if not done.is_dir():
        partial = building / "passages.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_passages(partial, sources, split, text_key)
        move_into_place(partial, done)
    return len(Passages(done))


def _encode(building: Path, stages: Sequence[Stage], count: int) -> dict[Method, list[Path]]:
    passages = Passages(building / "passages")
    files: dict[Method, list[Path]] = {}
    with Progress(total=count * len(stages), unit=" passages", desc="encoding") as bar:
        for stage in stages:
            files[stage.method] = []
            for begin in range(0, count, SHARD_PASSAGES):
                end = min(begin + SHARD_PASSAGES, count)
                path = building / f"{stage.method}-{begin:010d}.npz"
                if not path.is_file():
                    arrays = stage.encode([one.text for one in passages[begin:end]])
                    with atomic_write(path) as partial, partial.open("wb") as file:
                        np.savez(file, **arrays)  # type: ignore[arg-type]
                files[stage.method].append(path)
                bar.update(end - begin)
    return files


def _finish(
    building: Path, output: Path, stages: Sequence[Stage], files: dict[Method, list[Path]], manifest: dict[str, Any]
) -> dict[str, Any]:
    """Merge the shards. The manifest is written last: without it, the folder is not an index."""
    merged = building / "passages"
    for stage in stages:
        stage.merge(files[stage.method], merged)
    sync_tree(merged)
    manifest["files"] = {
        path.relative_to(merged).as_posix(): sampled_hash(path) for path in sorted(merged.rglob("*")) if path.is_file()
    }
    for path in merged.iterdir():
        target = output / path.name
        _remove(target)
        path.replace(target)
    with atomic_write(output / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(building)
    return json.loads(json.dumps(manifest))
