"""Checks of a run directory: one process at a time uses it, always with the same data and tokenizer."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from modernbert import config as toml
from modernbert.config import Config
from modernbert.errors import ConfigError
from modernbert.files import atomic_write, in_use
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import sha256
from modernbert.train.recipe import PretrainRecipe

_INPUTS = "inputs.json"


def remove_run(directory: Path, kind: type[Config], own: Sequence[str]) -> bool:
    """Remove a run, so that another one can take its place: the files and folders `own`, recipe.toml last.

    Other files stay. Without a recipe.toml there is no run, and nothing is removed. Returns whether there was a run.

    Raises:
        ConfigError: another process works in the directory, or its recipe.toml is not that of a run.
    """
    if not holds_run(directory, kind):
        return False
    with in_use(directory):
        for name in (*own, "recipe.toml"):
            if (directory / name).is_dir() and not (directory / name).is_symlink():
                shutil.rmtree(directory / name)
            else:
                (directory / name).unlink(missing_ok=True)
    return True


def holds_run(directory: Path, kind: type[Config]) -> bool:
    """Whether a directory has the recipe.toml of a run.

    Raises:
        ConfigError: its recipe.toml is not that of a run.
    """
    path = directory / "recipe.toml"
    if not path.exists():
        return False
    try:
        written_here = path.read_text(encoding="utf-8") == toml.dump(toml.load(kind, path))
    except ConfigError:
        written_here = False
    if not written_here:
        raise ConfigError(f"{path} is not the recipe of a run, so nothing is overwritten; choose another folder.")
    return True


def check_inputs(recipe: PretrainRecipe) -> None:
    """Check that an existing run still has the same shards and tokenizer; record their hashes for a new one.

    Raises:
        ConfigError: some were rebuilt or replaced; the message names them.
        DataError: there is no such shard folder or tokenizer.
    """
    path = recipe.run.directory / _INPUTS
    hashes = {f"data.{name}": Shards.open(data.path).fingerprint() for name, data in recipe.data.items()}
    hashes["tokenizer"] = sha256(recipe.tokenizer)
    begun = any((recipe.run.directory / "checkpoints").glob("step-*"))
    if begun and path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name in hashes if old.get(name, hashes[name]) != hashes[name]]
        except (ValueError, AttributeError):
            raise ConfigError(f"{path} is damaged; remove it to continue with the current data.") from None
        if changed:
            raise ConfigError(
                f"{recipe.run.directory} holds a run whose {' and '.join(changed)} changed since its start, so it "
                "would read other documents in another order: restore the old files, choose another run.directory, "
                f"or remove {path} to continue anyway."
            )
        return
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
