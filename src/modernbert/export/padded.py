"""The encoder and its heads on padded batches: what a graph for another runtime is traced from.

The modules hold the very parameters of a packed model and compute the same function, on `input_ids` and
`attention_mask` of (batch, length), with padding on either side. Attention is one operator of its own in the trace, for
which `graph_attention` has the ONNX form.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.model import MaskedLM, MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier
from modernbert.model.encoder import Attention, Encoder
from modernbert.model.heads import TaskModel

# What is added to the score of a key that must not be seen. Finite, so that a row without a key is not NaN, and within
# the range of fp16.
HIDDEN = -30_000.0


@torch.library.custom_op("modernbert_export::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """softmax(q k^T + bias) v where |i - j| <= window; a window of -1 is global. q is scaled already.

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


class PaddedEncoder(nn.Module):
    """An `Encoder` for padded batches; its parameters are shared."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length hidden"]:
        """Hidden states after the final norm. Those of padding are finite and mean nothing."""
        config, encoder = self.config, self.encoder
        bias = (1.0 - attention_mask.to(torch.float32)) * HIDDEN
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).to(torch.float32)
        thetas = {config.global_rope_theta, config.local_rope_theta}
        ropes = {theta: _angles(positions, config.head_dim, theta) for theta in thetas}
        x = encoder.embeddings.norm(encoder.embeddings.tok_embeddings(input_ids))
        for index, layer in enumerate(encoder.layers):
            x = x + _attend(layer.attn, layer.attn_norm(x), bias, ropes[config.rope_theta(index)])
            hidden, gate = layer.mlp.Wi(layer.mlp_norm(x)).chunk(2, -1)
            x = x + layer.mlp.Wo(F.gelu(hidden) * gate)
        normed: Tensor = encoder.final_norm(x)
        return normed


def _angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = positions[:, None] * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def _attend(attn: Attention, x: Tensor, bias: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    batch, length, hidden = x.shape
    head_dim = hidden // attn.num_heads
    q, k, v = (
        part.reshape(batch, length, attn.num_heads, head_dim).transpose(1, 2) for part in attn.Wqkv(x).chunk(3, -1)
    )
    q, k = _rotated(q * head_dim**-0.5, rope), _rotated(k, rope)
    y = attention(q, k, v, bias, -1 if attn.window is None else attn.window)
    projected: Tensor = attn.Wo(y.transpose(1, 2).reshape(batch, length, hidden))
    return projected


def _rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def mean_of(x: Float[Tensor, "batch length hidden"], mask: Int[Tensor, "batch length"]) -> Float[Tensor, "batch hidden"]:
    """The mean over the real tokens of each row."""
    real = mask.to(torch.float32)[:, :, None]
    return (x * real).sum(1) / real.sum(1).clamp(min=1.0)


def first_of(
    x: Float[Tensor, "batch length hidden"], mask: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch hidden"]:
    """The first real token of each row, wherever the padding is."""
    index = mask.argmax(1)[:, None, None].expand(-1, 1, x.shape[2])
    return x.gather(1, index).squeeze(1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean_of, "cls": first_of}


class PaddedMaskedLM(nn.Module):
    """`logits` of every token over the vocabulary."""

    outputs = ("logits",)

    def __init__(self, model: MaskedLM) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch length vocab"]:
        logits: Tensor = self.model.decoder(_headed(self.model, self.encoder(input_ids, attention_mask)))
        return logits


class PaddedTokenTask(nn.Module):
    """`logits` of every token, of a head that labels tokens."""

    outputs = ("logits",)

    def __init__(self, model: TokenClassifier) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch length labels"]:
        return _classified(self.model, self.encoder(input_ids, attention_mask))


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
        scores = _classified(self.model, self.encoder(input_ids, attention_mask))
        bias = (1.0 - attention_mask.to(torch.float32)) * HIDDEN
        return scores[:, :, 0] + bias, scores[:, :, 1] + bias


class PaddedSequenceTask(nn.Module):
    """`logits` of every row: of a sequence classifier, or one score for each choice of a question."""

    outputs = ("logits",)

    def __init__(self, model: SequenceClassifier | MultipleChoice) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(model.model)
        self.model = model
        self.pool = POOLINGS[model.config.classifier_pooling]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch labels"]:
        pooled = self.pool(self.encoder(input_ids, attention_mask), attention_mask)
        return _classified(self.model, pooled)


class PaddedHiddenStates(nn.Module):
    """`last_hidden_state` of the bare encoder."""

    outputs = ("last_hidden_state",)

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(encoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch length hidden"]:
        hidden: Tensor = self.encoder(input_ids, attention_mask)
        return hidden


def _headed(model: MaskedLM | TaskModel, x: Tensor) -> Tensor:
    headed: Tensor = model.head.norm(F.gelu(model.head.dense(x)))
    return headed


def _classified(model: TaskModel, x: Tensor) -> Tensor:
    logits: Tensor = model.classifier(_headed(model, x))
    return logits
