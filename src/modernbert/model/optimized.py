"""An encoder for inference only: on a CPU with native kernels, a forward pass is one call with packed weights."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modernbert.errors import BackendError
from modernbert.kernels import native
from modernbert.kernels.elementwise import embedding_rows
from modernbert.kernels.native_encoder import LayerWeights, NativeEncoder
from modernbert.kernels.rotary import Rope
from modernbert.model import optimized_cuda as cuda_encoder
from modernbert.model.encoder import Encoder, Layer
from modernbert.packed import Sequences


def optimize_for_inference(model: nn.Module, *, int8: bool = False) -> None:
    """Replace `model.model` by an `InferenceEncoder`, if it is supported. The model has no gradients afterwards.

    On a CUDA device, a model in half precision gets a `CudaEncoder`.

    Raises:
        BackendError: `int8` is set and the native kernels do not support this encoder.
    """
    encoder = model.get_submodule("model")
    assert isinstance(encoder, Encoder)
    if not int8 and cuda_encoder.unsupported_reason(encoder) is None:
        model.add_module("model", cuda_encoder.CudaEncoder(encoder))
    elif int8 or unsupported_reason(encoder) is None:
        model.add_module("model", InferenceEncoder(encoder, int8=int8))


class InferenceEncoder(nn.Module):
    """Replaces an `Encoder` with the same call, without gradients, and with the embedding as its only parameter.

    With `int8`, linear layers are quantized when they are packed, and their inputs in each call (docs/inference.md).

    Raises:
        BackendError: the native kernels do not run on this machine, or do not support this encoder.
    """

    def __init__(self, encoder: Encoder, *, int8: bool = False) -> None:
        super().__init__()
        if reason := unsupported_reason(encoder):
            raise BackendError(f"The encoder is not supported: {reason}; use it unchanged.")
        self.config = config = encoder.config
        self.tok_embeddings = encoder.embeddings.tok_embeddings
        self._thetas = (config.global_rope_theta, config.local_rope_theta)
        self._rotations: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._native = NativeEncoder(
            [self._weights(index, cast(Layer, layer)) for index, layer in enumerate(encoder.layers)],
            encoder.embeddings.norm.weight,
            encoder.final_norm.weight,
            heads=config.num_attention_heads,
            epsilon=config.norm_eps,
            dtype=self.tok_embeddings.weight.dtype,
            int8=int8,
        )

    def _weights(self, index: int, layer: Layer) -> LayerWeights:
        return LayerWeights(
            attn_norm=layer.attn_norm.weight if isinstance(layer.attn_norm, nn.LayerNorm) else None,
            mlp_norm=layer.mlp_norm.weight,
            qkv=layer.attn.Wqkv.weight,
            attended=layer.attn.Wo.weight,
            up=layer.mlp.Wi.weight,
            down=layer.mlp.Wo.weight,
            window=self.config.window(index),
            rope=self._thetas.index(self.config.rope_theta(index)),
        )

    @torch.no_grad()
    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "tokens hidden"]:
        """Hidden states after the final norm, one row for each packed token.

        Raises:
            DataError: as `Encoder`.
        """
        sequences.require_ids(tokens)
        embedded = embedding_rows(tokens, self.tok_embeddings)
        return self._native(embedded, sequences, *self._rotated(sequences)).to(embedded.dtype)

    def release_memory(self) -> None:
        """Free the memory that is kept between calls (as much as the largest batch needed)."""
        self._native.release_memory()

    def _rotated(self, sequences: Sequences) -> tuple[list[Tensor], list[Tensor]]:
        """Cosines and sines of every token for both RoPE bases, from a table that grows with the longest text."""
        rotations = self._rotations  # read once, as another thread may replace them
        if not rotations[0] or len(rotations[0][0]) < sequences.max_length:
            length = 1 << max(9, (sequences.max_length - 1).bit_length())
            ropes = [Rope.of(torch.arange(length), self.config.head_dim, theta) for theta in self._thetas]
            half = self.config.head_dim // 2
            rotations = self._rotations = (
                [rope.cos[:, 0, :half].contiguous() for rope in ropes],
                [rope.sin[:, 0, half:].contiguous() for rope in ropes],
            )
        cos, sin = rotations
        if sequences.num_sequences == 1:
            return cos, sin
        return [x[sequences.positions] for x in cos], [x[sequences.positions] for x in sin]


def unsupported_reason(encoder: Encoder) -> str | None:
    """The reason why an encoder is not supported, or None."""
    weight, config = encoder.embeddings.tok_embeddings.weight, encoder.config
    if reason := native.unavailable():
        return f"the native backend {reason}"
    if not native.supports(weight.device, weight.dtype, config.head_dim):
        given = f"{weight.dtype} on {weight.device.type} with {config.head_dim}"
        return f"the kernels support fp32 or bf16 on the CPU with a head_dim that is a multiple of 32, not {given}"
    if config.intermediate_size % 32:
        return f"the kernels support an intermediate_size that is a multiple of 32, not {config.intermediate_size}"
    if config.norm_bias or config.attention_bias or config.mlp_bias:
        return "the kernels do not support biases"
    return None
