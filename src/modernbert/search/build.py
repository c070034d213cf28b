"""Build an index, shard by shard; after a stop it goes on where it was."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write, file_record, locked, move_into_place, sync_tree
from modernbert.progress import Progress
from modernbert.search.model_hash import model_hash
from modernbert.search.passages import OFFSETS, TEXTS, Cutter, Passages, cut_characters, source_files, write_passages
from modernbert.search.stages import DenseStage, LateStage, Method, SparseStage, Stage, WordStage
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.sparse import SparseEmbedder

logger = logging.getLogger(__name__)

MANIFEST, BUILDING = "manifest.json", ".modernbert-building"
FORMAT = 1
_OWN = (TEXTS, OFFSETS, *(name for one in (DenseStage, SparseStage, LateStage, WordStage) for name in one.files))
PASSAGES_AT_ONCE = 1024  # of a shard, which is what a stop can lose
CHUNK_TOKENS = 256


@dataclass(frozen=True)
class Models:
    """Model folders or hub ids of the first stages."""

    dense: str | None = None
    sparse: str | None = None
    late: str | None = None
    bm25: bool = True

    def named(self) -> dict[Method, str]:
        """The models of the stages that have one."""
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
    """Make an index of the texts in files and folders; its manifest.

    A stopped build with the same settings goes on. Passages have at most `chunk_tokens` tokens of the first model, 256
    unless one of the models reads fewer, and share `overlap_tokens`, an eighth of that, with the one before.
    `approximate` searches the dense vectors by a graph, for millions.

    Raises:
        DataError: there is no text, `output` holds another index, or what is no index.
        ConfigError: no stage is wanted, or the chunks do not fit the model.
    """
    if not models.named() and not models.bm25:
        raise ConfigError("Name a model (--model, --sparse-model or --late-model), or leave BM25 on.")
    output = Path(output)
    wanted: dict[str, Any] = {
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
        if manifest is not None:  # also of another process that was waited for
            shutil.rmtree(building, ignore_errors=True)
            if _same(manifest, wanted):
                logger.info("%s is complete already.", output)
                return manifest
            raise DataError(f"{output} holds an index of other texts or models; choose another folder, or --overwrite.")
        _begin(building, wanted)
        loaded = open_stages(models, device, int8, approximate)
        count = _write_passages(building, sources, _cutter(loaded, chunk_tokens, overlap_tokens), text_key)
        files = _encode(building, loaded, count)
        return _finish(building, output, loaded, files, wanted | {"passages": count})


def open_stages(models: Models, device: str, int8: bool, approximate: bool = False) -> list[Stage]:
    """The stages with their models, loaded."""
    found: list[Stage] = []
    if models.dense:
        found.append(DenseStage(Embedder.from_pretrained(models.dense, device=device, int8=int8), approximate))
    if models.sparse:
        found.append(SparseStage(SparseEmbedder.from_pretrained(models.sparse, device=device, int8=int8)))
    if models.late:
        found.append(LateStage(MultiVectorEmbedder.from_pretrained(models.late, device=device, int8=int8)))
    return [*found, *([WordStage()] if models.bm25 else [])]


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_file():
        raise DataError(f"{output} is a file; choose a folder.")
    ours = read_manifest(output) is not None or (output / BUILDING).is_dir()
    if output.is_dir() and any(output.iterdir()) and not ours:
        raise DataError(f"{output} holds something that is no index; choose another folder.")
    if overwrite and ours:
        for name in (MANIFEST, BUILDING, *_OWN):  # without its manifest it is no index any more
            _remove(output / name)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an index, or None if there is no index.

    Raises:
        DataError: its manifest.json is damaged, or that of something else.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("models"), dict) or "format" not in found:
        raise DataError(f"{path} is not that of an index; choose another folder.")
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _begin(building: Path, wanted: dict[str, Any]) -> None:
    """Keep what is being built, or see that it is the same as before the stop."""
    path = building / "wanted.json"
    begun = any(building.glob("*.npz")) or (building / "passages").is_dir()
    if begun and not _same(json.loads(path.read_text(encoding="utf-8")), wanted):
        raise DataError(
            f"{building.parent} was begun with other texts or settings; give the same ones again, or --overwrite."
        )
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(wanted), encoding="utf-8")  # paths may be no valid Unicode


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether an index is made, or begun, of the same texts and with the same settings.

    Files with other times of change are the same if their bytes are. An earlier version recorded no hashes of them.
    """
    sources = found.get("sources")
    if not isinstance(sources, list) or len(sources) != len(wanted["sources"]):
        return False
    for old, new in zip(sources, wanted["sources"], strict=True):
        content = 3 if len(old) > 3 else 2
        if old[:2] != new[:2] or old[content] != new[content]:
            return False
    return all(found.get(key) == wanted[key] for key in wanted if key != "sources")


def _cutter(stages: Sequence[Stage], chunk_tokens: int | None, overlap_tokens: int | None) -> Cutter:
    models = [stage.model for stage in stages if isinstance(stage, DenseStage | SparseStage | LateStage)]
    if not models:
        return cut_characters
    most = min(model.document_tokens for model in models)
    size = min(CHUNK_TOKENS, most) if chunk_tokens is None else chunk_tokens
    shared = size // 8 if overlap_tokens is None else overlap_tokens
    if not 16 <= size <= most or not 0 <= shared < size // 2:
        raise ConfigError(
            f"Chunks of {size} tokens with {shared} shared ones do not fit: these models read {most} tokens of a "
            "document, and less than half of a chunk can be shared."
        )
    model = models[0]
    prompt = model.document_prompt
    return lambda text: [part for part in model.texts.windows(text, prompt, shared, size) if part.strip()]


def _write_passages(building: Path, sources: Sequence[str], cut: Cutter, text_key: str) -> int:
    done = building / "passages"
    if not done.is_dir():
        partial = building / "passages.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_passages(partial, sources, cut, text_key)
        move_into_place(partial, done)
    return len(Passages(done))


def _encode(building: Path, stages: Sequence[Stage], count: int) -> dict[Method, list[Path]]:
    passages = Passages(building / "passages")
    files: dict[Method, list[Path]] = {}
    with Progress(total=count * len(stages), unit=" passages", desc="encoding") as bar:
        for stage in stages:
            files[stage.method] = []
            for begin in range(0, count, PASSAGES_AT_ONCE):
                end = min(begin + PASSAGES_AT_ONCE, count)
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
    """Merge the shards; the manifest comes last, and without it there is no index."""
    merged = building / "passages"
    for stage in stages:
        stage.merge(files[stage.method], merged)
    sync_tree(merged)
    for path in merged.iterdir():
        target = output / path.name
        _remove(target)
        path.replace(target)
    with atomic_write(output / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(building)
    return json.loads(json.dumps(manifest))
