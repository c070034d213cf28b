"""The output folder of a fine-tuning run: check which run it belongs to, and protect other files.

recipe.toml   the complete recipe, as written by `modernbert`
inputs.json   the hashes of the initial model and of the data
training/     checkpoints of the seeds, until the run is complete
report.json   and the model, its report and figures, after that
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from modernbert import config as toml
from modernbert.errors import ConfigError
from modernbert.files import LOCK, atomic_directory, atomic_write, complete_pending_write, file_hash
from modernbert.model.folder import TOKENIZER_FILES
from modernbert.text.documents import find_files
from modernbert.text.records import Source
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.ranking_recipe import RankingRecipe
from modernbert.train.run_folder import holds_run, remove_run
from modernbert.train.trackers import Tracking

FAILED = "failed.txt"  # in the folder of a failed run: the reason
_MODEL = ("config.json", "tokenizer.json")  # beside the weights
_MODULES = ("[0-9]_*", "query_[0-9]_*", "document_[0-9]_*")  # folders, as sentence-transformers names them
_OWN = ("recipe.toml", "inputs.json", "training", "tensorboard", FAILED, LOCK)
_RESULTS = (
    "report.json", "report.md", "predictions.jsonl", "metrics.jsonl", "learning-curve.png", "confusion.png",
    "numbers.png", "model.safetensors", "config.json", *TOKENIZER_FILES,
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip

Recipe = FinetuneRecipe | RankingRecipe


def claim_folder(recipe: Recipe, results: str = "report.json", overwrite: bool = False, shared: bool = False) -> None:
    """Prepare the folder of a run, or check that it is the one of this recipe and these data.

    A run has begun when it has a checkpoint, has failed, or has the file `results`. With `overwrite` it is removed.
    A `shared` folder may hold other files besides those of a new run.

    Raises:
        ConfigError: the folder holds a run of another recipe, model or data, or files that are not of a run.
        DataError: a file of the data is missing.
    """
    folder, path = recipe.output, recipe.output / "recipe.toml"
    complete_pending_write(folder)
    kind = type(recipe)
    removed = overwrite and remove_finetuning(folder, kind)
    over = any((folder / name).exists() for name in (results, FAILED))
    if path.exists() and (over or any(folder.glob("training/seed-*/checkpoints/*"))):
        old = toml.load(kind, path)
        for name in kind.model_fields:
            if name not in ("output", "machine", "search") and getattr(old, name) != getattr(recipe, name):
                raise ConfigError(
                    f"{folder} holds a run whose {name} differs from this recipe; choose another output, resume "
                    "it with the recipe.toml in it, or replace it with --overwrite."
                )
        hashes = input_hashes(recipe)
        old_hashes = _read_hashes(folder)
        if changed := [name for name in hashes if old_hashes.get(name, hashes[name]) != hashes[name]]:
            raise ConfigError(
                f"{folder} holds a run whose {' and '.join(changed)} changed since; choose another output, or "
                "replace it with --overwrite."
            )
        return
    if not removed and not shared:
        _check_free(folder, kind)
    for name, text in {
        "recipe.toml": toml.dump(recipe),
        "inputs.json": json.dumps(input_hashes(recipe), indent=2),
    }.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def remove_finetuning(folder: Path, kind: type[Recipe] = FinetuneRecipe) -> bool:
    """Remove the files of a run; others stay. Returns whether there was a run.

    Raises:
        ConfigError: another process works in the folder, or its recipe.toml is not that of a run.
    """
    return remove_run(folder, kind, [*_RESULTS, "training", "tensorboard", FAILED, "inputs.json"])


def check_replaceable(folder: Path) -> None:
    """Check that `claim_folder` with `overwrite` accepts a folder.

    Raises:
        ConfigError: the folder holds files that are not of a run.
    """
    if not holds_run(folder, FinetuneRecipe):
        _check_free(folder, FinetuneRecipe)


def _check_free(folder: Path, kind: type[Recipe]) -> None:
    if folder.exists() and (not folder.is_dir() or not _abandoned(folder, kind)):
        raise ConfigError(f"{folder} is not empty and holds no run; choose another output.")


@contextmanager
def replaced_results(recipe: Recipe) -> Iterator[Path]:
    """A new folder whose files replace those of the run. Other files in the folder stay."""
    with atomic_directory(recipe.output, owned_names=("training", FAILED)) as partial:
        yield partial


def tracking_of(recipe: Recipe, seed: int) -> Tracking:
    """How a seed of a run appears in trackers. TensorBoard's files are in the output folder."""
    machine = recipe.machine
    return Tracking(
        machine.trackers,
        machine.project,
        f"{recipe.output.name}-seed-{seed}",
        recipe.output / "training" / f"seed-{seed}",
        recipe.model_dump(mode="json"),
        events=recipe.output / "tensorboard" / f"seed-{seed}",
    )


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """One hash for each data set, over its files, and one for the model; none for those of the hub.

    Raises:
        DataError: a file is missing.
    """
    files = _ranking_files(recipe) if isinstance(recipe, RankingRecipe) else _files(recipe)
    model = Path(recipe.model)
    files["model"] = sorted(path for path in model.glob("*") if path.name in _MODEL or path.suffix == ".safetensors")
    modules = (path for folder in _MODULES for path in model.glob(f"{folder}/*"))
    files["modules of the model"] = sorted(path for path in modules if path.suffix in (".json", ".safetensors"))
    return {name: _hash_all(paths) for name, paths in files.items() if paths}


def _files(recipe: FinetuneRecipe) -> dict[str, list[Path]]:
    data = recipe.data
    return _of_sources({"train": data.train, "validation": data.validation, "test": data.test})


def _ranking_files(recipe: RankingRecipe) -> dict[str, list[Path]]:
    data = recipe.data
    columns = data.columns
    files = _of_sources({"train": data.train, "queries": columns.queries_from, "documents": columns.documents_from})
    for path in {*data.collections, *data.documents, *([data.validation] if data.validation else [])}:
        folder = Path(path)
        contents = sorted(one for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else [folder]
        files[path] = [one for one in contents if one.is_file()]  # otherwise it is a hub id
    return files


def _of_sources(sources: Mapping[str, Source | None]) -> dict[str, list[Path]]:
    return {
        name: list(find_files([source.path]))
        for name, source in sources.items()
        if source is not None and source.format != "hub"
    }


def _hash_all(paths: Sequence[Path]) -> str:
    hashes = [_hash(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


@lru_cache(maxsize=1024)
def _hash(path: Path, size: int, changed: int) -> str:
    """The hash of a file, cached by its size and time of change."""
    return file_hash(path)


def _read_hashes(folder: Path) -> dict[str, str]:
    """The hashes at the start of a run; none if the run is of a version that did not write them."""
    path = folder / "inputs.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _abandoned(folder: Path, kind: type[Recipe]) -> bool:
    """Whether a folder is empty, or holds what a run writes before its first checkpoint, and no results.

    Other files may lie beside a recipe.toml with its inputs.json, if the files of an earlier run were removed.
    """
    names = {entry.name for entry in folder.iterdir()}
    path = folder / "recipe.toml"
    if not path.exists():
        return names <= {LOCK}
    if names.intersection(_RESULTS) or ("inputs.json" not in names and not names <= set(_OWN)):
        return False
    try:
        return path.read_text(encoding="utf-8") == toml.dump(toml.load(kind, path))
    except ConfigError:
        return False
