"""Checkpoints of the ModernBERT research code (FlexBERT with Composer), read without running pickled code."""

import datetime
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import CheckpointError, ConfigError
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import TOKENIZER_FILES, check_numbers, common_dtype, find_folder, read_json
from modernbert.model.heads import MaskedLM

logger = logging.getLogger(__name__)

# parts that DDP, FSDP, torch.compile and activation checkpointing insert into parameter names
_WRAPPERS = re.compile(r"\b(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_BUFFERS = re.compile(r"\.rotary_emb\.|\.inv_freq$|\.position_ids$")  # computed from the configuration, not trained
# names in the research code, and in model folders
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

    The file is read with `weights_only=True`, so no code in it runs. Sizes come from the tensors. The number of heads,
    the layer pattern, window, RoPE bases and dropout come from `config` (a config.json), or else from the configuration
    recorded in the checkpoint. The preset supplies values that are not recorded, with a warning.

    Raises:
        CheckpointError: the file cannot be read safely, or its tensors are not those of a MaskedLM.
        ConfigError: the preset is unknown, `config` is wrong, or a recorded option is not implemented.
        DataError: `output` is a file, or its config.json does not describe a model.
    """
    content = _content(Path(checkpoint))
    tensors = {_rename(name): x for name, x in _weights(content, checkpoint).items() if not _BUFFERS.search(name)}
    check_numbers(tensors, common_dtype(tensors, checkpoint), checkpoint)
    shape = _configuration(tensors, _record(content), preset, config, checkpoint)
    with torch.device("meta"):
        model = MaskedLM(shape)
    tensors = {name: x for name, x in tensors.items() if name not in model.tied}
    required = model.state_dict().keys() - model.tied
    problems = [f"missing {name}" for name in sorted(required - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - required)]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"{checkpoint} does not hold a MaskedLM: {shown}.")
    dtype = common_dtype(tensors, checkpoint)
    try:
        model.load_state_dict({name: x.to(dtype) for name, x in tensors.items()}, strict=False, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint} does not fit its configuration: {reason}") from None
    model.tie_weights()
    source = None
    if tokenizer is not None:
        source = Path(tokenizer) if (Path(tokenizer) / TOKENIZER_FILES[0]).is_file() else find_folder(tokenizer)
    model.save_pretrained(output, tokenizer=source)
    return model.eval()


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}: give the .pt file of the research trainer.")
    try:
        with torch.serialization.safe_globals([datetime.timedelta, *_numpy_scalars()]):  # as in Composer's timestamps
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds {named[1]}" if named else "it holds other objects than tensors"
        raise CheckpointError(
            f"{path} cannot be read safely: {reason}; save only its state['state']['model'] with torch.save first."
        ) from None
    except Exception as error:  # a damaged file fails in any part of the reader
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {str(error).partition(chr(10))[0]}") from None
    return content if isinstance(content, Mapping) else {}


def _numpy_scalars() -> list[Any]:
    """The types with which a NumPy number is pickled; they are safe to load."""
    scalar = np.float64(0).__reduce__()[0]
    return [scalar, np.dtype, *(type(np.dtype(name)) for name in ("f8", "f4", "i8", "i4", "bool"))]


def _weights(content: Mapping[str, Any], checkpoint: str | Path) -> dict[str, Tensor]:
    state = content
    for key in ("state", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    found = {name: x for name, x in state.items() if isinstance(name, str) and isinstance(x, Tensor)}
    if not found:
        raise CheckpointError(f"{checkpoint} holds no tensors under state['state']['model'].")
    for name, x in found.items():
        if x.layout != torch.strided or x.is_meta or x.is_quantized:
            raise CheckpointError(f"{checkpoint}: {name} is not an ordinary dense tensor.")
    return found


def _record(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model configuration that Composer wrote into the checkpoint; empty if there is none."""
    found: Any = content
    for key in ("state", "integrations", "huggingface", "model", "config", "content"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _rename(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    for old, new in _RENAMES:
        name, found = old.subn(new, name)
        if found:
            break
    return name


def _configuration(
    tensors: dict[str, Tensor],
    record: Mapping[str, Any],
    preset: str,
    config: str | Path | None,
    checkpoint: str | Path,
) -> EncoderConfig:
    if config is not None:
        return EncoderConfig.from_hf(read_json(Path(config)), where=str(config))
    if preset not in ("base", "large"):
        raise ConfigError(f"There is no preset {preset!r}; choose base or large, or give --config.")
    try:
        vocab_size, hidden_size = tensors["model.embeddings.tok_embeddings.weight"].shape
        intermediate_size = tensors["model.layers.0.mlp.Wo.weight"].shape[1]
        layers = {int(name.split(".")[2]) for name in tensors if name.startswith("model.layers.")}
    except KeyError as error:
        raise CheckpointError(f"The checkpoint has no {error.args[0]}; was the research code used?") from None
    except (ValueError, IndexError):
        raise CheckpointError(f"{checkpoint} has weights of other shapes or names than the research code.") from None
    if layers != set(range(len(layers))):
        raise CheckpointError(
            f"{checkpoint} has the layer {max(layers)}, but only {len(layers)} layers; some are missing."
        )
    fields = _recorded_fields(record, len(layers), str(checkpoint))
    make = EncoderConfig.large if preset == "large" else EncoderConfig.base
    shape = make(
        **{"num_attention_heads": hidden_size // 64}
        | fields
        | {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": len(layers),
            "decoder_bias": "decoder.bias" in tensors,
        }
    )
    names = ("global_rope_theta", "local_rope_theta", "local_attention", "num_attention_heads")
    if assumed := [f"{name} = {getattr(shape, name):,}" for name in names if name not in fields]:
        logger.warning(
            "%s does not record its full configuration: %s come from preset %s; give --config if they differ.",
            checkpoint, ", ".join(assumed), preset,
        )  # fmt: skip
    if fields:
        logger.info(
            "%s records: RoPE bases %s (global) and %s (local), a window of %s tokens, %s heads.",
            checkpoint, f"{shape.global_rope_theta:,}", f"{shape.local_rope_theta:,}", shape.local_attention,
            shape.num_attention_heads,
        )  # fmt: skip
    return shape


# Supported values of options of the research code. Other values would change the outputs but not the tensor shapes.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "head_pred_act": ("gelu",),
    "mlp_layer": ("glu",),
    "bert_layer": ("prenorm",),
    "normalization": ("layernorm", "low_precision_layernorm", "triton_layernorm"),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,),
}
_DROPOUTS = {
    "attn_out_dropout_prob": "attention_output_dropout",
    "mlp_dropout_prob": "mlp_dropout",
    "embed_dropout_prob": "embedding_dropout",
}


def _recorded_fields(record: Mapping[str, Any], layers: int, where: str) -> dict[str, Any]:
    """The fields of `EncoderConfig` that a record of the research code sets."""
    for name, accepted in _SUPPORTED.items():
        if record.get(name) is not None and record[name] not in accepted:
            raise ConfigError(f"{where}: {name} = {record[name]!r} is not implemented; only {accepted[0]!r} is.")
    fields: dict[str, Any] = {new: record[old] for old, new in _DROPOUTS.items() if record.get(old) is not None}
    for name in ("num_attention_heads", "global_attn_every_n_layers"):
        if record.get(name) is not None:
            fields[name] = record[name]
    base, local = record.get("rotary_emb_base"), record.get("local_attn_rotary_emb_base")
    if base is not None:
        fields["global_rope_theta"] = base
        fields["local_rope_theta"] = base if local in (None, -1) else local
    window, every = record.get("sliding_window"), fields.get("global_attn_every_n_layers")
    if window == -1:  # all layers are global
        fields["layer_types"] = ("full_attention",) * layers
        fields["local_attention"] = EncoderConfig.model_fields["local_attention"].default
    elif window is not None:
        fields["local_attention"] = window  # both sides, as in `local_attention`
        if every == -1:  # all layers are local
            fields["layer_types"] = ("sliding_attention",) * layers
    if every == -1:
        del fields["global_attn_every_n_layers"]
    norm = record.get("norm_kwargs")
    if isinstance(norm, Mapping) and norm.get("eps") is not None:
        fields["norm_eps"] = norm["eps"]
    return fields
