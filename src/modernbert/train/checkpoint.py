"""Training checkpoints: model folders with a `training/` folder inside, written aside and renamed, never pickled.

checkpoints/step-00000500/
    config.json  model.safetensors  tokenizer...      a model that loads anywhere
    training/state.json  training/optimizer.safetensors  training/recipe.toml
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from modernbert.errors import CheckpointError
from modernbert.model import MaskedLM
from modernbert.train.optimizer import StableAdamW

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    directory: Path,
    step: int,
    *,
    model: MaskedLM,
    optimizer: StableAdamW,
    state: dict[str, Any],
    recipe: str,
    tokenizer: Path | None,
    keep: int,
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`. Returns its folder."""
    target = directory / f"step-{step:08d}"
    partial = directory / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, tokenizer=tokenizer)
    training = partial / "training"
    training.mkdir()
    save_file(_moments(model, optimizer), training / "optimizer.safetensors")
    (training / "recipe.toml").write_text(recipe, encoding="utf-8")
    (training / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in folders(directory)[:-keep]:
        shutil.rmtree(old)
    return target


def folders(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-*") if (path / "training" / "state.json").is_file())


def restore(folder: Path, model: MaskedLM, optimizer: StableAdamW) -> dict[str, Any]:
    """Bring model and optimizer to what they were when the checkpoint was written. Returns its state.

    Raises:
        CheckpointError: the checkpoint is damaged or of another model.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "training" / "state.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        moments = load_file(folder / "training" / "optimizer.safetensors")
        missing, unexpected = model.load_state_dict(weights, strict=False)
        model.tie_weights()
        if unexpected or set(missing) - {"decoder.weight"}:
            raise KeyError([*missing, *unexpected][0])
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {"step": state["step"]} | {
                moment: moments[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS
            }
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {folder} is damaged ({error}); remove it to go on from the one before."
        ) from None
    return state


def _moments(model: nn.Module, optimizer: StableAdamW) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment].contiguous()
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }
