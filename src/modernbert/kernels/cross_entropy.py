"""Cross-entropy of a linear decoder in chunks of rows, so that the logits of a batch are never all in memory.

The gradient of the loss with respect to the logits follows directly from the logits. So one pass over the rows computes
the loss and the gradients of input, weight and bias together, and the backward pass only scales them (as in Liger
Kernel's fused linear cross-entropy, Hsu et al. 2024, arXiv 2410.10989, section 3.2).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modernbert.errors import DataError
from modernbert.kernels import native, native_operators
from modernbert.kernels import triton as triton_kernels
from modernbert.kernels.arguments import check_cross_entropy
from modernbert.packed import IGNORED

CHUNK_ELEMENTS = 1024 * 50_368  # logits at a time; with fewer, summing the weight gradient dominates the time
CUDA_CHUNK_ELEMENTS = 8192 * 50_368  # 0.8 GB in bf16: a GPU needs large products and has more memory
BLOCK_ELEMENTS = 1 << 19  # fp32 logits at a time, 2 MiB, so that they stay in the cache of a CPU


def linear_cross_entropy(
    x: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocab hidden"],
    bias: Float[Tensor, "vocab"] | None,
    labels: Int[Tensor, "rows"],
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """Cross-entropy (nats) of `labels` under softmax(x weight^T + bias), fp32 softmax. Differentiable once.

    Equal to `F.cross_entropy(F.linear(x, weight, bias).float(), labels, reduction=reduction)`, but 0 without rows.
    Rows labelled -100 have no loss and no gradient. Under autocast, products run in its dtype. On CUDA, the bias is
    added in fp32, and the host does not wait for the device: a label outside the vocabulary gives a NaN loss. On other
    devices such a label is an error.

    Raises:
        BackendError: the arguments are not consistent.
        DataError: a label is outside the vocabulary.
    """
    check_cross_entropy(x, weight, bias, labels)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
        if not _on_triton(x):
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(x, weight, bias, labels)
    return total / (labels != IGNORED).sum().clamp(min=1) if reduction == "mean" else total


def chunk_rows(rows: int, vocab: int, device: str = "cpu") -> int:
    """Rows per chunk: all rows in equal chunks, as few as the memory bound allows."""
    bound = CUDA_CHUNK_ELEMENTS if device == "cuda" else CHUNK_ELEMENTS
    chunks = max(1, -(-rows * vocab // bound))
    return max(1, -(-rows // chunks))


def _on_triton(x: Tensor) -> bool:
    """Whether to use the Triton kernels instead of PyTorch."""
    return x.is_cuda and triton_kernels.supports(x.device, x.dtype)


def _softmax_gradient(
    logits: Float[Tensor, "rows vocab"], labels: Int[Tensor, "rows"], grad_bias: Float[Tensor, "vocab"] | None
) -> Float[Tensor, ""]:
    """The summed loss. Unless `grad_bias` is None, softmax - one-hot replaces the logits and is summed into it.

    Rows labelled -100 are ignored. On CUDA, the host does not wait for the device.
    """
    vocab = logits.shape[1]
    if not logits.is_cuda and not torch.compiler.is_compiling():
        counted = labels[labels != IGNORED]
        if len(counted) and not 0 <= int(counted.min()) <= int(counted.max()) < vocab:
            raise DataError(f"A label is outside the vocabulary of {vocab}; only -100 may be.")
    precise = torch.promote_types(logits.dtype, torch.float32)
    total = logits.new_zeros((), dtype=precise)
    rows_at_once = len(logits) if logits.is_cuda else max(1, BLOCK_ELEMENTS // vocab)
    for block, chosen in zip(logits.split(rows_at_once), labels[:, None].split(rows_at_once), strict=True):
        scores = block.to(precise, copy=True)
        scores.sub_(scores.amax(-1, keepdim=True))
        ignored = chosen == IGNORED
        chosen = chosen.masked_fill(ignored, 0)
        total -= scores.gather(1, chosen).masked_fill_(ignored, 0).sum()
        normaliser = scores.exp_().sum(-1, keepdim=True)
        total += normaliser.log().masked_fill_(ignored, 0).sum()
        if grad_bias is not None:
            scores.div_(normaliser.masked_fill_(ignored, torch.inf))  # zeros in ignored rows
            scores.scatter_add_(1, chosen, torch.full_like(scores[:, :1], -1).masked_fill_(ignored, 0))
            grad_bias += scores.sum(0)
            block.copy_(scores)
    return total


def _triton_softmax_gradient(
    logits: Float[Tensor, "rows vocab"],
    bias: Float[Tensor, "vocab"] | None,
    labels: Int[Tensor, "rows"],
    grad_bias: Float[Tensor, "vocab"] | None,
) -> Float[Tensor, ""]:
    """`_softmax_gradient` of logits + bias."""
    from modernbert.kernels.triton import cross_entropy

    losses: Tensor = cross_entropy.softmax_gradient(logits, bias, labels, grad_bias is not None)
    if grad_bias is not None and bias is not None:
        grad_bias += cross_entropy.column_sum(logits)
    return losses.sum()


def _product(a: Float[Tensor, "m k"], b: Float[Tensor, "k n"], dtype: torch.dtype) -> Float[Tensor, "m n"]:
    """a b in `dtype`, without intermediate rounding if the device supports it."""
    if a.is_cuda and dtype != a.dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return torch.mm(a, b)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        rows, vocab = len(x), len(weight)
        weight_dtype, on_triton = weight.dtype, _on_triton(x)
        weight = weight.to(x.dtype)  # for Triton it is cast here, so that its gradient stays in fp32
        wants_gradient = any(ctx.needs_input_grad)
        precise = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=precise)
        grad_x = torch.empty_like(x) if wants_gradient else None
        grad_weight = None
        grad_bias = x.new_zeros(vocab, dtype=precise) if wants_gradient else None
        chunk = chunk_rows(rows, vocab, x.device.type)
        for first in range(0, rows, chunk):
            part, part_labels = x[first : first + chunk], labels[first : first + chunk]
            if on_triton:
                logits = F.linear(part, weight)
                total += _triton_softmax_gradient(logits, bias, part_labels, grad_bias)
            elif native.supports(x.device, x.dtype):
                logits = F.linear(part, weight)
                total += native_operators.softmax_gradient(logits, bias, part_labels, grad_bias)
            else:
                logits = F.linear(part, weight, bias)
                total += _softmax_gradient(logits, part_labels, grad_bias)
            if grad_x is not None:
                torch.mm(logits, weight, out=grad_x[first : first + chunk])
                product = _product(logits.t(), part, precise if chunk < rows else weight_dtype)
                if chunk >= rows:
                    grad_weight = product
                elif grad_weight is None:
                    grad_weight = product.to(precise)
                else:
                    grad_weight += product
        if wants_gradient and grad_weight is None:  # there are no rows
            grad_weight = torch.zeros_like(weight)
        ctx.save_for_backward(grad_x, grad_weight, None if bias is None else grad_bias)
        ctx.dtypes = weight_dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        grad_x, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        bias = None if grad_bias is None else (grad_bias * grad).to(bias_dtype)
        return (grad_x * grad).to(grad_x.dtype), (grad_weight * grad).to(weight_dtype), bias, None
