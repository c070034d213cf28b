"""A GGUF file for llama.cpp: encoder, embedder, classifier or reranker, architecture `modern-bert`."""

import logging
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.export.gguf_tokenizer import GGUFTokenizer, convert_tokenizer
from modernbert.export.graph import require_packages
from modernbert.export.report import check_overwrite, report_name, write_report
from modernbert.export.source import Source, load_source
from modernbert.files import atomic_directory
from modernbert.model.config import EncoderConfig

logger = logging.getLogger(__name__)

TARGET = "gguf"
ARCHITECTURE = "modern-bert"
DType = Literal["f32", "f16", "bf16", "q8_0"]
_KINDS = ("encoder", "fill-mask", "embedder", "classifier", "reranker")
_POOLINGS = {"mean": 1, "cls": 2, "lasttoken": 3}  # numbers of llama.cpp
_NONE, _RANK = 0, 4
_LAYER = {
    "attn_norm.weight": "attn_norm.weight",
    "attn.Wqkv.weight": "attn_qkv.weight",
    "attn.Wo.weight": "attn_output.weight",
    "mlp_norm.weight": "ffn_norm.weight",
    "mlp.Wi.weight": "ffn_up.weight",  # both halves of GeGLU, as llama.cpp has them for this architecture
    "mlp.Wo.weight": "ffn_down.weight",
}
_ENDS = {
    "embeddings.tok_embeddings.weight": "token_embd.weight",
    "embeddings.norm.weight": "token_embd_norm.weight",
    "final_norm.weight": "output_norm.weight",
}
_HEAD = {
    "head.dense.weight": "cls.weight",
    "head.norm.weight": "cls.norm.weight",
    "classifier.weight": "cls.output.weight",
    "classifier.bias": "cls.output.bias",
}


def export_gguf(
    folder: str | Path, output: str | Path, *, dtype: DType = "f32", kind: str | None = None
) -> dict[str, Any]:
    """Write `NAME-DTYPE.gguf` into the folder `output`, and a report beside it.

    Of a masked language model only the encoder is written, as llama.cpp has no MLM head. Text for llama.cpp must be in
    Unicode's NFC: tokenizers of this package normalize it, and llama.cpp does not.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: gguf is missing, or llama.cpp does not support this model; the message names the reason.
        DataError: llama.cpp would tokenize text differently, or a file that is not from an export would be overwritten.
    """
    require_packages(("gguf",), "A GGUF export")
    if dtype not in get_args(DType):
        raise ConfigError(f"There is no GGUF dtype {dtype!r}; choose one of: {', '.join(get_args(DType))}.")
    source = load_source(folder, kind)
    if reason := unsupported_reason(source):
        raise ConfigError(f"llama.cpp does not run {folder}: {reason}; choose another target, such as onnx.")
    output = Path(output)
    name = f"{source.name}-{dtype}.gguf"
    check_overwrite(output, TARGET, [name])
    tokenizer = convert_tokenizer(source.folder, source.model.config.vocab_size)
    if source.kind.name == "fill-mask":
        logger.info("llama.cpp has no MLM head: only the encoder is written.")
    with atomic_directory(output) as partial:
        write_gguf(source, tokenizer, partial / name, dtype)
        files = sorted({name, report_name(TARGET), *_earlier_exports(output)})
        return write_report(
            partial, TARGET, source.folder, source.kind.name, files, (), ("gguf",), file=name, dtype=dtype,
            pre_tokenizer=tokenizer.pre, megabytes=(partial / name).stat().st_size / 1e6,
        )  # fmt: skip


def unsupported_reason(source: Source) -> str | None:
    """Why llama.cpp cannot compute this model, or None if it can."""
    config: EncoderConfig = source.model.config
    if source.kind.name not in _KINDS:
        return f"it does not support models of the kind {source.kind.name}"
    if config.norm_bias or config.attention_bias or config.mlp_bias or config.classifier_bias:
        return "its ModernBERT has no biases"
    if source.kind.name == "embedder":
        settings = source.model.settings
        if settings.projections:
            return "its ModernBERT has no layers after the pooling"
        if len(settings.pooling) != 1 or settings.pooling[0] not in _POOLINGS:
            return f"it does not pool by {' and '.join(settings.pooling)}"
        if not settings.normalize and settings.similarity != "cosine":
            logger.warning("llama.cpp normalizes vectors by default (embd_normalize changes that).")
    return None


def write_gguf(source: Source, tokenizer: GGUFTokenizer, path: Path, dtype: DType) -> None:
    """Write keys, tokenizer and tensors into one file. Norms and biases stay fp32."""
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    # llama.cpp strips the space before [MASK] only if the name contains the architecture
    writer.add_name(f"{ARCHITECTURE} {source.name}")
    _add_sizes(writer, source)
    _add_tokenizer(writer, tokenizer)
    types = gguf.GGMLQuantizationType
    quantization = {"f32": types.F32, "f16": types.F16, "bf16": types.BF16, "q8_0": types.Q8_0}[dtype]
    writer.add_file_type(int({"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[dtype]))
    for name, tensor in _tensors(source):
        values: npt.NDArray[np.float32] = tensor.detach().float().cpu().numpy()
        keep_fp32 = values.ndim < 2 or (quantization is types.Q8_0 and values.shape[-1] % 32)
        kind = types.F32 if keep_fp32 else quantization
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: Any, source: Source) -> None:
    config: EncoderConfig = source.model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_causal_attention(False)
    writer.add_rope_freq_base(config.global_rope_theta)
    writer.add_string(f"{ARCHITECTURE}.rope.scaling.type", "none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_string(f"{ARCHITECTURE}.hidden_activation", "gelu")
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    if sides := [side for side in windows if side is not None]:
        # llama.cpp masks keys that are farther away than half of the window, which has two sides.
        writer.add_sliding_window(2 * sides[0])
        writer.add_float32(f"{ARCHITECTURE}.rope.freq_base_swa", config.local_rope_theta)
        every = config.global_attn_every_n_layers
        writer.add_sliding_window_pattern(every or [side is not None for side in windows])
    if source.kind.name in ("classifier", "reranker"):
        writer.add_uint32(f"{ARCHITECTURE}.pooling_type", _RANK)
        writer.add_uint32(f"{ARCHITECTURE}.classifier.pooling_type", _POOLINGS[config.classifier_pooling])
        writer.add_classifier_output_labels(list(config.labels))
    elif source.kind.name == "embedder":
        writer.add_uint32(f"{ARCHITECTURE}.pooling_type", _POOLINGS[source.model.settings.pooling[0]])
    else:
        writer.add_uint32(f"{ARCHITECTURE}.pooling_type", _NONE)


def _add_tokenizer(writer: Any, tokenizer: GGUFTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for part, index in tokenizer.special.items():
        getattr(writer, f"add_{part}_token_id")(index)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(True)


def _tensors(source: Source) -> list[tuple[str, Tensor]]:
    """The tensors of the model with their names in llama.cpp, in the order of layers."""
    state: dict[str, Tensor] = {
        name.removeprefix("model."): tensor for name, tensor in source.model.state_dict().items()
    }
    names = dict(_ENDS)
    for layer in range(source.model.config.num_hidden_layers):
        names |= {f"layers.{layer}.{name}": f"blk.{layer}.{target}" for name, target in _LAYER.items()}
    if source.kind.name in ("classifier", "reranker"):
        names |= _HEAD
    return [(target, state[name]) for name, target in names.items() if name in state]


def _earlier_exports(output: Path) -> list[str]:
    """GGUF files of earlier exports into the same folder; they are kept."""
    import json

    try:
        named = json.loads((output / report_name(TARGET)).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [name for name in named if isinstance(name, str) and (output / name).is_file()]
