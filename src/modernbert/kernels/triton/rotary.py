"""Rotation of packed queries and keys (RoPE, Su et al. 2021, arXiv 2104.09864) in one pass over memory."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from modernbert.kernels.triton.launch import on_device_of, power_of_two

TOKENS, WARPS = 4, 4  # of a program, which rotates one of q, k and v: 6 KiB at 12 heads of 64


@triton.jit
@no_type_check
def rotate_kernel(
    q,
    k,
    v,
    out,
    cos,
    sin,
    tokens,
    q_stride,
    k_stride,
    v_stride,
    out_stride,
    angle_stride,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    INVERSE: tl.constexpr,
):
    """Rotate parts 0 and 1 by the angles of their tokens, and copy part 2: each is (tokens, heads, 2 * HALF)."""
    part = tl.program_id(1)
    rows = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    head = tl.arange(0, HEADS_BLOCK)
    column = tl.arange(0, HALF_BLOCK)
    mask = (rows[:, None, None] < tokens) & (head[None, :, None] < HEADS) & (column[None, None, :] < HALF)
    inside = head[None, :, None] * (2 * HALF) + column[None, None, :]
    rows = rows.to(tl.int64)
    to = out + rows[:, None, None] * out_stride + part * HEADS * 2 * HALF + inside
    if part == 2:
        x = v + rows[:, None, None] * v_stride + inside
        tl.store(to, tl.load(x, mask), mask)
        tl.store(to + HALF, tl.load(x + HALF, mask), mask)
    else:
        x = q + rows[:, None, None] * q_stride + inside
        if part == 1:
            x = k + rows[:, None, None] * k_stride + inside
        known = (rows[:, None, None] < tokens) & (column[None, None, :] < HALF)
        angle = rows[:, None, None] * angle_stride + column[None, None, :]
        c = tl.load(cos + angle, known, other=0.0)
        s = tl.load(sin + angle, known, other=0.0)
        if INVERSE:
            s = -s
        first = tl.load(x, mask, other=0.0).to(tl.float32)
        second = tl.load(x + HALF, mask, other=0.0).to(tl.float32)
        tl.store(to, (first * c - second * s).to(out.dtype.element_ty), mask)
        tl.store(to + HALF, (second * c + first * s).to(out.dtype.element_ty), mask)


def rotate(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens heads head_dim"],
    v: Float[Tensor, "tokens heads head_dim"] | None,
    cos: Float[Tensor, "tokens half"],
    sin: Float[Tensor, "tokens half"],
    out: Float[Tensor, "tokens 3 heads head_dim"],
    *,
    inverse: bool = False,
) -> None:
    """Write q and k, rotated by the angles of their tokens (or back), and v into `out`.

    `out` may be the tensor that contains q, k and v; then pass None for v. Angles are fp32 with rows of equal stride;
    each token of q, k and v is contiguous.
    """
    tokens, heads, dim = q.shape
    if tokens == 0:
        return
    assert dim % 2 == 0, "head_dim must be even"
    assert all(x.stride(2) == 1 and x.stride(1) == dim for x in (q, k, q if v is None else v))
    assert out.is_contiguous()
    assert cos.stride() == sin.stride()
    half = dim // 2
    grid = (triton.cdiv(tokens, TOKENS), 2 if v is None else 3)
    with on_device_of(q):
        rotate_kernel[grid](
            q, k, k if v is None else v, out, cos, sin, tokens, q.stride(0), k.stride(0),
            k.stride(0) if v is None else v.stride(0), out.stride(0), cos.stride(0),
            HEADS=heads, HALF=half, HEADS_BLOCK=power_of_two(heads), HALF_BLOCK=power_of_two(half),
            TOKENS=TOKENS, INVERSE=inverse, num_warps=WARPS,
        )  # fmt: skip


def rotated(qkv: Float[Tensor, "tokens 3 heads head_dim"], cos: Tensor, sin: Tensor) -> Tensor:
    """A copy of packed q, k and v in which q and k are rotated."""
    out = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    q, k, v = qkv.unbind(1)
    rotate(q, k, v, cos, sin, out)
    return out
