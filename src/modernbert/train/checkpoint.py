"""Training checkpoints: model folders with a `training/` folder inside, written aside and renamed, never pickled.

checkpoints/step-00000500/
    config.json  model.safetensors  tokenizer...      a model that loads anywhere
    training/state.json  training/optimizer.safetensors  training/recipe.toml
    training/sha256.json                              the hash of every other file
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from modernbert.errors import CheckpointError
from modernbert.model import MaskedLM
from modernbert.train.optimizer import StableAdamW

logger = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest, the best by validation loss, and the first after every so many tokens."""

    last: int
    best: int = 0
    every_tokens: int | None = None


def save(
    directory: Path,
    *,
    model: MaskedLM,
    optimizer: StableAdamW,
    state: dict[str, Any],
    recipe: str,
    tokenizer: Path | None,
    keep: Keep,
) -> Path:
    """Write the checkpoint of `state["step"]`, then remove those that `keep` does not name. Returns its folder.

    `state` also has `tokens` and `validation_loss` (None where none was measured at this step).

    Raises:
        CheckpointError: the disk is full or cannot be written; what was there before is untouched.
    """
    target = directory / f"step-{state['step']:08d}"
    partial = directory / f".{target.name}.partial"
    older = folders(directory)
    seen = _state(older[-1])["tokens"] if older else 0
    milestone = keep.every_tokens is not None and state["tokens"] // keep.every_tokens > seen // keep.every_tokens
    try:
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial, tokenizer=tokenizer)
        training = partial / "training"
        training.mkdir()
        save_file(_moments(model, optimizer), training / "optimizer.safetensors")
        (training / "recipe.toml").write_text(recipe, encoding="utf-8")
        (training / "state.json").write_text(json.dumps(state | {"milestone": milestone}, indent=2), encoding="utf-8")
        (training / "sha256.json").write_text(json.dumps(_hashes(partial), indent=2), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint of step {state['step']} could not be written ({error}); make room in {directory} and give "
            "the same command again, which goes on from the one before."
        ) from None
    _prune(folders(directory), keep)
    return target


def folders(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-*") if (path / "training" / "state.json").is_file())


def newest(directory: Path) -> Path | None:
    """The newest checkpoint whose files all have the hash they were written with. A damaged one is named and set aside.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    found = folders(directory)
    for folder in reversed(found):
        if damaged := _damage(folder):
            logger.warning("The checkpoint %s is damaged (%s); it is set aside for the one before.", folder, damaged)
            folder.rename(folder.with_name(f"damaged-{folder.name}"))
        else:
            return folder
    if found or any(directory.glob("damaged-*")):
        raise CheckpointError(f"Every checkpoint in {directory} is damaged; start anew in another run.directory.")
    return None


def best(directory: Path, count: int) -> list[Path]:
    """The checkpoints with the lowest validation loss, best first."""
    measured = [
        (loss, path) for path in folders(directory) if (loss := _state(path).get("validation_loss")) is not None
    ]
    return [path for _, path in sorted(measured)[:count]]


def _prune(found: list[Path], keep: Keep) -> None:
    stays = {*found[-keep.last :], *(best(found[0].parent, keep.best) if keep.best else [])}
    stays |= {path for path in found if _state(path).get("milestone")}
    for path in found:
        if path not in stays:
            shutil.rmtree(path)


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "training" / "state.json").read_text(encoding="utf-8"))
    return state


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "sha256.json"):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _damage(folder: Path) -> str | None:
    """The first file that is missing or changed, or None."""
    try:
        written: dict[str, str] = json.loads((folder / "training" / "sha256.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "training/sha256.json cannot be read"
    now = _hashes(folder)
    return next((name for name, digest in written.items() if now.get(name) != digest), None)


def restore(folder: Path, model: MaskedLM, optimizer: StableAdamW) -> dict[str, Any]:
    """Bring model and optimizer to what they were when the checkpoint was written. Returns its state.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    try:
        state = _state(folder)
        weights = load_file(folder / "model.safetensors")
        moments = load_file(folder / "training" / "optimizer.safetensors")
        missing, unexpected = model.load_state_dict(weights, strict=False)
        model.tie_weights()
        if unexpected or set(missing) - model.tied:
            raise KeyError([*missing, *unexpected][0])
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {"step": state["step"]} | {
                moment: moments[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS
            }
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {folder} is not of this model: {error}.") from None
    return state


def _moments(model: nn.Module, optimizer: StableAdamW) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment].contiguous()
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }
