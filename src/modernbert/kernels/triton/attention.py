"""Variable-length attention on packed q, k and v; a window layer computes only the blocks in its window.

Queries and keys are rotated in one pass before; `attention_kernels` computes tiles of the sizes that are set here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.kernels.rotary import Rope
from modernbert.kernels.triton.attention_kernels import (
    LOG2_E,
    attention_forward_kernel,
    attention_key_gradient_kernel,
    attention_query_gradient_kernel,
)
from modernbert.kernels.triton.launch import on_device_of, power_of_two
from modernbert.kernels.triton.rotary import rotated
from modernbert.kernels.triton.tiles import tiles
from modernbert.packed import Sequences


@dataclass(frozen=True)
class Blocks:
    """The sizes of one kernel: rows of a program's tile, rows of a block in its loop, warps, and pipeline stages.

    `registers` is the maximum number per thread, so that more programs fit on a multiprocessor.
    """

    tile_rows: int
    block_rows: int
    warps: int
    stages: int
    registers: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """The launch options of a kernel."""
        found = {"num_warps": self.warps, "num_stages": self.stages}
        return found if self.registers is None else found | {"maxnreg": self.registers}


# (forward, query gradient, key gradient): the fastest of a dozen sizes each on H100 and H200 with head_dim 64
GLOBAL = Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3), Blocks(64, 64, 4, 3, 168)
LOCAL = Blocks(64, 32, 4, 3), Blocks(64, 32, 4, 2), Blocks(64, 32, 4, 2, 128)
WIDE = (
    Blocks(64, 32, 4, 2),
    Blocks(64, 32, 4, 1),
    Blocks(64, 32, 4, 1),
)  # for head_dim above 64 and fp32, which need more shared memory


def blocks(window: int, dim: int, dtype: torch.dtype) -> tuple[Blocks, Blocks, Blocks]:
    """The sizes of the three kernels for a window (negative is global), a head size and a dtype."""
    if dim > 64 or dtype == torch.float32:
        return WIDE
    return GLOBAL if window < 0 else LOCAL


def tile_sizes(window: int, dim: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows of the tiles of the three kernels."""
    forward, queries, keys = blocks(window, dim, dtype)
    return forward.tile_rows, queries.tile_rows, keys.tile_rows


def forward(qkv: Tensor, row_tiles: Tensor, window: int, sizes: Blocks | None = None) -> tuple[Tensor, Tensor]:
    """Attention with rotated q and k, (tokens, 3, heads, head_dim) contiguous: the result, and the base-2 logsumexp of
    the scores, (heads, tokens)."""
    tokens, _, heads, dim = qkv.shape
    out = qkv.new_empty(tokens, heads, dim)
    logsumexp = qkv.new_empty(heads, tokens, dtype=torch.float32)
    size = sizes or blocks(window, dim, qkv.dtype)[0]
    if tokens:
        with on_device_of(qkv):
            attention_forward_kernel[(len(row_tiles), heads)](
                qkv, row_tiles, out, logsumexp, tokens, dim**-0.5 * LOG2_E.value,
                HEADS=heads, DIM=dim, DIM_BLOCK=power_of_two(dim), WINDOW=window, ROWS=size.tile_rows,
                KEYS=size.block_rows, PRECISE=qkv.dtype == torch.float32, **size.options,
            )  # fmt: skip
    return out, logsumexp


def backward(
    grad: Tensor,
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    query_tiles: Tensor,
    key_tiles: Tensor,
    window: int,
    out: Tensor,
    logsumexp: Tensor,
    sizes: tuple[Blocks, Blocks] | None = None,
) -> Tensor:
    """The gradient of q, k and v before the rotation; `qkv` is the input of `forward`."""
    tokens, _, heads, dim = qkv.shape
    grad, result = grad.contiguous(), torch.empty_like(qkv)
    delta = torch.empty_like(logsumexp)
    queries, keys = sizes or blocks(window, dim, qkv.dtype)[1:]
    angles = (cos, sin, cos.stride(0)) if cos is not None else (logsumexp, logsumexp, 0)
    constants = {
        "HEADS": heads, "DIM": dim, "DIM_BLOCK": power_of_two(dim), "WINDOW": window, "ROTATED": cos is not None,
        "PRECISE": qkv.dtype == torch.float32,
    }  # fmt: skip
    if tokens:
        scale = dim**-0.5 * LOG2_E.value
        with on_device_of(qkv):
            attention_query_gradient_kernel[(len(query_tiles), heads)](
                qkv, query_tiles, out, logsumexp, grad, delta, result, *angles, tokens, scale,
                ROWS=queries.tile_rows, KEYS=queries.block_rows, **queries.options, **constants,
            )  # fmt: skip
            attention_key_gradient_kernel[(len(key_tiles), heads)](
                qkv, key_tiles, logsumexp, grad, delta, result, *angles, tokens, scale,
                KEYS=keys.tile_rows, ROWS=keys.block_rows, **keys.options, **constants,
            )  # fmt: skip
    return result


def varlen_attention(
    qkv: Float[Tensor, "tokens 3 heads head_dim"], sequences: Sequences, window: int | None, rope: Rope | None
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window; `rope` rotates q and k."""
    side = _side(window, sequences)
    forward_tiles, query_tiles, key_tiles = (
        tiles(sequences, size) for size in tile_sizes(side, qkv.shape[-1], qkv.dtype)
    )
    cos, sin = (None, None) if rope is None else rope.angles
    output: Tensor = triton_attention(qkv, cos, sin, forward_tiles, query_tiles, key_tiles, side)[0]
    return output


def attend(
    rotated_qkv: Float[Tensor, "tokens 3 heads head_dim"], sequences: Sequences, window: int | None
) -> Float[Tensor, "tokens heads head_dim"]:
    """Attention with rotated q and k, without gradients."""
    side = _side(window, sequences)
    size = tile_sizes(side, rotated_qkv.shape[-1], rotated_qkv.dtype)[0]
    return forward(rotated_qkv, tiles(sequences, size), side)[0]


def _side(window: int | None, sequences: Sequences) -> int:
    """The number of visible tokens on each side; -1 for no window, or one that covers all sequences."""
    return -1 if window is None or window >= sequences.max_length else window


@torch.library.custom_op("modernbert::triton_attention", mutates_args=())
def triton_attention(
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    forward_tiles: Tensor,
    query_tiles: Tensor,
    key_tiles: Tensor,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention after the rotation of q and k, the logsumexp, and rotated q, k and v for the backward pass.

    `cos` and `sin` are (tokens, head_dim / 2), fp32, with rows of equal stride. A negative window is global.
    """
    rotated_qkv = qkv.contiguous().clone() if cos is None or sin is None else rotated(qkv, cos, sin)
    return *forward(rotated_qkv, forward_tiles, window), rotated_qkv


@triton_attention.register_fake
def _(qkv: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    tokens, _, heads, dim = qkv.shape
    shapes = qkv.new_empty(tokens, heads, dim), qkv.new_empty(heads, tokens, dtype=torch.float32)
    return *shapes, torch.empty_like(qkv, memory_format=torch.contiguous_format)


@torch.library.custom_op("modernbert::triton_attention_backward", mutates_args=())
def triton_attention_backward(
    grad: Tensor,
    rotated_qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    query_tiles: Tensor,
    key_tiles: Tensor,
    window: int,
    out: Tensor,
    logsumexp: Tensor,
) -> Tensor:
    """The gradient of qkv."""
    return backward(grad, rotated_qkv, cos, sin, query_tiles, key_tiles, window, out, logsumexp)


@triton_attention_backward.register_fake
def _(grad: Tensor, rotated_qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(rotated_qkv)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, cos, sin, _, query_tiles, key_tiles, window = inputs
    out, logsumexp, rotated_qkv = output
    ctx.window = window
    ctx.save_for_backward(rotated_qkv, cos, sin, query_tiles, key_tiles, out, logsumexp)
    ctx.mark_non_differentiable(logsumexp, rotated_qkv)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    rotated_qkv, cos, sin, query_tiles, key_tiles, out, logsumexp = ctx.saved_tensors
    found = triton_attention_backward(grad, rotated_qkv, cos, sin, query_tiles, key_tiles, ctx.window, out, logsumexp)
    return found, None, None, None, None, None, None


triton_attention.register_autograd(_differentiate, setup_context=_keep)
