"""GeGLU (Shazeer 2020, arXiv 2002.05202) with the exact error function, forward and backward, one pass each."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from modernbert.kernels.operator import Operator
from modernbert.kernels.triton.launch import on_device_of

ROWS, COLUMNS, WARPS = 16, 128, 4  # of a tile; 128 divides the widths of the published models almost evenly


@triton.jit
@no_type_check
def _place(rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows (int64), columns and mask of this program's tile. Consecutive programs have adjacent columns."""
    across: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    return row.to(tl.int64)[:, None], column[None, :], (row < rows)[:, None] & (column < WIDTH)[None, :]


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def geglu_forward_kernel(x, result, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column, mask = _place(rows, WIDTH, ROWS, COLUMNS)
    a = tl.load(x + row * (2 * WIDTH) + column, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x + row * (2 * WIDTH) + WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    gelu = 0.5 * a * (1.0 + tl.math.erf(a * 0.7071067811865476))
    tl.store(result + row * WIDTH + column, (gelu * b).to(result.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def geglu_backward_kernel(grad, x, result, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column, mask = _place(rows, WIDTH, ROWS, COLUMNS)
    a = tl.load(x + row * (2 * WIDTH) + column, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x + row * (2 * WIDTH) + WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    given = tl.load(grad + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    cdf = 0.5 * (1.0 + tl.math.erf(a * 0.7071067811865476))  # of the normal distribution
    density = 0.3989422804014327 * tl.exp(-0.5 * a * a)
    a_grad, b_grad = given * b * (cdf + a * density), given * a * cdf
    tl.store(result + row * (2 * WIDTH) + column, a_grad.to(result.dtype.element_ty), mask=mask)
    tl.store(result + row * (2 * WIDTH) + WIDTH + column, b_grad.to(result.dtype.element_ty), mask=mask)


def _grid(rows: int, width: int) -> tuple[int]:
    return (triton.cdiv(rows, ROWS) * triton.cdiv(width, COLUMNS),)


def _geglu_shape(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _geglu(x: Tensor) -> Tensor:
    """gelu(a) * b for rows (a, b): (..., 2 width) to (..., width)."""
    x = x.contiguous()
    result = _geglu_shape(x)
    if result.numel():
        width = result.shape[-1]
        rows = result.numel() // width
        with on_device_of(x):
            geglu_forward_kernel[_grid(rows, width)](
                x, result, rows, WIDTH=width, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS
            )
    return result


def _geglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, recomputed from x."""
    x, grad = x.contiguous(), grad.contiguous()
    result = torch.empty_like(x)
    if grad.numel():
        width = grad.shape[-1]
        rows = grad.numel() // width
        with on_device_of(x):
            geglu_backward_kernel[_grid(rows, width)](
                grad, x, result, rows, WIDTH=width, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS
            )
    return result


def _contiguous_like(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


geglu_backward = Operator("triton_geglu_backward", _geglu_backward, _contiguous_like)


def _keep_geglu(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_geglu(ctx: Any, grad: Tensor) -> Any:
    [x] = ctx.saved_tensors
    return geglu_backward(grad, x)


geglu = Operator("triton_geglu", _geglu, _geglu_shape, _keep_geglu, _differentiate_geglu)
