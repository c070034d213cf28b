"""Checkpoints of the ModernBERT research code (FlexBERT under Composer), read without unpickling code."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.errors import CheckpointError, ConfigError
from modernbert.model.checkpoint import TOKENIZER_FILES, find_folder
from modernbert.model.config import EncoderConfig
from modernbert.model.heads import MaskedLM

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
# the research code's names on the left, those of every model folder on the right
_RENAMES = (
    (re.compile(r"^model\.bert\.encoder\.layers\."), "model.layers."),
    (re.compile(r"^model\.bert\."), "model."),
    (re.compile(r"^model\.(head|decoder)\."), r"\1."),
    (re.compile(r"^bert\.encoder\.layers\."), "model.layers."),
    (re.compile(r"^bert\."), "model."),
)


def import_research_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    preset: str = "base",
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> MaskedLM:
    """Write the model folder of a research checkpoint, and return its model.

    The file is read with `weights_only=True`, so nothing in it can run. Sizes come from the tensors; the number of
    heads, the layer pattern and the RoPE thetas from `config` (a config.json) or from the preset.

    Raises:
        CheckpointError: the file cannot be read safely, or its tensors do not make a MaskedLM.
        ConfigError: there is no such preset, or `config` is wrong.
    """
    tensors = {_rename(name): x for name, x in _weights(Path(checkpoint)).items()}
    shape = _configuration(tensors, preset, config)
    with torch.device("meta"):
        model = MaskedLM(shape)
    tensors = {name: x for name, x in tensors.items() if name not in model.tied}
    wanted = model.state_dict().keys() - model.tied
    problems = [f"missing {name}" for name in sorted(wanted - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted)]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"{checkpoint} does not hold a MaskedLM: {shown}.")
    try:
        model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint} does not fit its configuration: {error}") from None
    model.tie_weights()
    source = None
    if tokenizer is not None:
        source = Path(tokenizer) if (Path(tokenizer) / TOKENIZER_FILES[0]).is_file() else find_folder(tokenizer)
    model.save_pretrained(output, tokenizer=source)
    return model.eval()


def _weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}: give the .pt file of the research trainer.")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it holds {named[1]}" if named else "it holds more than tensors"
        raise CheckpointError(
            f"{path} cannot be read safely: {what}; save only its state['state']['model'] with torch.save first."
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {str(error).partition(chr(10))[0]}") from None
    for key in ("state", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(x, Tensor) for x in state.values()):
        raise CheckpointError(f"{path} holds no tensors under state['state']['model'].")
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}


def _rename(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    for old, new in _RENAMES:
        name, found = old.subn(new, name)
        if found:
            break
    return name


def _configuration(tensors: dict[str, Tensor], preset: str, config: str | Path | None) -> EncoderConfig:
    if config is not None:
        try:
            return EncoderConfig.from_hf(json.loads(Path(config).read_text(encoding="utf-8")), where=str(config))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{config} cannot be read: {error}.") from None
    if preset not in ("base", "large"):
        raise ConfigError(f"There is no preset {preset!r}; choose base or large, or give --config.")
    try:
        vocab_size, hidden_size = tensors["model.embeddings.tok_embeddings.weight"].shape
        intermediate_size = tensors["model.layers.0.mlp.Wo.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"The checkpoint has no {error.args[0]}; is it of the research code?") from None
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("model.layers."))
    make = EncoderConfig.large if preset == "large" else EncoderConfig.base
    return make(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        decoder_bias="decoder.bias" in tensors,
    )
