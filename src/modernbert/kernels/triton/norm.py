"""Layer norm (Ba et al. 2016, arXiv 1607.06450) without bias in one pass, forward and backward.

The preceding residual addition or embedding look-up is fused into the pass. A warp reads complete rows of up to 1,024
columns, so that a sum over a row needs only a few shuffles, without synchronization of warps.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from modernbert.kernels.operator import Operator
from modernbert.kernels.triton.launch import num_processors, on_device_of, power_of_two

MAX_WIDTH = 8192
TILE = 1024  # elements per warp, 32 per thread


@triton.jit(do_not_specialize=["rows", "vocab"])
@no_type_check
def norm_forward_kernel(
    x, y, tokens, weight, total, normed, mean, inverse, rows, vocab, epsilon,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    """ROWS rows per program. ADD: y is added and the sum is written. GATHER: x is a table, indexed by `tokens`.

    The norm of a token outside the `vocab` rows of the table is NaN.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = row < rows
    mask = inside[:, None] & (column < WIDTH)[None, :]
    at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    if GATHER:
        token = tl.load(tokens + row, mask=inside, other=0).to(tl.int64)
        known = ((token >= 0) & (token < vocab))[:, None]
        value = tl.load(x + token[:, None] * WIDTH + column[None, :], mask=mask & known, other=0.0).to(tl.float32)
        value = tl.where(known, value, float("nan"))
    else:
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=mask)
        value = rounded.to(tl.float32)  # as the backward pass reads it
    average = tl.sum(value, 1) / WIDTH
    centred = tl.where(mask, value - average[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + epsilon)
    gain = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    result = centred * scale[:, None] * gain[None, :]
    tl.store(normed + at, result.to(normed.dtype.element_ty), mask=mask)
    tl.store(mean + row, average, mask=inside)
    tl.store(inverse + row, scale, mask=inside)


@triton.jit(do_not_specialize=["rows", "vocab"])
@no_type_check
def norm_backward_kernel(
    stream_grad, normed_grad, total, tokens, mean, inverse, weight, grad, narrow, partial, rows, vocab,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STREAM: tl.constexpr, NARROW: tl.constexpr,
    GATHER: tl.constexpr,
):  # fmt: skip
    """Each program processes rows at a fixed stride, and writes its part of the weight's gradient.

    STREAM: the gradient of the residual stream is added. NARROW: the result is also written in a second dtype. GATHER:
    `total` is a table, indexed by `tokens`.
    """
    column = tl.arange(0, BLOCK)
    gain = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    weight_grad = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        inside = row < rows
        mask = inside[:, None] & (column < WIDTH)[None, :]
        at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        if GATHER:
            token = tl.load(tokens + row, mask=inside, other=0).to(tl.int64)
            found = mask & ((token >= 0) & (token < vocab))[:, None]
            value = tl.load(total + token[:, None] * WIDTH + column[None, :], mask=found, other=0.0).to(tl.float32)
        else:
            value = tl.load(total + at, mask=mask, other=0.0).to(tl.float32)
        given = tl.load(normed_grad + at, mask=mask, other=0.0).to(tl.float32)
        average = tl.load(mean + row, mask=inside, other=0.0)
        scale = tl.load(inverse + row, mask=inside, other=0.0)
        standard = tl.where(mask, (value - average[:, None]) * scale[:, None], 0.0)
        weight_grad += given * standard
        pulled = given * gain[None, :]
        shift = tl.sum(pulled, 1) / WIDTH
        tilt = tl.sum(pulled * standard, 1) / WIDTH
        result = (pulled - shift[:, None] - standard * tilt[:, None]) * scale[:, None]
        if STREAM:
            result += tl.load(stream_grad + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad + at, result.to(grad.dtype.element_ty), mask=mask)
        if NARROW:
            tl.store(narrow + at, result.to(narrow.dtype.element_ty), mask=mask)
    part = partial + tl.program_id(0).to(tl.int64) * WIDTH + column
    tl.store(part, tl.sum(weight_grad, 0), mask=column < WIDTH)


def tile(width: int) -> tuple[int, int, int]:
    """Rows and columns of a tile, and its number of warps."""
    block = power_of_two(width)
    return max(1, TILE // block), block, max(1, block // TILE)


def _forward(
    x: Tensor, y: Tensor | None, tokens: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(total, normed, mean, inverse); total is x if y is None."""
    width = x.shape[-1]
    assert 0 < width <= MAX_WIDTH, width
    shape = x.shape[:-1] if tokens is None else tokens.shape
    total = x if y is None else torch.empty_like(x)
    normed = torch.empty(*shape, width, dtype=dtype, device=x.device)
    mean, inverse = (torch.empty(shape, dtype=torch.float32, device=x.device) for _ in range(2))
    if rows := mean.numel():
        rows_at_once, block, warps = tile(width)
        with on_device_of(x):
            norm_forward_kernel[triton.cdiv(rows, rows_at_once),](
                x, x if y is None else y, mean if tokens is None else tokens, weight, total, normed, mean, inverse,
                rows, len(x), epsilon, WIDTH=width, ROWS=rows_at_once, BLOCK=block, ADD=y is not None,
                GATHER=tokens is not None, num_warps=warps,
            )  # fmt: skip
    return total, normed, mean, inverse


def _backward(
    stream_grad: Tensor | None,
    normed_grad: Tensor,
    total: Tensor,
    tokens: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    narrow: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient in the dtype of `total`, with `narrow` also in that of `normed_grad`, and the weight gradient."""
    width, normed_grad = total.shape[-1], normed_grad.contiguous()
    stream_grad = None if stream_grad is None else stream_grad.contiguous()
    grad = torch.empty_like(normed_grad, dtype=total.dtype)
    second = torch.empty_like(normed_grad) if narrow else grad
    rows = mean.numel()
    if rows == 0:
        return grad, second, torch.zeros_like(weight)
    rows_at_once, block, warps = tile(width)
    programs = min(
        triton.cdiv(rows, rows_at_once), num_processors(total.device) * max(1, 16 // warps)
    )  # fills the device
    partial = torch.empty(programs, width, dtype=torch.float32, device=total.device)
    with on_device_of(total):
        norm_backward_kernel[programs,](
            normed_grad if stream_grad is None else stream_grad, normed_grad, total,
            mean if tokens is None else tokens, mean, inverse, weight, grad, second, partial, rows, len(total),
            WIDTH=width, ROWS=rows_at_once, BLOCK=block, STREAM=stream_grad is not None, NARROW=narrow,
            GATHER=tokens is not None, num_warps=warps,
        )  # fmt: skip
    return grad, second, partial.sum(0).to(weight.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, inverse = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    return mean, inverse


def _add_norm(
    x: Tensor, y: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x + y in the dtype of x, its layer norm in `dtype`, and mean and inverse deviation of each row in fp32."""
    return _forward(x.contiguous(), y.contiguous(), None, weight.contiguous(), epsilon, dtype)


def _add_norm_shape(x: Tensor, y: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Any:
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    return total, torch.empty_like(total, dtype=dtype), *_statistics(x)


def _norm_backward(
    stream_grad: Tensor | None, normed_grad: Tensor, total: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    grad, _, weight_grad = _backward(stream_grad, normed_grad, total, None, mean, inverse, weight, narrow=False)
    return grad, weight_grad


def _norm_backward_shape(_: Any, normed_grad: Tensor, total: Tensor, mean: Any, inverse: Any, weight: Tensor) -> Any:
    return torch.empty_like(total), torch.empty_like(weight)


def _norm_backward_twice(
    stream_grad: Tensor | None, normed_grad: Tensor, total: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(stream_grad, normed_grad, total, None, mean, inverse, weight, narrow=True)


def _norm_backward_twice_shape(
    _: Any, normed_grad: Tensor, total: Tensor, mean: Any, inverse: Any, weight: Tensor
) -> Any:
    return torch.empty_like(total), torch.empty_like(total, dtype=normed_grad.dtype), torch.empty_like(weight)


norm_backward = Operator("triton_norm_backward", _norm_backward, _norm_backward_shape)
norm_backward_twice = Operator("triton_norm_backward_twice", _norm_backward_twice, _norm_backward_twice_shape)


def add_norm_backward(
    stream_grad: Tensor | None, normed_grad: Tensor, total: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, of y and of the weight. The first two are one tensor if their dtypes are equal."""
    if normed_grad.dtype != total.dtype:
        gradients: tuple[Tensor, Tensor, Tensor] = norm_backward_twice(
            stream_grad, normed_grad, total, mean, inverse, weight
        )
        return gradients
    grad, weight_grad = norm_backward(stream_grad, normed_grad, total, mean, inverse, weight)
    return grad, grad, weight_grad


def _keep_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    total, _, mean, inverse = output
    ctx.save_for_backward(total, mean, inverse, inputs[2])
    ctx.mark_non_differentiable(mean, inverse)
    ctx.set_materialize_grads(False)
    ctx.dtype = inputs[4]


def _differentiate_add_norm(
    ctx: Any, stream_grad: Tensor | None, normed_grad: Tensor | None, *_: Any
) -> tuple[Any, ...]:
    total, mean, inverse, weight = ctx.saved_tensors
    if normed_grad is None:  # the norm is unused
        normed_grad = torch.zeros_like(total, dtype=ctx.dtype)
    return *add_norm_backward(stream_grad, normed_grad, total, mean, inverse, weight), None, None


add_norm = Operator("triton_add_norm", _add_norm, _add_norm_shape, _keep_add_norm, _differentiate_add_norm)


def _layer_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The layer norm of x in `dtype`, and mean and inverse deviation of each row in fp32."""
    return _forward(x.contiguous(), None, None, weight.contiguous(), epsilon, dtype)[1:]


def _layer_norm_shape(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Any:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format), *_statistics(x)


def _keep_layer_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], output[1], output[2], inputs[1])
    ctx.mark_non_differentiable(output[1], output[2])


def _differentiate_layer_norm(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    x, mean, inverse, weight = ctx.saved_tensors
    return *norm_backward(None, grad, x.contiguous(), mean, inverse, weight), None, None


layer_norm = Operator("triton_layer_norm", _layer_norm, _layer_norm_shape, _keep_layer_norm, _differentiate_layer_norm)


def _embedding_norm(
    tokens: Tensor, table: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer norm in `dtype` of the table row of each token, and mean and inverse deviation of each row in fp32."""
    return _forward(table.contiguous(), None, tokens.contiguous(), weight.contiguous(), epsilon, dtype)[1:]


def _embedding_norm_shape(tokens: Tensor, table: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Any:
    mean, inverse = (table.new_empty(tokens.shape, dtype=torch.float32) for _ in range(2))
    return table.new_empty(*tokens.shape, table.shape[1], dtype=dtype), mean, inverse


def _embedding_norm_backward(
    grad: Tensor, tokens: Tensor, table: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of the looked-up rows, in the dtype of the table, and of the weight."""
    rows, _, weight_grad = _backward(None, grad, table, tokens, mean, inverse, weight, narrow=False)
    return rows, weight_grad


def _embedding_norm_backward_shape(
    grad: Tensor, tokens: Tensor, table: Tensor, mean: Any, inverse: Any, weight: Tensor
) -> Any:
    rows = torch.empty_like(grad, dtype=table.dtype, memory_format=torch.contiguous_format)
    return rows, torch.empty_like(weight)


embedding_norm_backward = Operator(
    "triton_embedding_norm_backward", _embedding_norm_backward, _embedding_norm_backward_shape
)


def _keep_embedding_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1], output[2], inputs[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _differentiate_embedding_norm(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    tokens, table, mean, inverse, weight = ctx.saved_tensors
    rows, weight_grad = embedding_norm_backward(grad, tokens.contiguous(), table.contiguous(), mean, inverse, weight)
    table_grad = None
    if ctx.needs_input_grad[1]:
        inside = tokens.clamp(
            0, len(table) - 1
        )  # the gradient of another id is NaN, and no memory of ours is behind it
        table_grad = torch.ops.aten.embedding_dense_backward(rows, inside, len(table), -1, False)
    return None, table_grad, weight_grad, None, None


embedding_norm = Operator(
    "triton_embedding_norm", _embedding_norm, _embedding_norm_shape, _keep_embedding_norm,
    _differentiate_embedding_norm,
)  # fmt: skip
