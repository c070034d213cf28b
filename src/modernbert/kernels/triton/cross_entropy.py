"""Cross-entropy of rows of logits, which its gradient overwrites.

A row is read twice: 100 KB for 50,368 logits in bf16. The second pass finds it in L2 if few rows are processed at a
time. So there is one program per multiprocessor, with two rows at a time that share the loads of the bias (200 KB in
fp32).
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from modernbert.kernels.operator import Operator
from modernbert.kernels.triton.launch import num_processors, on_device_of, power_of_two
from modernbert.packed import IGNORED

ROWS, LANES, VECTOR, WARPS = 2, 1024, 8, 32  # of a tile; each lane of columns has a running maximum
SUM_ROWS, SUM_COLUMNS, SUM_WARPS = 32, 256, 8  # of a tile of the column sum
SPLIT_ROWS = 1024  # rows that one program of the column sum adds


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def softmax_kernel(
    logits, bias, labels, losses, rows,
    VOCAB: tl.constexpr, IGNORED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
    BIAS: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """The loss of each row in nats. GRADIENT: softmax - one-hot overwrites the logits."""
    lane = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        inside = row < rows
        label = tl.load(labels + row, mask=inside, other=IGNORED)
        counts = label != IGNORED
        known = (label >= 0) & (label < VOCAB)
        start = logits + row.to(tl.int64) * VOCAB
        # Read before the second pass writes; the reductions over threads below synchronize the passes.
        target = tl.load(start + label, mask=known, other=float("nan")).to(tl.float32)
        if BIAS:
            target += tl.load(bias + label, mask=known, other=0.0).to(tl.float32)
        highest = tl.full((ROWS, LANES), -1e38, dtype=tl.float32)  # finite, so that -inf - highest is not NaN
        total = tl.zeros((ROWS, LANES), dtype=tl.float32)
        for begin in range(0, VOCAB, LANES * VECTOR):
            column = begin + lane
            mask = counts[:, None, None] & (column < VOCAB)[None, :, :]
            x = tl.load(start[:, None, None] + column[None, :, :], mask=mask, other=float("-inf")).to(tl.float32)
            if BIAS:
                x += tl.load(bias + column, mask=column < VOCAB, other=0.0).to(tl.float32)[None, :, :]
            top = tl.maximum(highest, tl.max(x, 2))
            total = total * tl.exp(highest - top) + tl.sum(tl.exp(x - top[:, :, None]), 2)
            highest = top
        top = tl.max(highest, 1)
        normaliser = tl.sum(total * tl.exp(highest - top[:, None]), 1)  # of e^(x - top), without overflow for large x
        tl.store(losses + row, tl.where(counts, tl.log(normaliser) + (top - target), 0.0), mask=inside)
        if GRADIENT:
            share = 1.0 / normaliser
            for begin in range(0, VOCAB, LANES * VECTOR):
                column = begin + lane
                mask = inside[:, None, None] & (column < VOCAB)[None, :, :]
                place = start[:, None, None] + column[None, :, :]
                x = tl.load(place, mask=mask, other=float("-inf")).to(tl.float32)
                if BIAS:
                    x += tl.load(bias + column, mask=column < VOCAB, other=0.0).to(tl.float32)[None, :, :]
                chosen = (column[None, :, :] == label[:, None, None]).to(tl.float32)
                gradient = tl.exp(x - top[:, None, None]) * share[:, None, None] - chosen
                gradient = tl.where(counts[:, None, None], gradient, 0.0)
                tl.store(place, gradient.to(logits.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def column_sum_kernel(
    x, partial, rows, WIDTH: tl.constexpr, SPLIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The sums of COLUMNS columns over SPLIT rows."""
    across: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(0) // across
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, SPLIT, ROWS):
        row = split * SPLIT + first + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(x + row.to(tl.int64)[:, None] * WIDTH + column[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(partial + split.to(tl.int64) * WIDTH + column, tl.sum(total, 0), mask=column < WIDTH)


def _softmax_gradient(logits: Tensor, bias: Tensor | None, labels: Tensor, gradient: bool) -> Tensor:
    """The cross-entropy (nats, fp32) of each row's label under softmax(logits + bias).

    With `gradient`, softmax - one-hot overwrites the logits. A row labelled -100 has no loss and no gradient. Any other
    label outside the vocabulary gives a NaN loss, since raising an error would need to wait for the device.
    """
    assert logits.is_contiguous()
    rows, vocab = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        lanes = min(LANES, power_of_two(triton.cdiv(vocab, VECTOR)))
        programs = min(triton.cdiv(rows, ROWS), num_processors(logits.device))
        with on_device_of(logits):
            softmax_kernel[programs,](
                logits, losses if bias is None else bias.contiguous(), labels.contiguous(), losses, rows, VOCAB=vocab,
                IGNORED=IGNORED, ROWS=ROWS, LANES=lanes, VECTOR=VECTOR, BIAS=bias is not None, GRADIENT=gradient,
                num_warps=WARPS,
            )  # fmt: skip
    return losses


def _losses_shape(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.float32)


softmax_gradient = Operator("triton_softmax_gradient", _softmax_gradient, _losses_shape, mutates=("logits",))


def _column_sum(x: Tensor) -> Tensor:
    """The sum over the rows of a matrix, in fp32, in an order that depends only on its shape."""
    x = x.contiguous()
    rows, width = x.shape
    splits = max(1, triton.cdiv(rows, SPLIT_ROWS))
    partial = torch.empty(splits, width, dtype=torch.float32, device=x.device)
    with on_device_of(x):
        column_sum_kernel[splits * triton.cdiv(width, SUM_COLUMNS),](
            x, partial, rows, WIDTH=width, SPLIT=SPLIT_ROWS, ROWS=SUM_ROWS, COLUMNS=SUM_COLUMNS, num_warps=SUM_WARPS
        )
    return partial[0] if splits == 1 else partial.sum(0)


column_sum = Operator("triton_column_sum", _column_sum, lambda x: x.new_empty(x.shape[1], dtype=torch.float32))
