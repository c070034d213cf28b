"""The encoder and its heads on padded batches, from which graphs for other runtimes are traced.

The modules share the parameters of a packed model and compute the same function on `input_ids` and `attention_mask` of
(batch, length), with padding on either side. Attention is a custom operator in the trace; `graph_attention` has its
ONNX form.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.model import MaskedLM, MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier
from modernbert.model.encoder import Attention, Encoder, Layer
from modernbert.model.heads import TaskModel
from modernbert.model.pooling import PoolingMode
from modernbert.model.retrieval import DenseEncoder, MultiVectorEncoder, SparseEncoder

# Added to the score of a masked key. Finite, so that a row without a key does not become NaN, and in the range of fp16.
HIDDEN = -30_000.0


@torch.library.custom_op("modernbert_export::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """softmax(q k^T + bias) v where |i - j| <= window; a window of -1 is global. q must be scaled.

    q, k, v are (batch, heads, length, head_dim), bias is (batch, length), one number for each key.
    """
    scores = q @ k.transpose(2, 3) + bias[:, None, None]
    if window >= 0:
        index = torch.arange(q.shape[2], device=q.device)
        far = (index[:, None] - index).abs() > window
        scores = scores + torch.zeros_like(far, dtype=scores.dtype).masked_fill(far, HIDDEN)
    return scores.softmax(-1) @ v


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """The same function as `attention` with torch's operators, for runtimes that fuse them."""
    mask = bias[:, None, None]
    if window >= 0:
        index = torch.arange(q.shape[2], device=q.device)
        far = (index[:, None] - index).abs() > window
        mask = mask + far.to(q.dtype) * HIDDEN
    return F.scaled_dot_product_attention(q, k, v, mask.expand(-1, 1, q.shape[2], -1), scale=1.0)


class PaddedEncoder(nn.Module):
    """An `Encoder` for padded batches; its parameters are shared. `attend` may be `masked_attention` instead."""

    attend: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.attend = attention

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length hidden"]:
        """Hidden states after the final norm. Those of padding are finite and have no meaning."""
        config, encoder = self.config, self.encoder
        bias = (1.0 - attention_mask.to(torch.float32)) * HIDDEN
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).to(torch.float32)
        thetas = {config.global_rope_theta, config.local_rope_theta}
        ropes = {theta: _angles(positions, config.head_dim, theta) for theta in thetas}
        x = encoder.embeddings.norm(encoder.embeddings.tok_embeddings(input_ids))
        for index, layer in enumerate(cast(Iterable[Layer], encoder.layers)):
            x = x + self._attention(layer.attn, layer.attn_norm(x), bias, ropes[config.rope_theta(index)])
            hidden, gate = layer.mlp.Wi(layer.mlp_norm(x)).chunk(2, -1)
            x = x + layer.mlp.Wo(F.gelu(hidden) * gate)
        normed: Tensor = encoder.final_norm(x)
        return normed

    def _attention(self, attn: Attention, x: Tensor, bias: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, hidden = x.shape
        head_dim = hidden // attn.num_heads
        q, k, v = (
            part.reshape(batch, length, attn.num_heads, head_dim).transpose(1, 2) for part in attn.Wqkv(x).chunk(3, -1)
        )
        q, k = _rotate(q * head_dim**-0.5, rope), _rotate(k, rope)
        y = self.attend(q, k, v, bias, -1 if attn.window is None else attn.window)
        projected: Tensor = attn.Wo(y.transpose(1, 2).reshape(batch, length, hidden))
        return projected


def _angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = positions[:, None] * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _weights(mask: Tensor, mode: str) -> Tensor:
    """The weight of each token in a mean; for `weightedmean` it is the position in the row, from 1."""
    real = mask.to(torch.float32)
    return real * real.cumsum(1) if mode == "weightedmean" else real


def pool(
    x: Float[Tensor, "batch length hidden"], mask: Int[Tensor, "batch length"], mode: PoolingMode
) -> Float[Tensor, "batch hidden"]:
    """One vector for each row from its real tokens, equal to that of `model.pooling`, with padding on either side."""
    if mode in ("cls", "lasttoken"):
        index = mask.argmax(1) if mode == "cls" else mask.shape[1] - 1 - mask.flip(1).argmax(1)
        return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)
    if mode == "max":
        return (x + ((1.0 - mask.to(torch.float32)) * HIDDEN)[:, :, None]).amax(1)
    weights = _weights(mask, mode)[:, :, None]
    total = weights.sum(1).clamp(min=1.0)
    return (x * weights).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


class PaddedMaskedLM(nn.Module):
    """`logits` of every token over the vocabulary."""

    outputs = ("logits",)

    def __init__(self, model: MaskedLM) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch length vocab"]:
        logits: Tensor = self.model.decoder(_apply_head(self.model, self.encoder(input_ids, attention_mask)))
        return logits


class PaddedTokenTask(nn.Module):
    """`logits` of every token from a token classifier."""

    outputs = ("logits",)

    def __init__(self, model: TokenClassifier) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch length labels"]:
        return _classify(self.model, self.encoder(input_ids, attention_mask))


class PaddedAnswers(nn.Module):
    """`start_logits` and `end_logits` of every token. Padding has the lowest scores."""

    outputs = ("start_logits", "end_logits")

    def __init__(self, model: QuestionAnswering) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
        scores = _classify(self.model, self.encoder(input_ids, attention_mask))
        bias = (1.0 - attention_mask.to(torch.float32)) * HIDDEN
        return scores[:, :, 0] + bias, scores[:, :, 1] + bias


class PaddedSequenceTask(nn.Module):
    """`logits` of every row: of a sequence classifier, or one score for each choice of a question."""

    outputs = ("logits",)

    def __init__(self, model: SequenceClassifier | MultipleChoice) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model
        self.mode: PoolingMode = model.config.classifier_pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch labels"]:
        pooled = pool(self.encoder(input_ids, attention_mask), attention_mask, self.mode)
        return _classify(self.model, pooled)


class PaddedHiddenStates(nn.Module):
    """`last_hidden_state` of the bare encoder."""

    outputs = ("last_hidden_state",)

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(encoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch length hidden"]:
        hidden: Tensor = self.encoder(input_ids, attention_mask)
        return hidden


class PaddedEmbedder(nn.Module):
    """`last_hidden_state`, and `sentence_embedding`: pooled, projected and normalized by the settings of the folder."""

    outputs = ("last_hidden_state", "sentence_embedding")

    def __init__(self, model: DenseEncoder) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.projections = model.projections
        self.settings = model.settings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Float[Tensor, "batch length hidden"], Float[Tensor, "batch dimensions"]]:
        hidden = self.encoder(input_ids, attention_mask)
        pooled = torch.cat([pool(hidden, attention_mask, mode) for mode in self.settings.pooling], -1)
        vectors = self.projections(pooled)
        return hidden, F.normalize(vectors, dim=-1) if self.settings.normalize else vectors


class PaddedTokenVectors(nn.Module):
    """`last_hidden_state`, and `token_embeddings`: the projected vector of every token, for late interaction.

    Masked tokens have vectors too, since the query expansion with [MASK] uses them.
    """

    outputs = ("last_hidden_state", "token_embeddings")

    def __init__(self, model: MultiVectorEncoder) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.projections = model.projections
        self.normalize = model.settings.normalize

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Float[Tensor, "batch length hidden"], Float[Tensor, "batch length dimensions"]]:
        hidden = self.encoder(input_ids, attention_mask)
        vectors = self.projections(hidden)
        return hidden, F.normalize(vectors, dim=-1) if self.normalize else vectors


class PaddedWordWeights(nn.Module):
    """`sentence_embedding`: a weight for each entry of the vocabulary (SPLADE)."""

    outputs = ("sentence_embedding",)

    def __init__(self, model: SparseEncoder) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model
        self.settings = model.settings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch vocab"]:
        logits = self.model.decoder(_apply_head(self.model, self.encoder(input_ids, attention_mask)))
        weights = (logits.relu() + 1.0).log()
        if self.settings.activation == "log1p_relu":
            weights = (weights + 1.0).log()
        weights = weights * attention_mask.to(torch.float32)[:, :, None]
        summed: Tensor = weights.amax(1) if self.settings.pooling == "max" else weights.sum(1)
        return summed


def _apply_head(model: MaskedLM | TaskModel, x: Tensor) -> Tensor:
    headed: Tensor = model.head.norm(F.gelu(model.head.dense(x)))
    return headed


def _classify(model: TaskModel, x: Tensor) -> Tensor:
    logits: Tensor = model.classifier(_apply_head(model, x))
    return logits
