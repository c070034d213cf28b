"""The cost of training a model: parameters, floating-point operations and bytes.

Parameters and matrices are counted on the model itself, on the meta device. The activations that a layer keeps for its
backward pass are computed by a formula; tests/plan/test_costs.py compares it with torch.
"""

import os
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import nn

from modernbert.kernels.cross_entropy import BLOCK_ELEMENTS, chunk_rows
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.runtime import Precision, cpu_name, product_rates
from modernbert.stream.lengths import PackingStatistics
from modernbert.text.framing import FRAME_TOKENS

_FP32 = 4
_INDEX = 8  # int64
_STATISTICS = 2 * _FP32  # mean and inverse deviation of each token, which a LayerNorm keeps


@dataclass(frozen=True)
class Device:
    """An accelerator, with values of its data sheet and of `nvidia-smi`, or the processor of this machine."""

    name: str
    peak_flops: float  # per second, bf16 with fp32 sums, dense
    memory: int  # bytes
    fp32_flops: float | None = None  # per second; None if unknown
    on_cuda: bool = True

    def peak(self, precision: Precision) -> float | None:
        """Operations per second in a precision, or None if unknown."""
        return self.peak_flops if precision == "bf16" else self.fp32_flops


def _device(name: str, teraflops: float, mebibytes: int) -> Device:
    return Device(name, teraflops * 1e12, mebibytes * 2**20)


# Peaks from NVIDIA's data sheets: half of the values "with sparsity", of the SXM version if there are several.
# A100: 624 / 2. H100, H200: 1,979 / 2. B200: 36,000 / 2 for the eight of an HGX board. L40S: 362.05 | 733.
# RTX 4090: Ada whitepaper, bf16 with fp32 accumulation. Memory as in nvidia-smi, with ECC if supported.
DEVICES = {
    device.name: device
    for device in (
        _device("a100-40", 312, 40_960),
        _device("a100", 312, 81_920),
        _device("h100", 989, 81_559),
        _device("h200", 989, 143_771),
        _device("b200", 2250, 183_359),
        _device("l40s", 362, 46_068),
        _device("rtx4090", 165.2, 24_564),
    )
}


def this_cpu() -> Device:
    """The processor of this machine: the measured speed of its matrix products, and its memory."""
    rates = product_rates()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        f"cpu, {cpu_name()}, {torch.get_num_threads()} threads", 1e9 * rates["bf16"], memory, 1e9 * rates["fp32"], False
    )


@dataclass(frozen=True)
class Parameters:
    """Parameters of a masked language model by part. A tied decoder counts once, as embedding."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int  # the dense layer, and the untied parameters of the decoder

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Architecture:
    """Counts of a model, which is created without memory on the meta device."""

    parameters: Parameters
    layer_products: int  # multiply-adds of one token in the matrices of all layers
    head_products: int  # multiply-adds of one predicted token in dense and decoder


def architecture(config: EncoderConfig) -> Architecture:
    """The parameters and matrices of `MaskedLM(config)`."""
    return _architecture(config.model_dump_json())


@lru_cache(maxsize=16)
def _architecture(config: str) -> Architecture:
    with torch.device("meta"):
        model = MaskedLM(EncoderConfig.model_validate_json(config))
    counts = dict.fromkeys((field.name for field in fields(Parameters)), 0)
    for name, parameter in model.named_parameters():
        counts[_part(name)] += parameter.numel()
    layers, head = (
        sum(module.weight.numel() for root in roots for module in root.modules() if isinstance(module, nn.Linear))
        for roots in ([model.model.layers], [model.head, model.decoder])
    )
    return Architecture(Parameters(**counts), layers, head)


def _part(name: str) -> str:
    """The part of `Parameters` that a parameter of this name belongs to."""
    if "norm" in name:
        return "norms"
    for part, key in (("embedding", "tok_embeddings"), ("attention", ".attn."), ("feed_forward", ".mlp.")):
        if key in name:
            return part
    return "head"


def count_parameters(config: EncoderConfig) -> Parameters:
    """The parameters of `MaskedLM(config)`, by part."""
    return architecture(config).parameters


@dataclass(frozen=True)
class Flops:
    """Floating-point operations for one token, forward and backward, by part. A multiply-add is two."""

    layers: float  # the matrices
    attention: float  # scores and weighted values
    head: float  # dense and decoder, for masked tokens only

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.head

    @property
    def recomputed(self) -> float:
        """The additional operations of activation checkpointing: the layers' forward pass, a third of their total."""
        return (self.layers + self.attention) / 3


def count_flops(config: EncoderConfig, packing: PackingStatistics, mask_ratio: float) -> Flops:
    """Operations of matrix products: three times the forward pass, as the backward pass has two products for each one.

    Attention counts the keys that a token attends to in its own document, so it depends on `packing`.
    """
    matrices = architecture(config)
    attended_keys = sum(packing.keys[config.window(layer)] for layer in range(config.num_hidden_layers))
    predicted = mask_ratio * (1 - FRAME_TOKENS * packing.chunks_per_token)  # special tokens are never masked
    return Flops(
        layers=3 * 2 * matrices.layer_products,
        attention=3 * 2 * 2 * config.hidden_size * attended_keys,
        head=3 * 2 * predicted * matrices.head_products,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. The maximum is at the computation of the loss, or in the backward pass of the last layer."""

    weights: int  # fp32
    copies: int  # of weights in bf16, which autocast keeps until the loss is computed; with FSDP the gathered weights
    gradients: int
    optimizer: int  # two moments
    activations: int  # kept for the backward pass
    logits: int  # when the loss is computed: a chunk of them, and the gradient of the decoder
    temporaries: int  # in the backward pass of a layer: its inner gradients, and recomputed activations

    @property
    def total(self) -> int:
        always = self.weights + self.copies + self.gradients + self.optimizer + self.activations
        return always + max(self.logits, self.temporaries)


@dataclass(frozen=True)
class Setting:
    """The settings that determine memory, besides the model and the microbatch."""

    precision: Precision
    shards: int = 1  # of parameters, gradients and moments (FSDP); 1 means full copies
    activation_checkpointing: bool = False
    compiled: bool = False
    on_cuda: bool = (
        True  # on CUDA, dropout keeps a byte per element, norms keep fp32, and attention in bf16 is FlashAttention
    )

    @property
    def width(self) -> int:
        """Bytes of an element in a matrix product."""
        return 2 if self.precision == "bf16" else _FP32


def estimate_memory(config: EncoderConfig, setting: Setting, tokens: int, mask_ratio: float, passes: int) -> Memory:
    """Memory of an update with `passes` microbatches of `tokens` tokens on each device.

    Fragmentation of the allocator is not counted.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    parts = count_parameters(config)
    share = parts.total // setting.shards
    layer = (parts.attention + parts.feed_forward) // layers
    if setting.shards > 1:  # the root unit and two layers, the current and the next one, are gathered
        copies = setting.width * (parts.total - max(0, layers - 2) * layer)
    else:
        copies = setting.width * (parts.total - parts.norms) if setting.precision == "bf16" else 0
    predicted = round(mask_ratio * tokens)
    inside = layer_activations(config, setting, tokens)
    # Backward pass of the feed-forward Wo: gradients of the residual stream, the gated, the activated and both halves.
    temporaries = (_FP32 * hidden + 5 * inner * setting.width) * tokens
    if setting.activation_checkpointing:
        # the input of a layer: the residual stream, and the output of the layer before
        kept = (layers * _FP32 + (layers - 1) * setting.width) * hidden * tokens
        freed = max(0, copies - setting.width * layer) if setting.shards == 1 else 0  # copies that are freed before
        temporaries = max(0, temporaries + inside - freed)
    else:
        kept = layers * inside - _norm(config) * tokens  # the first layer has one norm only
    return Memory(
        weights=_FP32 * share,
        copies=copies,
        # Between microbatches, FSDP keeps full gradients on every device, besides the shards of the last exchange.
        gradients=_FP32 * (share + (parts.total if setting.shards > 1 and passes > 1 else 0)),
        optimizer=2 * _FP32 * share,
        activations=kept + outer_activations(config, setting, tokens, predicted),
        logits=logits_bytes(config, setting, predicted),
        temporaries=temporaries,
    )


def layer_activations(config: EncoderConfig, setting: Setting, tokens: int) -> int:
    """Bytes that one layer (not the first) keeps for its backward pass, in the order of model/encoder.py."""
    hidden, inner = config.hidden_size, config.intermediate_size
    width = setting.width
    attention = width * (
        hidden  # normed, the input of Wqkv
        + 3 * hidden  # q, k and v, the output of Wqkv: v is a view, which keeps all three
        + 2 * hidden  # rotated q and k
        + hidden  # the input of Wo, which FlashAttention keeps too
    )
    if setting.precision == "bf16" and setting.on_cuda:
        attention += _FP32 * config.num_attention_heads  # FlashAttention's log-sum-exp of each query
    feed_forward = width * (
        hidden  # normed, the input of Wi
        + 2 * inner  # both halves
        + inner  # the activated half
        + inner  # the gated half, the input of Wo
    )
    mask = 1 if setting.on_cuda or setting.compiled else width
    dropout = mask * (hidden * (config.attention_output_dropout > 0) + inner * (config.mlp_dropout > 0))
    eager = 2 * _norm(config) + attention + feed_forward + dropout
    if setting.compiled:  # with torch's partitioner (2.13, measured on a CPU): GELU and the inputs of the norms are
        # recomputed, the latter from the outputs of the layer before and of Wo
        return tokens * (eager - width * inner - _FP32 * hidden + 2 * width * hidden)
    return tokens * eager


def outer_activations(config: EncoderConfig, setting: Setting, tokens: int, predicted: int) -> int:
    """Bytes kept outside the layers: embedding, rotary angles, the last norm, and the head on `predicted` tokens."""
    hidden = config.hidden_size
    width = setting.width
    thetas = len({config.rope_theta(layer) for layer in range(config.num_hidden_layers)})
    angles = thetas * 2 * _FP32 * config.head_dim  # cosine and sine
    normed = _FP32 if setting.on_cuda else width
    per_token = _INDEX + 1 + 2 * _norm(config) + angles  # ids and mask
    per_prediction = 3 * width * hidden + normed * hidden + _STATISTICS  # input and output of dense, and the gradient
    return tokens * per_token + predicted * per_prediction


def logits_bytes(config: EncoderConfig, setting: Setting, predicted: int) -> int:
    """Bytes of the decoder's gradient, of a product that is added to it in fp32, and of a chunk of logits.

    On a CPU there is an fp32 copy of a part of the logits; on CUDA the gradient and the product are fp32.
    """
    rows = chunk_rows(predicted, config.vocab_size, "cuda" if setting.on_cuda else "cpu")
    width = (_FP32 if setting.on_cuda else setting.width) + (_FP32 if rows < predicted else 0)
    gradient = width * config.vocab_size * config.hidden_size + _FP32 * config.vocab_size
    chunk = rows * config.vocab_size
    fp32_elements = 0 if setting.on_cuda else min(chunk, BLOCK_ELEMENTS)
    return gradient + chunk * setting.width + fp32_elements * _FP32


def _norm(config: EncoderConfig) -> int:
    """Bytes that a LayerNorm keeps of a token of the residual stream, which is fp32."""
    return _FP32 * config.hidden_size + _STATISTICS
