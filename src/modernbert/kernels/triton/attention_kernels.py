"""The kernels of attention: forward, the gradient of queries, and that of keys and values.

The softmax is computed online, one block of keys after the other, and the backward pass computes the scores again (Dao
et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691). A program computes a tile of rows of one sequence, so no
atomics are needed and the results are deterministic. Gradients are rotated back in registers, before they are written.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
@no_type_check
def _matmul(a, b, PRECISE: tl.constexpr):
    """a @ b with an fp32 result; fp32 inputs are multiplied without TF32."""
    if PRECISE:
        return tl.dot(a, b, input_precision="ieee")
    return tl.dot(a, b)


@triton.jit
@no_type_check
def _columns(DIM: tl.constexpr, DIM_BLOCK: tl.constexpr):
    """Columns of a head with each half padded to DIM_BLOCK / 2, and a mask of the columns that are not padding."""
    column = tl.arange(0, DIM_BLOCK)
    if DIM == DIM_BLOCK:
        return column, column < DIM
    half = column // (DIM_BLOCK // 2)
    inside = column % (DIM_BLOCK // 2)
    return half * (DIM // 2) + inside, inside < DIM // 2


@triton.jit
@no_type_check
def _rotate_back(x, cos, sin, rows, valid, angle_stride, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr):
    """Rotate the gradients of rotated rows (rows, DIM_BLOCK) back."""
    HALF: tl.constexpr = DIM_BLOCK // 2
    first, second = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, HALF)), (0, 2, 1)))
    column = tl.arange(0, HALF)
    valid_elements = valid[:, None] & (column[None, :] < DIM // 2)
    at = rows.to(tl.int64)[:, None] * angle_stride + column[None, :]
    c = tl.load(cos + at, valid_elements, other=0.0)
    s = tl.load(sin + at, valid_elements, other=0.0)
    rotated = tl.join(first * c + second * s, second * c - first * s)
    return tl.reshape(tl.permute(rotated, (0, 2, 1)), (x.shape[0], DIM_BLOCK))


@triton.jit
@no_type_check
def _tile_bounds(tiles):
    """The first row of this program, and the first row and the end of its sequence."""
    at = tiles + 3 * tl.program_id(0)
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit
@no_type_check
def _block_range(first, begin, end, OWN: tl.constexpr, VISIT: tl.constexpr, WINDOW: tl.constexpr):
    """The range of rows that a tile attends to or from, and the end of the blocks in it that need no mask."""
    if WINDOW >= 0:
        lower = tl.maximum(begin, first - WINDOW)
        return lower, tl.minimum(end, first + OWN + WINDOW), lower
    return begin, end, begin + (end - begin) // VISIT * VISIT


@triton.jit
@no_type_check
def _load(at, rows, stride, upper, columns, real, MASKED: tl.constexpr, FULL: tl.constexpr):
    """Rows of a head (rows, DIM_BLOCK), with zeros from `upper` on and in padding columns."""
    pointers = at + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    if MASKED:
        return tl.load(pointers, (rows < upper)[:, None] & real[None, :], other=0.0)
    if FULL:
        return tl.load(pointers)
    return tl.load(pointers, real[None, :], other=0.0)


@triton.jit
@no_type_check
def _within_window(rows, keys, WINDOW: tl.constexpr):
    """A mask (rows, keys) of the pairs whose distance is at most the window."""
    distance = keys[None, :] - rows[:, None]
    return (distance <= WINDOW) & (distance >= -WINDOW)


@triton.jit
@no_type_check
def _attend(
    maximum, total, value, q, rows, start, upper, k_at, v_at, stride, columns, real, scale,
    WINDOW: tl.constexpr, KEYS: tl.constexpr, PRECISE: tl.constexpr, MASKED: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Update the softmax statistics and weighted values of a tile of queries with another block of keys."""
    keys = start + tl.arange(0, KEYS)
    k = _load(k_at, keys, stride, upper, columns, real, MASKED, FULL)
    s = _matmul(q, tl.trans(k), PRECISE)
    if MASKED:
        visible = (keys < upper)[None, :]
        if WINDOW >= 0:
            visible = visible & _within_window(rows, keys, WINDOW)
        s = tl.where(visible, s, float("-inf"))
    new_max = tl.maximum(maximum, tl.max(s, 1) * scale)
    safe = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.exp2(s * scale - safe[:, None])
    rescale = tl.exp2(maximum - safe)
    v = _load(v_at, keys, stride, upper, columns, real, MASKED, FULL)
    value = value * rescale[:, None] + _matmul(p.to(v.dtype), v, PRECISE)
    return new_max, total * rescale + tl.sum(p, 1), value


@triton.jit
@no_type_check
def attention_forward_kernel(
    qkv, tiles, out, logsumexp, tokens, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """Attention of a tile of queries of one head. `scale` and `logsumexp` (heads, tokens) are for base 2."""
    head = tl.program_id(1)
    first, begin, end = _tile_bounds(tiles)
    if first >= end:
        return
    WIDTH: tl.constexpr = HEADS * DIM
    FULL: tl.constexpr = DIM == DIM_BLOCK
    columns, real = _columns(DIM, DIM_BLOCK)
    rows = first + tl.arange(0, ROWS)
    valid = rows < end
    stride = 3 * WIDTH
    at = qkv + head * DIM
    q = _load(at, rows, stride, end, columns, real, True, FULL)
    lower, upper, unmasked = _block_range(first, begin, end, ROWS, KEYS, WINDOW)
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    value = tl.zeros((ROWS, DIM_BLOCK), tl.float32)
    if WINDOW < 0:
        for start in tl.range(lower, unmasked, KEYS):
            maximum, total, value = _attend(
                maximum, total, value, q, rows, start, upper, at + WIDTH, at + 2 * WIDTH, stride, columns, real, scale,
                WINDOW, KEYS, PRECISE, False, FULL,
            )  # fmt: skip
    for start in tl.range(unmasked, upper, KEYS):
        maximum, total, value = _attend(
            maximum, total, value, q, rows, start, upper, at + WIDTH, at + 2 * WIDTH, stride, columns, real, scale,
            WINDOW, KEYS, PRECISE, True, FULL,
        )  # fmt: skip
    total = tl.where(valid, total, 1.0)
    value = value / total[:, None]
    tl.store(logsumexp + head * tokens + rows, maximum + tl.log2(total), valid)
    to = out + rows.to(tl.int64)[:, None] * WIDTH + head * DIM + columns[None, :]
    tl.store(to, value.to(out.dtype.element_ty), valid[:, None] & real[None, :])


@triton.jit
@no_type_check
def _query_gradient(
    dq, q, do, norm, d, rows, start, upper, k_at, v_at, stride, columns, real, scale,
    WINDOW: tl.constexpr, KEYS: tl.constexpr, PRECISE: tl.constexpr, MASKED: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Add the part of another block of keys to the gradient of a tile of queries."""
    keys = start + tl.arange(0, KEYS)
    k = _load(k_at, keys, stride, upper, columns, real, MASKED, FULL)
    v = _load(v_at, keys, stride, upper, columns, real, MASKED, FULL)
    p = tl.exp2(_matmul(q, tl.trans(k), PRECISE) * scale - norm[:, None])
    if MASKED:
        visible = (keys < upper)[None, :]
        if WINDOW >= 0:
            visible = visible & _within_window(rows, keys, WINDOW)
        p = tl.where(visible, p, 0.0)
    ds = p * (_matmul(do, tl.trans(v), PRECISE) - d[:, None])
    return dq + _matmul(ds.to(k.dtype), k, PRECISE)


@triton.jit
@no_type_check
def attention_query_gradient_kernel(
    qkv, tiles, out, logsumexp, grad, delta, grad_qkv, cos, sin, angle_stride, tokens, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, ROTATED: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries. Also writes `delta`, the sum of out * grad of each row, for the keys."""
    head = tl.program_id(1)
    first, begin, end = _tile_bounds(tiles)
    if first >= end:
        return
    WIDTH: tl.constexpr = HEADS * DIM
    FULL: tl.constexpr = DIM == DIM_BLOCK
    columns, real = _columns(DIM, DIM_BLOCK)
    rows = first + tl.arange(0, ROWS)
    valid = rows < end
    stride = 3 * WIDTH
    at = qkv + head * DIM
    q = _load(at, rows, stride, end, columns, real, True, FULL)
    do = _load(grad + head * DIM, rows, WIDTH, end, columns, real, True, FULL)
    o = _load(out + head * DIM, rows, WIDTH, end, columns, real, True, FULL)
    d = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta + head * tokens + rows, d, valid)
    norm = tl.load(logsumexp + head * tokens + rows, valid, other=float("inf"))
    lower, upper, unmasked = _block_range(first, begin, end, ROWS, KEYS, WINDOW)
    dq = tl.zeros((ROWS, DIM_BLOCK), tl.float32)
    if WINDOW < 0:
        for start in tl.range(lower, unmasked, KEYS):
            dq = _query_gradient(
                dq, q, do, norm, d, rows, start, upper, at + WIDTH, at + 2 * WIDTH, stride, columns, real, scale,
                WINDOW, KEYS, PRECISE, False, FULL,
            )  # fmt: skip
    for start in tl.range(unmasked, upper, KEYS):
        dq = _query_gradient(
            dq, q, do, norm, d, rows, start, upper, at + WIDTH, at + 2 * WIDTH, stride, columns, real, scale,
            WINDOW, KEYS, PRECISE, True, FULL,
        )  # fmt: skip
    dq = dq * (scale / LOG2_E)
    if ROTATED:
        dq = _rotate_back(dq, cos, sin, rows, valid, angle_stride, DIM, DIM_BLOCK)
    to = grad_qkv + rows.to(tl.int64)[:, None] * stride + head * DIM + columns[None, :]
    tl.store(to, dq.to(grad_qkv.dtype.element_ty), valid[:, None] & real[None, :])


@triton.jit
@no_type_check
def _key_gradient(
    dk, dv, k, v, keys, start, upper, q_at, grad_at, norms, deltas, q_stride, grad_stride, columns, real, scale,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, PRECISE: tl.constexpr, MASKED: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Add the part of another block of queries to the gradients of a tile of keys and values."""
    rows = start + tl.arange(0, ROWS)
    q = _load(q_at, rows, q_stride, upper, columns, real, MASKED, FULL)
    if MASKED:
        norm = tl.load(norms + rows, rows < upper, other=float("inf"))  # no row: p is 0
        d = tl.load(deltas + rows, rows < upper, other=0.0)
    else:
        norm = tl.load(norms + rows)
        d = tl.load(deltas + rows)
    p = tl.exp2(_matmul(k, tl.trans(q), PRECISE) * scale - norm[None, :])
    if WINDOW >= 0:
        p = tl.where(_within_window(keys, rows, WINDOW), p, 0.0)
    do = _load(grad_at, rows, grad_stride, upper, columns, real, MASKED, FULL)
    dv += _matmul(p.to(do.dtype), do, PRECISE)
    ds = p * (_matmul(v, tl.trans(do), PRECISE) - d[None, :])
    dk += _matmul(ds.to(q.dtype), q, PRECISE)
    return dk, dv


@triton.jit
@no_type_check
def attention_key_gradient_kernel(
    qkv, tiles, logsumexp, grad, delta, grad_qkv, cos, sin, angle_stride, tokens, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, ROTATED: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of KEYS keys and values, from the queries that attend to them, ROWS at a time."""
    head = tl.program_id(1)
    first, begin, end = _tile_bounds(tiles)
    if first >= end:
        return
    WIDTH: tl.constexpr = HEADS * DIM
    FULL: tl.constexpr = DIM == DIM_BLOCK
    columns, real = _columns(DIM, DIM_BLOCK)
    keys = first + tl.arange(0, KEYS)
    valid = keys < end
    stride = 3 * WIDTH
    at = qkv + head * DIM
    k = _load(at + WIDTH, keys, stride, end, columns, real, True, FULL)
    v = _load(at + 2 * WIDTH, keys, stride, end, columns, real, True, FULL)
    lower, upper, unmasked = _block_range(first, begin, end, KEYS, ROWS, WINDOW)
    norms, deltas = logsumexp + head * tokens, delta + head * tokens
    dk = tl.zeros((KEYS, DIM_BLOCK), tl.float32)
    dv = tl.zeros((KEYS, DIM_BLOCK), tl.float32)
    if WINDOW < 0:
        for start in tl.range(lower, unmasked, ROWS):
            dk, dv = _key_gradient(
                dk, dv, k, v, keys, start, upper, at, grad + head * DIM, norms, deltas, stride, WIDTH, columns, real,
                scale, WINDOW, ROWS, PRECISE, False, FULL,
            )  # fmt: skip
    for start in tl.range(unmasked, upper, ROWS):
        dk, dv = _key_gradient(
            dk, dv, k, v, keys, start, upper, at, grad + head * DIM, norms, deltas, stride, WIDTH, columns, real,
            scale, WINDOW, ROWS, PRECISE, True, FULL,
        )  # fmt: skip
    dk = dk * (scale / LOG2_E)
    if ROTATED:
        dk = _rotate_back(dk, cos, sin, keys, valid, angle_stride, DIM, DIM_BLOCK)
    both = valid[:, None] & real[None, :]
    to = grad_qkv + keys.to(tl.int64)[:, None] * stride + head * DIM + columns[None, :]
    tl.store(to + WIDTH, dk.to(grad_qkv.dtype.element_ty), both)
    tl.store(to + 2 * WIDTH, dv.to(grad_qkv.dtype.element_ty), both)
