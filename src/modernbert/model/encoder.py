"""The ModernBERT encoder (arXiv 2412.13663, section 2), on packed tokens. Reads top to bottom like the paper."""

from collections.abc import Iterator
from typing import Literal, overload

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.kernels import Rope, add_norm, embedding_norm, geglu, varlen_attention
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import Pretrained
from modernbert.model.init import initialize
from modernbert.packed import Sequences


def pad_to_bucket(x: Shaped[Tensor, "rows *rest"]) -> Shaped[Tensor, "more *rest"]:
    """Append rows of zeros, so that many batches have one shape. Only under autocast on a CPU.

    oneDNN, which multiplies bf16 matrices there, compiles a kernel for each shape. Compilation is slower than a small
    product, and oneDNN keeps only a thousand kernels. From 512 rows on, the number becomes a multiple of 64; below, it
    grows by less than an eighth.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return x
    step = min(64, 1 << max(0, len(x).bit_length() - 4))
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, -len(x) % step))


def make_norm(config: EncoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Token embedding and its norm. Positions are encoded only by the rotary embedding.

    The residual stream starts here with the dtype of the table, fp32 in training. With `half_residual` it has the dtype
    of autocast on CUDA: a third less memory traffic between the matrix products, but twice the error of the gradients
    in comparison with fp32.
    """

    half_residual = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = make_norm(config)
        self.drop = nn.Dropout(config.embedding_dropout)

    def forward(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens hidden"]:
        return self.drop(embedding_norm(tokens, self.tok_embeddings, self.norm, half=self.half_residual))


class Attention(nn.Module):
    """Bidirectional attention inside each packed sequence, windowed on local layers."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.window = config.window(layer)  # None on global layers
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.drop = nn.Dropout(config.attention_output_dropout)

    def forward(
        self, x: Float[Tensor, "tokens hidden"], sequences: Sequences, rope: Rope
    ) -> Float[Tensor, "tokens hidden"]:
        qkv = self.Wqkv(x).unflatten(-1, (3, self.num_heads, -1))
        y = varlen_attention(qkv, sequences, self.window, rope)
        return self.drop(self.Wo(y.flatten(1)))


class FeedForward(nn.Module):
    """GeGLU (Shazeer 2020, arXiv 2002.05202): the first half of `Wi` is activated and gated by the second."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.drop = nn.Dropout(config.mlp_dropout)

    def forward(self, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
        return self.Wo(self.drop(geglu(self.Wi(x))))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward. The first layer has no attention norm, as the embedding norm precedes it.

    A layer receives the residual stream and the output that the previous layer adds to it, and returns the same pair.
    So every addition is fused with the norm after it into one pass over memory.
    """

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = make_norm(config) if layer > 0 else nn.Identity()
        self.attn = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "tokens hidden"],
        added: Float[Tensor, "tokens hidden"] | None,
        sequences: Sequences,
        rope: Rope,
    ) -> tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens hidden"]]:
        x, normed = (x, x) if added is None else add_norm(x, added, self.attn_norm)
        x, normed = add_norm(x, self.attn(normed, sequences, rope), self.mlp_norm)
        return x, self.mlp(normed)


class Encoder(Pretrained):
    """Embeddings, layers, final norm, on packed tokens only. A new encoder has random weights."""

    architecture = "ModernBertModel"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = make_norm(config)
        initialize(self, config)

    @overload
    def forward(self, tokens: Tensor, sequences: Sequences) -> Tensor: ...
    @overload
    def forward(
        self, tokens: Tensor, sequences: Sequences, *, output_hidden_states: Literal[True]
    ) -> tuple[Tensor, tuple[Tensor, ...]]: ...
    def forward(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, *, output_hidden_states: bool = False
    ) -> Float[Tensor, "tokens hidden"] | tuple[Tensor, tuple[Tensor, ...]]:
        """Hidden states after the final norm, one row for each packed token.

        With `output_hidden_states`, also the num_hidden_layers + 1 hidden states of `transformers`, each
        (tokens, hidden): the embeddings, the output of each layer except the last, and the result.

        Raises:
            DataError: the tokens are not ids, are as many or on the device as the sequences are not, or one is outside
                the vocabulary (on CUDA, where nothing waits for the device, its hidden state is NaN).
        """
        sequences.require_ids(tokens)
        padded = pad_to_bucket(tokens)
        states = list(self._states(padded, sequences.padded_to(len(padded)), every=output_hidden_states))
        if output_hidden_states:
            hidden_states = tuple(state[: len(tokens)] for state in states)
            return hidden_states[-1], hidden_states
        return states[-1][: len(tokens)]

    def _states(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, every: bool
    ) -> Iterator[Float[Tensor, "tokens hidden"]]:
        """The final hidden states; with `every`, also those before each layer."""
        config = self.config
        ropes = {
            theta: Rope.of(sequences.positions, config.head_dim, theta)
            for theta in {config.global_rope_theta, config.local_rope_theta}
        }
        x: Tensor = self.embeddings(tokens)
        added: Tensor | None = None
        for index, layer in enumerate(self.layers):
            if every:
                yield x if added is None else x + added
            x, added = layer(x, added, sequences, ropes[config.rope_theta(index)])
        assert added is not None, "an encoder has a layer"
        yield add_norm(x, added, self.final_norm)[1]
