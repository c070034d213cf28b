"""The measured models: presets with random weights, or model folders."""

import json
import math
from pathlib import Path
from typing import TypeVar

import torch

from modernbert.errors import ConfigError
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.runtime import Precision

PRESETS = {
    "mini": EncoderConfig(
        vocab_size=16_384, hidden_size=256, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4
    ),
    "base": EncoderConfig.base(),
    "large": EncoderConfig.large(),
    "28m": EncoderConfig(
        vocab_size=16_384, hidden_size=448, intermediate_size=672, num_hidden_layers=12, num_attention_heads=7
    ),
    "tiny": EncoderConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2
    ),
}

_Model = TypeVar("_Model", Encoder, MaskedLM)


def make_model(kind: type[_Model], model: str, device: torch.device | None = None) -> _Model:
    """A preset with random weights, or the model of a folder, in fp32 on a device (default: the CPU).

    Random weights are generated on the device, which is fast on a GPU.

    Raises:
        ConfigError: `model` is neither a preset nor a model folder.
    """
    if model in PRESETS:
        torch.manual_seed(0)
        with device or torch.device("cpu"):
            made = kind(PRESETS[model])
        _strengthen_attention(made)
        return made.eval()
    _check_folder(model)
    return kind.from_pretrained(model, dtype=torch.float32).to(device or "cpu")


def model_config(model: str) -> EncoderConfig:
    """The configuration of a preset or of a model folder.

    Raises:
        ConfigError: `model` is neither a preset nor a model folder.
    """
    if model in PRESETS:
        return PRESETS[model]
    _check_folder(model)
    return EncoderConfig.from_hf(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")))


def _check_folder(model: str) -> None:
    if not (Path(model) / "config.json").is_file():
        raise ConfigError(
            f"There is no preset or model folder {model!r}; choose {', '.join(PRESETS)}, or a folder with a "
            "config.json."
        )


def describe(model: str, config: EncoderConfig) -> str:
    """A one-line description of a model, without the path of its folder."""
    name = f"{model}, random weights" if model in PRESETS else Path(model).resolve().name
    sizes = f"{config.num_hidden_layers} layers, {config.hidden_size} wide, vocabulary {config.vocab_size:,}"
    return f"{name}: {sizes}"


def check_dtype(name: str) -> Precision:
    """The precision with this name.

    Raises:
        ConfigError: the name is neither bf16 nor fp32.
    """
    if name == "bf16":
        return "bf16"
    if name == "fp32":
        return "fp32"
    raise ConfigError(f"There is no dtype {name!r}; choose bf16 or fp32.")


@torch.no_grad()
def _strengthen_attention(model: Encoder | MaskedLM) -> None:
    """Scale random weights so that attention changes the output enough for a comparison to detect mistakes.

    With the initial weights of base at 512 tokens, an encoder without windows differs from the correct one by 1.2 %, as
    much as bf16 does, so a comparison would not detect it. With the scaled weights it differs by 31 %. An encoder with
    a window that is one token too short differs by 3.9 %, and bf16 by 1.4 %.
    """
    width = math.sqrt(EncoderConfig.base().hidden_size / model.config.hidden_size)  # same magnitudes as in base
    for name, parameter in model.named_parameters():
        if name.endswith("Wqkv.weight"):
            parameter.mul_(width)
            parameter[: 2 * model.config.hidden_size].mul_(4)  # queries and keys
        elif name.endswith("Wi.weight"):
            parameter.mul_(width)
        elif name.endswith("Wo.weight"):
            parameter.mul_(3 * width)
