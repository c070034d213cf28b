"""Create a larger model from a smaller one by tiling (arXiv 2412.13663, section 2.3 and appendix A; depth: Gopher).

Every matrix of the small model is placed in the centre of the larger one and wrapped around on both axes. Queries, keys
and values are tiled separately and per head, and so are the two halves of a GeGLU.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import read_json
from modernbert.model.heads import MaskedLM

DepthMap = Literal["same-kind", "published"]


@torch.no_grad()
def grow(small: MaskedLM, config: EncoderConfig, depth_map: DepthMap = "same-kind") -> MaskedLM:
    """A model of shape `config` with the tiled weights of `small`, as a start for further pretraining.

    `published` uses layer round(i * n / N) for layer i, whatever its attention. `same-kind` uses the nearest layer
    with the same kind of attention, so that no layer starts with weights that were trained for the other kind.

    Raises:
        ConfigError: the vocabularies differ, a size would shrink, or the small model lacks a kind of layer.
    """
    old = small.config
    if config.vocab_size != old.vocab_size:
        raise ConfigError(f"Growing keeps the vocabulary of {old.vocab_size}; the new shape has {config.vocab_size}.")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"):
        if getattr(config, name) < getattr(old, name):
            raise ConfigError(f"{name} would shrink from {getattr(old, name)} to {getattr(config, name)}.")
    large = MaskedLM(config)
    layers = depths(old, config, depth_map)
    source = dict(small.named_parameters())
    for name, parameter in large.named_parameters():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            name = f"model.layers.{layers[int(layer)]}.{rest}"
        if name in source:  # the first layer of the small model has no attention norm, so copies of it keep a new one
            parameter.copy_(_tiled(name, source[name], old, config))
    return large


def grow_folder(
    small: str | Path,
    output: str | Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    depth_map: str = "same-kind",
    seed: int = 0,
) -> None:
    """Grow the model of a folder to a preset or the shape in a config.json, and write it with the same tokenizer.

    Raises:
        ConfigError: not exactly one shape is given, or an option has no such value.
        CheckpointError: the model does not exist.
    """
    if (preset is None) == (config is None) or preset not in (None, "base", "large"):
        raise ConfigError("Give the new shape as --preset base, --preset large or --config FILE.")
    if depth_map not in ("same-kind", "published"):
        raise ConfigError(f"There is no depth map {depth_map!r}; choose same-kind or published.")
    model = MaskedLM.from_pretrained(small)
    if config is not None:
        shape = EncoderConfig.from_hf(read_json(config), where=str(config))
    else:
        inherited = [
            *("vocab_size", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "max_position_embeddings"),
            *("global_rope_theta", "local_rope_theta", "local_attention", "attention_output_dropout"),
        ]
        make = EncoderConfig.large if preset == "large" else EncoderConfig.base
        shape = make(**{name: getattr(model.config, name) for name in inherited})
    torch.manual_seed(seed)
    grow(model, shape, depth_map).save_pretrained(output, tokenizer=model.tokenizer_source)  # type: ignore[arg-type]


def depths(old: EncoderConfig, new: EncoderConfig, depth_map: DepthMap) -> list[int]:
    """For each layer of the new model, the layer of the old model with its weights."""
    ratio = old.num_hidden_layers / new.num_hidden_layers
    last = old.num_hidden_layers - 1
    if depth_map == "published":
        return [min(last, round(layer * ratio)) for layer in range(new.num_hidden_layers)]
    if missing := set(new.layer_types) - set(old.layer_types):
        raise ConfigError(f"The small model has no {missing.pop()} layer; choose the published depth map.")
    return [
        min(
            (candidate for candidate in range(last + 1) if old.layer_types[candidate] == kind),
            key=lambda candidate: abs(candidate - layer * ratio),
        )
        for layer, kind in enumerate(new.layer_types)
    ]


def _tiled(name: str, weight: Tensor, old: EncoderConfig, new: EncoderConfig) -> Tensor:
    """A parameter in its new shape: unflatten it so that each axis has one meaning, tile all axes, flatten it again."""
    heads = (old.num_attention_heads, old.head_dim)
    if ".attn.Wqkv." in name:
        axes = weight.unflatten(0, (3, *heads))
        sizes = [3, new.num_attention_heads, new.head_dim, new.hidden_size]
    elif name.endswith(".attn.Wo.weight"):
        axes = weight.unflatten(1, heads)
        sizes = [new.hidden_size, new.num_attention_heads, new.head_dim]
    elif ".mlp.Wi." in name:
        axes = weight.unflatten(0, (2, old.intermediate_size))
        sizes = [2, new.intermediate_size, new.hidden_size]
    elif name.endswith(".mlp.Wo.weight"):
        axes, sizes = weight, [new.hidden_size, new.intermediate_size]
    elif name.startswith("decoder.") or name.endswith("tok_embeddings.weight"):
        axes, sizes = weight, [new.vocab_size, new.hidden_size]
    else:
        axes, sizes = weight, [new.hidden_size] * weight.dim()
    for axis, size in zip(range(axes.dim()), sizes, strict=False):
        axes = axes.index_select(axis, _centred(axes.shape[axis], size))
    if ".attn.Wqkv." in name:
        return axes.flatten(0, 2)
    return axes.flatten(0, 1) if ".mlp.Wi." in name else axes.flatten(1) if axes.dim() > 1 else axes


def _centred(old: int, new: int) -> Tensor:
    """For each index of the larger axis, the index of the smaller one: a copy in the centre, wrapped around."""
    return (torch.arange(new) - (new - old) // 2) % old
