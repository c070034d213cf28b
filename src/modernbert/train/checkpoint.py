"""Training checkpoints: model folders with a `training/` folder inside, written atomically, without pickle.

checkpoints/step-00000500/
    config.json  model.safetensors  tokenizer...      a model that loads anywhere
    training/state.json  training/optimizer.safetensors  training/recipe.toml
    training/sha256.json                              the hash of every other file
"""

import hashlib
import json
import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modernbert.errors import CheckpointError
from modernbert.files import atomic_directory, complete_pending_write
from modernbert.model import EncoderConfig
from modernbert.model.folder import Pretrained, read_json, write_files
from modernbert.train.distributed import distribute_like, gather_to_cpu
from modernbert.train.optimizer import StableAdamW

logger = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints are kept: the newest, the best by validation loss, and one every `every_tokens` tokens.

    That of the end of a phase is always kept, as the start for another decay or context extension.
    """

    last: int
    best: int = 0
    every_tokens: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint, on the CPU and independent of further training.

    `state` has `step`, `tokens`, `phase_end`, `validation_loss` (None if not measured) and others.
    """

    architecture: str
    config: EncoderConfig
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: dict[str, Any]

    @classmethod
    def of(cls, model: Pretrained, optimizer: StableAdamW, state: dict[str, Any], copied: bool) -> "Snapshot":
        """The current state. With sharding, all processes must call this; those that do not write need no copy."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            trained = optimizer.state.get(parameter)  # a frozen parameter has no moments
            parameter_moments = {moment: gather_to_cpu(trained[moment]) for moment in _MOMENTS} if trained else {}
            value = gather_to_cpu(parameter)
            if copied:
                weights[name] = value
                moments |= {f"{name}.{moment}": x for moment, x in parameter_moments.items()}
        return cls(model.architecture, model.config, weights, moments, state)


class Checkpoints:
    """The checkpoints of a run. They are written in the background, one at a time."""

    def __init__(self, directory: Path, recipe: str, tokenizer: Path, keep: RetentionPolicy) -> None:
        self.directory = directory
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Start writing a checkpoint after the previous one is written, whose errors are raised here or in `wait`.

        Raises:
            CheckpointError: the previous one could not be written; older ones are unchanged.
        """
        self.wait()
        self._writing = self._writer.submit(_write, self.directory, snapshot, self._recipe, self._tokenizer, self._keep)

    def wait(self) -> None:
        """Wait until the checkpoint is written.

        Raises:
            CheckpointError: it could not be written; older ones are unchanged.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _write(directory: Path, snapshot: Snapshot, recipe: str, tokenizer: Path, keep: RetentionPolicy) -> Path:
    """Write a checkpoint, then remove those that the policy does not keep. Returns its folder."""
    state = snapshot.state
    target = directory / f"step-{state['step']:08d}"
    older = folders(directory)
    previous_tokens = _state(older[-1])["tokens"] if older else 0
    milestone = state["phase_end"]
    if keep.every_tokens is not None:
        milestone |= state["tokens"] // keep.every_tokens > previous_tokens // keep.every_tokens
    try:
        with atomic_directory(target) as partial:
            write_files(partial, snapshot.architecture, snapshot.config, snapshot.weights, tokenizer)
            training = partial / "training"
            training.mkdir()
            save_file(snapshot.moments, training / "optimizer.safetensors")
            (training / "recipe.toml").write_text(recipe, encoding="utf-8")
            values = state | {"milestone": milestone}
            (training / "state.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
            (training / "sha256.json").write_text(json.dumps(_hashes(partial), indent=2), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint of step {state['step']} could not be written ({error}); free space in {directory} and "
            "give the same command again, which resumes from the previous checkpoint."
        ) from None
    _prune(folders(directory), keep)
    return target


def folders(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-*") if (path / "training" / "state.json").is_file())


def newest(directory: Path) -> Path | None:
    """The newest checkpoint whose files have their recorded hashes. A damaged one is logged and renamed.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    checkpoints = folders(directory)
    for folder in checkpoints:
        complete_pending_write(folder)
    for folder in reversed(checkpoints):
        if damage := _damage(folder):
            logger.warning(
                "The checkpoint %s is damaged (%s); it is renamed, and the previous one is used.", folder, damage
            )
            names = (f"damaged-{folder.name}{ending}" for ending in ("", *(f"-{number}" for number in range(2, 1000))))
            folder.rename(next(path for name in names if not (path := folder.with_name(name)).exists()))
        else:
            return folder
    if checkpoints or any(directory.glob("damaged-*")):
        raise CheckpointError(f"Every checkpoint in {directory} is damaged; start again in another run.directory.")
    return None


def best(directory: Path, count: int) -> list[Path]:
    """The checkpoints of the newest phase with the lowest validation loss, best first.

    Phases are not compared, as each is measured on its own sources and length.
    """
    states = {path: _state(path) for path in folders(directory)}
    phase = max((state["phase"] for state in states.values()), default=0)
    measured = [
        (state["validation_loss"], path)
        for path, state in states.items()
        if state["phase"] == phase and state["validation_loss"] is not None
    ]
    return [path for _, path in sorted(measured)[:count]]


def phase_ends(directory: Path) -> dict[int, Path]:
    """The checkpoint at the end of each finished phase, by the number of the phase from 0."""
    states = ((path, _state(path)) for path in folders(directory))
    return {state["phase"]: path for path, state in states if state.get("phase_end")}


def _prune(checkpoints: list[Path], keep: RetentionPolicy) -> None:
    kept = {*checkpoints[-keep.last :], *(best(checkpoints[0].parent, keep.best) if keep.best else [])}
    kept |= {path for path in checkpoints if _state(path).get("milestone")}
    for path in checkpoints:
        if path not in kept:
            shutil.rmtree(path)


def _state(folder: Path) -> dict[str, Any]:
    state = read_json(folder / "training" / "state.json")
    if missing := {"step", "tokens", "phase", "validation_loss"} - state.keys():
        raise CheckpointError(f"The checkpoint {folder} is damaged: its state.json has no {min(missing)}; remove it.")
    return state


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "sha256.json"):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _damage(folder: Path) -> str | None:
    """The first file that is missing or changed, or None."""
    try:
        recorded = read_json(folder / "training" / "sha256.json")
    except CheckpointError:
        return "training/sha256.json cannot be read"
    if "training/state.json" not in recorded:
        return "training/sha256.json does not name training/state.json"
    current = _hashes(folder)
    return next((name for name, digest in recorded.items() if current.get(name) != digest), None)


@torch.no_grad()
def restore_weights(folder: Path, model: Pretrained) -> dict[str, Any]:
    """Load the weights of a checkpoint into a model, before it is sharded. Returns the checkpoint's state.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    try:
        state = _state(folder)
        missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        model.tie_weights()
        if unexpected or set(missing) - model.tied:
            raise KeyError([*missing, *unexpected][0])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"The checkpoint {folder} is not of this model: {reason}.") from None
    return state


@torch.no_grad()
def restore_moments(folder: Path, model: Pretrained, optimizer: StableAdamW) -> None:
    """Load the moments of a checkpoint into the optimizer of a model, sharded or not.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    try:
        step = _state(folder)["step"]
        moments = load_file(folder / "training" / "optimizer.safetensors")
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter_moments = {moment: distribute_like(parameter, moments[f"{name}.{moment}"]) for moment in _MOMENTS}
            optimizer.state[parameter] = {"step": step} | parameter_moments
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {folder} is not of this model: {error}.") from None
