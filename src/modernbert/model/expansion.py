"""The encoder for tokens that attend to others but are not attended to: [MASK] after a query, in late interaction."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modernbert.kernels import Rope, add_norm
from modernbert.model.encoder import Attention, Encoder, Layer
from modernbert.packed import Sequences


def encode_with_masked(
    encoder: Encoder, tokens: Int[Tensor, "tokens"], sequences: Sequences, visible: Bool[Tensor, "tokens"]
) -> Float[Tensor, "tokens hidden"]:
    """Hidden states after the final norm, where no token attends to tokens with `visible` false, not even themselves.

    This equals `transformers` with 0 in the attention mask at these tokens. Sequences are padded to the longest, since
    queries are short. For a token without a visible key in its window, the output of attention is zero.
    """
    sequences.require_ids(tokens)
    config = encoder.config
    ropes = {
        theta: Rope.of(sequences.positions, config.head_dim, theta)
        for theta in {config.global_rope_theta, config.local_rope_theta}
    }
    rows = torch.repeat_interleave(sequences.cu_seqlens.diff(), output_size=len(tokens))
    slots = rows * sequences.max_length + sequences.positions
    windows = {config.window(layer) for layer in range(config.num_hidden_layers)}
    masks = {window: _mask(sequences, slots, visible, window) for window in windows}
    x: Tensor = encoder.embeddings(tokens)
    added: Tensor | None = None
    for index, layer in enumerate(cast(list[Layer], encoder.layers)):
        x, normed = (x, x) if added is None else add_norm(x, added, layer.attn_norm)
        attended = _attend(layer.attn, normed, ropes[config.rope_theta(index)], slots, masks[config.window(index)])
        x, normed = add_norm(x, attended, layer.mlp_norm)
        added = layer.mlp(normed)
    assert added is not None, "an encoder has a layer"
    return add_norm(x, added, encoder.final_norm)[1]


def _mask(sequences: Sequences, slots: Tensor, visible: Tensor, window: int | None) -> Tensor:
    """(sequences, 1, length, length), true where the token of a row may attend to the token of a column."""
    length = sequences.max_length
    padded = visible.new_zeros(sequences.num_sequences * length).index_copy(0, slots, visible)
    mask = padded.view(-1, 1, 1, length).expand(-1, 1, length, length)
    if window is None:
        return mask
    index = torch.arange(length, device=visible.device)
    return mask & ((index[:, None] - index).abs() <= window)


def _attend(attention: Attention, x: Tensor, rope: Rope, slots: Tensor, mask: Tensor) -> Tensor:
    rows, length = mask.shape[0], mask.shape[-1]
    qkv = attention.Wqkv(x).unflatten(-1, (3, attention.num_heads, -1))
    q, k, v = qkv.unbind(1)
    q, k = rope(q), rope(k)

    def padded(part: Tensor) -> Tensor:
        flat = part.new_zeros(rows * length, *part.shape[1:]).index_copy(0, slots, part)
        return flat.view(rows, length, attention.num_heads, -1).transpose(1, 2)

    scores = padded(q) @ padded(k).transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = scores.float().masked_fill(~mask, -torch.inf).softmax(-1)
    weights = weights.masked_fill(~mask, 0).to(v.dtype)  # without a visible key, softmax gives NaN
    y = (weights @ padded(v)).transpose(1, 2).reshape(rows * length, -1)[slots]
    return attention.drop(attention.Wo(y))
