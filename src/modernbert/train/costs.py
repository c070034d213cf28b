"""What training a model costs: parameters, floating-point operations and bytes, from its configuration alone."""

from dataclasses import dataclass, fields
from typing import Literal

from modernbert.data.lengths import Rows
from modernbert.data.packing import SPECIALS
from modernbert.model.config import EncoderConfig

Precision = Literal["bf16", "fp32"]
Parallel = Literal["ddp", "fsdp"]

_FP32 = 4
_INDEX = 8  # int64
_STATISTICS = 2 * _FP32  # mean and inverse deviation, which a LayerNorm keeps of each row
_CHUNK_ROWS = 1024  # of logits at a time: kernels/cross_entropy.py


@dataclass(frozen=True)
class Device:
    """An accelerator by its data sheet."""

    name: str
    peak_flops: float  # a second, bf16 with fp32 sums, dense
    memory: int  # bytes


# Dense bf16 (half of what data sheets give "with sparsity") and memory, from NVIDIA's data sheets; SXM where there is a
# choice. A100: 312. H100 and H200: 1,979 / 2. B200 (one of the eight in HGX B200): 36,000 / 2 / 8, 1.44 TB / 8.
# L40S: 733 / 2, rounded as the sheet rounds it. RTX 4090: Ada whitepaper, appendix A, bf16 with fp32 accumulate.
DEVICES = {
    device.name: device
    for device in (
        Device("a100-40", 312e12, 40 * 10**9),
        Device("a100", 312e12, 80 * 10**9),
        Device("h100", 989e12, 80 * 10**9),
        Device("h200", 989e12, 141 * 10**9),
        Device("b200", 2250e12, 180 * 10**9),
        Device("l40s", 362e12, 48 * 10**9),
        Device("rtx4090", 165.2e12, 24 * 10**9),
    )
}


@dataclass(frozen=True)
class Parameters:
    """Parameters of a masked language model by part. A tied decoder counts once, as embedding."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int  # dense, and what the decoder has of its own

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def count_parameters(config: EncoderConfig) -> Parameters:
    """Those of `MaskedLM(config)`, without making one."""
    hidden, inner, vocab, layers = _sizes(config)
    norms = 2 * layers - 1 + 3  # none before the first attention; embedding, encoder and head have one each
    return Parameters(
        embedding=vocab * hidden,
        attention=layers * (4 * hidden * hidden + config.attention_bias * 4 * hidden),
        feed_forward=layers * (3 * hidden * inner + config.mlp_bias * (2 * inner + hidden)),
        norms=norms * hidden * (1 + config.norm_bias),
        head=hidden * (hidden + config.classifier_bias)
        + vocab * config.decoder_bias
        + vocab * hidden * (not config.tie_word_embeddings),
    )


@dataclass(frozen=True)
class Flops:
    """Floating-point operations for one token, forward and backward, by part. A multiply-add is two."""

    layers: float  # the matrices
    attention: float  # scores and weighted values
    head: float  # dense and decoder, which masked tokens alone pass

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.head

    @property
    def recomputed(self) -> float:
        """What activation checkpointing adds: the layers' forward pass, a third of their total."""
        return (self.layers + self.attention) / 3


def count_flops(config: EncoderConfig, rows: Rows, mask_ratio: float) -> Flops:
    """Matrix products only, three times the forward pass: the backward pass has two products for each of its own.

    Attention counts the keys that a token sees in its own document, so it depends on `rows`.
    """
    hidden, inner, vocab, layers = _sizes(config)
    seen = sum(rows.keys[config.window(layer)] for layer in range(layers))
    predicted = mask_ratio * (1 - SPECIALS * rows.pieces_per_token)  # specials are never masked
    multiply_adds = (layers * (4 * hidden * hidden + 3 * hidden * inner), 2 * hidden * seen)
    return Flops(*(3 * 2 * n for n in multiply_adds), head=3 * 2 * predicted * (hidden * hidden + hidden * vocab))


@dataclass(frozen=True)
class Memory:
    """Bytes on one device when a microbatch has gone forward and its loss is being computed: the fullest moment."""

    weights: int  # fp32
    casts: int  # bf16 copies: what autocast keeps, or under FSDP what is gathered
    gradients: int
    optimizer: int  # two moments
    activations: int  # kept for the backward pass
    logits: int  # a chunk of them, and the decoder's gradient
    temporaries: int  # of the widest layer

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Setting:
    """What decides about memory beside the model and the microbatch."""

    precision: Precision
    parallel: Parallel
    processes: int
    activation_checkpointing: bool
    on_cuda: bool = True  # there dropout keeps a byte an element, norms take fp32, and FlashAttention runs in bf16


def estimate_memory(config: EncoderConfig, setting: Setting, tokens: int, mask_ratio: float, passes: int) -> Memory:
    """Memory of an update that takes microbatches of `tokens` tokens, `passes` of them on each device.

    Of the eager code: compiled layers keep less, and the allocator's gaps are not counted.
    """
    hidden, inner, vocab, layers = _sizes(config)
    parts = count_parameters(config)
    width = 2 if setting.precision == "bf16" else _FP32
    sharded = setting.parallel == "fsdp" and setting.processes > 1
    shards = setting.processes if sharded else 1
    layer = (parts.attention + parts.feed_forward) // layers
    whole = parts.total
    if sharded:  # the root unit stays gathered, and two layers are: the one that runs and the next
        casts = width * (whole - (layers - 2) * layer)
    else:
        casts = (width < _FP32) * width * (whole - parts.norms)
    predicted = round(mask_ratio * tokens)
    inside = layer_activations(config, setting, tokens)
    kept = layers * (_FP32 * hidden * tokens if setting.activation_checkpointing else inside)
    return Memory(
        weights=_FP32 * whole // shards,
        casts=casts,
        # Between microbatches FSDP keeps whole gradients on every device, beside the shards of the last exchange.
        gradients=_FP32 * (whole // shards + (whole if sharded and passes > 1 else 0)),
        optimizer=2 * _FP32 * whole // shards,
        activations=kept + outer_activations(config, setting, tokens, predicted),
        logits=logits_bytes(config, setting, predicted),
        temporaries=(_FP32 * hidden + 5 * inner * width) * tokens + setting.activation_checkpointing * inside,
    )


def layer_activations(config: EncoderConfig, setting: Setting, tokens: int) -> int:
    """Bytes that one layer (not the first) keeps for its backward pass: what model/encoder.py saves, line by line."""
    hidden, inner = config.hidden_size, config.intermediate_size
    bf16 = setting.precision == "bf16"
    width = 2 if bf16 else _FP32
    norm = _FP32 * hidden + _STATISTICS  # the residual stream is fp32
    attention = width * (
        hidden  # normed, what Wqkv takes
        + 3 * hidden  # q, k and v as Wqkv gives them: v is a view, which keeps all three
        + 2 * hidden  # q and k rotated
        + hidden  # what Wo takes, which FlashAttention keeps too
    )
    if bf16 and setting.on_cuda:
        attention += _FP32 * config.num_attention_heads  # FlashAttention's log-sum-exp of each query
    feed_forward = width * (
        hidden  # normed, what Wi takes
        + 2 * inner  # both halves
        + inner  # the activated one
        + inner  # the gated one, what Wo takes
    )
    mask = 1 if setting.on_cuda else width
    dropout = mask * (hidden * (config.attention_output_dropout > 0) + inner * (config.mlp_dropout > 0))
    return tokens * (2 * norm + attention + feed_forward + dropout)


def outer_activations(config: EncoderConfig, setting: Setting, tokens: int, predicted: int) -> int:
    """Bytes kept outside the layers: embedding, rotary angles, the last norm, and the head on `predicted` rows."""
    hidden = config.hidden_size
    width = 2 if setting.precision == "bf16" else _FP32
    thetas = len({config.rope_theta(layer) for layer in range(config.num_hidden_layers)})
    angles = thetas * 2 * _FP32 * config.head_dim  # cosine and sine
    normed = _FP32 if setting.on_cuda else width
    every = _INDEX + 2 * (_FP32 * hidden + _STATISTICS) + angles
    masked = _INDEX + 3 * width * hidden + normed * hidden + _STATISTICS  # dense's input, its output, grad of the rows
    return tokens * every + predicted * masked


def logits_bytes(config: EncoderConfig, setting: Setting, predicted: int) -> int:
    """The fp32 gradient of the decoder, the product that is added to it, and a chunk of logits with its fp32 copy."""
    width = 2 if setting.precision == "bf16" else _FP32
    rows = min(_CHUNK_ROWS, predicted)
    gradient = (_FP32 + width) * config.vocab_size * config.hidden_size + _FP32 * config.vocab_size
    return gradient + rows * config.vocab_size * (width + _FP32)


def _sizes(config: EncoderConfig) -> tuple[int, int, int, int]:
    return config.hidden_size, config.intermediate_size, config.vocab_size, config.num_hidden_layers
