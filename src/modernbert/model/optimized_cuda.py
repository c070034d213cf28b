"""An encoder for inference on a CUDA device: weights in half precision, and CUDA graphs for small batches.

It equals the modules of the encoder in that dtype. For batches up to about ten thousand tokens, kernels run faster
than Python launches them. So a batch is padded to one of a few sizes. When a size occurs a second time, its pass is
recorded as a CUDA graph, which is replayed in one launch.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modernbert.errors import BackendError
from modernbert.kernels import Rope, triton
from modernbert.model.encoder import Encoder, Layer
from modernbert.packed import Sequences

GRAPH_TOKENS = (
    *(32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096),
    *range(5120, 16_385, 1024),
    *range(18_432, 65_537, 2048),
)
GRAPH_SEQUENCES = (1, 8, 64, 512)
_MAX_GRAPHS = 32  # the least recently used ones are removed


def unsupported_reason(encoder: Encoder) -> str | None:
    """The reason why an encoder is not supported, or None."""
    weight, config = encoder.embeddings.tok_embeddings.weight, encoder.config
    if weight.device.type != "cuda":
        return f"its weights are on {weight.device.type}, not on a CUDA device"
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return f"its weights are {weight.dtype}, not bf16 or fp16"
    if reason := triton.unavailable():
        return f"the triton backend {reason}"
    if config.norm_bias or config.attention_bias or config.mlp_bias:
        return "the kernels do not support biases"
    return None


@dataclass(frozen=True)
class _Weights:
    """One layer. Linear weights are (inputs, outputs): transposed views, multiplied with rows of tokens."""

    qkv: Tensor
    attention_out: Tensor
    mlp_norm: Tensor
    up: Tensor
    down: Tensor
    next_norm: Tensor  # of the next layer, or the final one
    window: int | None
    rope: int  # which of the two rotations


@dataclass(frozen=True)
class _Graph:
    """A recorded pass, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    cu_seqlens: Tensor
    positions: Tensor
    hidden: Tensor


class CudaEncoder(nn.Module):
    """Replaces an `Encoder` on a CUDA device with the same call, without gradients.

    The residual stream is in the dtype of the weights; norms, softmax and sums are fp32. Calls from several threads
    are safe on one stream.

    Raises:
        BackendError: the encoder is not in half precision on a CUDA device, or has biases.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if reason := unsupported_reason(encoder):
            raise BackendError(f"The encoder is not supported: {reason}; use it unchanged.")
        self.config = config = encoder.config
        self.tok_embeddings = encoder.embeddings.tok_embeddings
        self._embedding_norm = encoder.embeddings.norm.weight.detach().float()
        self._thetas = thetas = (config.global_rope_theta, config.local_rope_theta)
        layers = [cast(Layer, layer) for layer in encoder.layers]
        norms = [*(cast(nn.LayerNorm, layer.attn_norm) for layer in layers[1:]), encoder.final_norm]
        self._layers = [
            _Weights(
                qkv=layer.attn.Wqkv.weight.detach().t(),
                attention_out=layer.attn.Wo.weight.detach().t(),
                mlp_norm=layer.mlp_norm.weight.detach().float(),
                up=layer.mlp.Wi.weight.detach().t(),
                down=layer.mlp.Wo.weight.detach().t(),
                next_norm=norm.weight.detach().float(),
                window=config.window(index),
                rope=thetas.index(config.rope_theta(index)),
            )
            for index, (layer, norm) in enumerate(zip(layers, norms, strict=True))
        ]
        positions = torch.arange(config.max_position_embeddings, device=self.tok_embeddings.weight.device)
        self._angles = [Rope.of(positions, config.head_dim, theta).angles for theta in thetas]
        self._graphs: OrderedDict[tuple[int, int], _Graph] = OrderedDict()
        self._seen: set[tuple[int, int]] = set()
        self._pool: Any = None  # the memory pool of all graphs
        self._lock = threading.Lock()

    @torch.no_grad()
    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "tokens hidden"]:
        """Hidden states after the final norm, one row for each packed token; NaN of an id outside the vocabulary.

        Raises:
            DataError: as `Encoder`, but for that.
        """
        sequences.require_ids(tokens)
        if sequences.max_length > self.config.max_position_embeddings:
            ropes = [Rope.of(sequences.positions, self.config.head_dim, theta).angles for theta in self._thetas]
            return self._encode(tokens, sequences, ropes)
        shape = graph_shape(len(tokens), sequences.num_sequences)
        if shape is not None and len(tokens) and not torch.cuda.is_current_stream_capturing():
            with self._lock:
                if shape in self._graphs or shape in self._seen:
                    return self._replay(tokens, sequences, shape)[: len(tokens)].clone()
                self._seen.add(shape)
        return self._encode(tokens, sequences, self._ropes(sequences.positions))

    def _ropes(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The angles of every token for both RoPE bases, from the table."""
        return [(cos[positions], sin[positions]) for cos, sin in self._angles]

    def _encode(self, tokens: Tensor, sequences: Sequences, ropes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        from modernbert.kernels.triton import attention, geglu, norm, rotary

        config, dtype = self.config, self.tok_embeddings.weight.dtype
        heads, epsilon = config.num_attention_heads, config.norm_eps
        x = normed = norm.embedding_norm(tokens, self.tok_embeddings.weight, self._embedding_norm, epsilon, dtype)[0]
        for layer in self._layers:
            qkv = (normed @ layer.qkv).view(len(tokens), 3, heads, -1)
            q, k, _ = qkv.unbind(1)
            rotary.rotate(q, k, None, *ropes[layer.rope], qkv)
            attended = attention.attend(qkv, sequences, layer.window)
            y = attended.flatten(1) @ layer.attention_out
            x, normed, _, _ = norm.add_norm(x, y, layer.mlp_norm, epsilon, dtype)
            y = geglu.geglu(normed @ layer.up) @ layer.down
            x, normed, _, _ = norm.add_norm(x, y, layer.next_norm, epsilon, dtype)
        return normed

    @torch.inference_mode()
    def _replay(self, tokens: Tensor, sequences: Sequences, shape: tuple[int, int]) -> Tensor:
        """Run the graph of a shape. Output rows after the real ones are undefined."""
        if shape not in self._graphs:
            if len(self._graphs) == _MAX_GRAPHS:
                torch.cuda.synchronize(tokens.device)  # the removed graph may still be running
                self._graphs.popitem(last=False)
            self._graphs[shape] = self._record(*shape)
        self._graphs.move_to_end(shape)
        recorded = self._graphs[shape]
        count = len(tokens)
        recorded.tokens[:count].copy_(tokens)
        recorded.positions[:count].copy_(sequences.positions)
        boundaries = sequences.cu_seqlens
        recorded.cu_seqlens[: len(boundaries)].copy_(boundaries)
        recorded.cu_seqlens[len(boundaries) :].fill_(count)
        recorded.graph.replay()
        return recorded.hidden

    @torch.inference_mode()
    def _record(self, count: int, num_sequences: int) -> _Graph:
        """Record the graph of a shape. Rows after the last sequence belong to no sequence and are not read."""
        device = self.tok_embeddings.weight.device
        tokens = torch.zeros(count, dtype=torch.int64, device=device)
        positions = torch.arange(count, device=device).clamp(max=self.config.max_position_embeddings - 1)
        cu_seqlens = torch.full((num_sequences + 1,), count, dtype=torch.int32, device=device)
        cu_seqlens[0] = 0

        def run() -> Tensor:
            sequences = Sequences.unchecked(cu_seqlens, count, positions, positions, (num_sequences, count))
            return self._encode(tokens, sequences, self._ropes(positions))

        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            run()  # compiles
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            hidden = run()
        self._pool = graph.pool()
        return _Graph(graph, tokens, cu_seqlens, positions, hidden)


def graph_shape(tokens: int, sequences: int) -> tuple[int, int] | None:
    """The smallest size that fits a batch, or None."""
    count = next((size for size in GRAPH_TOKENS if size >= tokens), None)
    number = next((size for size in GRAPH_SEQUENCES if size >= sequences), None)
    return None if count is None or number is None else (count, number)
