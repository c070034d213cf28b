"""Torch operators for the native kernels: attention, residual + layer norm, GeGLU, cross-entropy, StableAdamW.

Each kernel becomes an operator with its output shape and its gradient, so that autograd, `torch.compile` and export
see it.
"""

from ctypes import Structure, addressof, c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError, DataError
from modernbert.kernels.arguments import check_add_norm
from modernbert.kernels.native import DTYPES, check_status, kernels, kind_of, supports, thread_pool, unavailable
from modernbert.kernels.operator import Operator
from modernbert.kernels.rotary import Rope
from modernbert.packed import IGNORED, Sequences


class _Attention(Structure):
    _fields_ = (
        ("qkv", c_void_p), ("cos", c_void_p), ("sin", c_void_p), ("rope_stride", c_int64), ("boundaries", c_void_p),
        ("sequences", c_int64), ("tokens", c_int64), ("heads", c_int64), ("dim", c_int64), ("window", c_int64),
        ("scale", c_float), ("dtype", c_int32),
    )  # fmt: skip


class _Norm(Structure):
    _fields_ = (
        ("rows", c_int64), ("width", c_int64), ("weight", c_void_p), ("epsilon", c_float), ("stream", c_int32),
        ("dtype", c_int32),
    )  # fmt: skip


class _Moments(Structure):
    _fields_ = (
        ("mean", c_void_p), ("square", c_void_p), ("count", c_int64), ("gradient_scale", c_float),
        ("mean_share", c_float), ("square_decay", c_float), ("square_share", c_float), ("epsilon", c_float),
    )  # fmt: skip


def varlen_attention(
    qkv: Float[Tensor, "tokens 3 heads head_dim"], sequences: Sequences, window: int | None, rope: Rope | None
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window, with q and k rotated by `rope`.

    Raises:
        BackendError: the kernels do not run on this machine, or do not support these tensors.
    """
    if reason := unavailable():
        raise BackendError(f"The native backend {reason}; use backend='blocked'.")
    dim = qkv.shape[-1]
    if not supports(qkv.device, qkv.dtype, dim):
        raise BackendError(
            f"The native backend supports fp32 or bf16 on the CPU with head_dim a multiple of 32, not {qkv.dtype} on "
            f"{qkv.device.type} with {dim}; use backend='blocked'."
        )
    if rope is None:
        cos, sin = qkv.new_ones(1, 1, dtype=torch.float32), qkv.new_zeros(1, 1, dtype=torch.float32)
        cos, sin = (x.expand(len(qkv), dim // 2).contiguous() for x in (cos, sin))
    else:
        cos, sin = rope.angles
        if cos.stride(1) != 1 or cos.stride() != sin.stride():
            cos, sin = cos.contiguous(), sin.contiguous()
    output: Tensor = attention(qkv, cos, sin, sequences.cu_seqlens, -1 if window is None else window)[0]
    return output


def _attention_struct(qkv: Tensor, cos: Tensor, sin: Tensor, boundaries: Tensor, window: int) -> _Attention:
    """Pointers and sizes. Sizes are checked again, since an exported model does not call `varlen_attention`.

    Raises:
        BackendError: the kernels do not support these tensors.
    """
    tokens, parts, heads, dim = qkv.shape if qkv.dim() == 4 else (0, 0, 0, 0)
    rotations = (cos, sin)
    if (
        parts != 3 or heads < 1 or dim < 1 or dim % 32 or qkv.dtype not in DTYPES
        or any(x.dtype != torch.float32 or x.dim() != 2 or x.stride(1) != 1 for x in rotations)
        or any(x.shape[0] < tokens or x.shape[1] != dim // 2 or x.stride(0) != cos.stride(0) for x in rotations)
        or boundaries.dtype != torch.int32 or boundaries.dim() != 1 or len(boundaries) < 1
        or not boundaries.is_contiguous() or any(x.device.type != "cpu" for x in (qkv, cos, sin, boundaries))
    ):  # fmt: skip
        raise BackendError(
            "The native kernels need qkv as (tokens, 3, heads, head_dim), rotations as (tokens, head_dim / 2) in fp32 "
            "and contiguous boundaries in int32, all on the CPU."
        )
    return _Attention(
        qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), cos.stride(0), boundaries.data_ptr(), len(boundaries) - 1,
        tokens, heads, dim, min(window, tokens), dim**-0.5, DTYPES[qkv.dtype],
    )  # fmt: skip


def _attention_shape(qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    tokens, _, heads, dim = qkv.shape
    return qkv.new_empty(tokens, heads, dim), qkv.new_empty(heads, tokens, dtype=torch.float32)


def _attention(qkv: Tensor, cos: Tensor, sin: Tensor, boundaries: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Attention with rotary embedding: output (tokens, heads, head_dim), and logsumexp of the scores (heads, tokens).

    `qkv` is (tokens, 3, heads, head_dim); `cos` and `sin` are (tokens, head_dim / 2) in fp32 with rows of equal
    stride; a negative window means global attention.
    """
    qkv = qkv.contiguous()
    struct, threads = _attention_struct(qkv, cos, sin, boundaries, window), thread_pool()
    out, logsumexp = _attention_shape(qkv)
    check_status(
        kernels(kind_of(qkv.dtype)).attention_forward(
            addressof(struct), out.data_ptr(), logsumexp.data_ptr(), addressof(threads)
        )
    )
    return out, logsumexp


def _attention_backward(
    grad: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, boundaries: Tensor, window: int, out: Tensor, logsumexp: Tensor
) -> Tensor:
    """The gradient of `qkv`."""
    qkv, grad = qkv.contiguous(), grad.contiguous()
    result = torch.empty_like(qkv)
    struct, threads = _attention_struct(qkv, cos, sin, boundaries, window), thread_pool()
    if grad.shape != out.shape or out.shape != qkv[:, 0].shape or logsumexp.shape != (qkv.shape[2], len(qkv)):
        raise BackendError("The gradient, the output and the logsumexp are not those of this attention.")
    check_status(
        kernels(kind_of(qkv.dtype)).attention_backward(
            addressof(struct), logsumexp.data_ptr(), out.data_ptr(), grad.data_ptr(), result.data_ptr(),
            addressof(threads),
        )
    )  # fmt: skip
    return result


attention_backward = Operator("attention_backward", _attention_backward, lambda grad, qkv, *_: torch.empty_like(qkv))


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, cos, sin, boundaries, ctx.window = inputs
    ctx.save_for_backward(qkv, cos, sin, boundaries, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate_attention(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
    qkv, cos, sin, boundaries, out, logsumexp = ctx.saved_tensors
    return (
        attention_backward.operator(grad, qkv, cos, sin, boundaries, ctx.window, out, logsumexp),
        None,
        None,
        None,
        None,
    )


attention = Operator("attention", _attention, _attention_shape, _save_attention, _differentiate_attention)


def _norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> _Norm:
    width = x.shape[-1]
    return _Norm(x.numel() // max(1, width), width, weight.data_ptr(), epsilon, DTYPES[x.dtype], DTYPES[dtype])


def _add_norm_shape(x: Tensor, y: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Any:
    mean, inverse = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), torch.empty_like(x, dtype=dtype), mean, inverse


def _add_norm(
    x: Tensor, y: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x + y, its layer norm in `dtype`, and mean and inverse deviation of each row. `y` has `dtype` too."""
    check_add_norm(x, y, weight)  # again, since an exported model does not call `kernels.add_norm`
    x, y, weight = x.contiguous(), y.contiguous(), weight.float()
    total, normed, mean, inverse = _add_norm_shape(x, y, weight, epsilon, dtype)
    struct, threads = _norm(x, weight, epsilon, dtype), thread_pool()
    kernels(kind_of(dtype)).add_norm_forward(
        addressof(struct), x.data_ptr(), y.data_ptr(), total.data_ptr(), normed.data_ptr(), mean.data_ptr(),
        inverse.data_ptr(), addressof(threads),
    )  # fmt: skip
    return total, normed, mean, inverse


def _add_norm_backward_shape(
    _: Any, normed_grad: Tensor, total: Tensor, mean: Any, inverse: Any, weight: Tensor
) -> Any:
    return torch.empty_like(total), torch.empty_like(normed_grad), torch.empty_like(weight)


def _add_norm_backward(
    stream_grad: Tensor | None, normed_grad: Tensor, total: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, of y and of the weight."""
    normed_grad, precise = normed_grad.contiguous(), weight.float()
    stream_grad = None if stream_grad is None else stream_grad.contiguous()
    grad, narrow, weight_grad = _add_norm_backward_shape(total, normed_grad, total, mean, inverse, precise)
    struct, threads = _norm(total, precise, 0.0, normed_grad.dtype), thread_pool()
    kernels(kind_of(normed_grad.dtype)).add_norm_backward(
        addressof(struct), total.data_ptr(), mean.data_ptr(), inverse.data_ptr(), normed_grad.data_ptr(),
        None if stream_grad is None else stream_grad.data_ptr(), grad.data_ptr(), narrow.data_ptr(),
        weight_grad.data_ptr(), addressof(threads),
    )  # fmt: skip
    return grad, narrow, weight_grad.to(weight.dtype)


add_norm_backward = Operator("add_norm_backward", _add_norm_backward, _add_norm_backward_shape)


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    total, _, mean, inverse = output
    ctx.save_for_backward(total, mean, inverse, inputs[2])
    ctx.mark_non_differentiable(mean, inverse)
    ctx.set_materialize_grads(False)


def _differentiate_norm(ctx: Any, stream_grad: Tensor | None, normed_grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    total, mean, inverse, weight = ctx.saved_tensors
    assert normed_grad is not None, "the result of the norm is unused"
    return *add_norm_backward.operator(stream_grad, normed_grad, total, mean, inverse, weight), None, None


add_norm = Operator("add_norm", _add_norm, _add_norm_shape, _save_norm, _differentiate_norm)


def _geglu_shape(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _geglu(x: Tensor) -> Tensor:
    """gelu(a) * b for rows (a, b): (..., 2 width) to (..., width)."""
    x = x.contiguous()
    result, threads = _geglu_shape(x), thread_pool()
    width = result.shape[-1]
    kernels(kind_of(x.dtype)).geglu_forward(
        DTYPES[x.dtype], result.numel() // max(1, width), width, x.data_ptr(), result.data_ptr(), addressof(threads)
    )
    return result


def _geglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    x, grad = x.contiguous(), grad.contiguous()
    result, threads, width = torch.empty_like(x), thread_pool(), grad.shape[-1]
    kernels(kind_of(x.dtype)).geglu_backward(
        DTYPES[x.dtype], grad.numel() // max(1, width), width, x.data_ptr(), grad.data_ptr(), result.data_ptr(),
        addressof(threads),
    )  # fmt: skip
    return result


geglu_backward = Operator("geglu_backward", _geglu_backward, lambda grad, x: torch.empty_like(x))


def _save_geglu(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_geglu(ctx: Any, grad: Tensor) -> Any:
    [x] = ctx.saved_tensors
    return geglu_backward.operator(grad, x)


geglu = Operator("geglu", _geglu, _geglu_shape, _save_geglu, _differentiate_geglu)


def softmax_gradient(
    logits: Float[Tensor, "rows vocab"],
    bias: Float[Tensor, "vocab"] | None,
    labels: Tensor,
    bias_gradient: Float[Tensor, "vocab"] | None,
) -> float:
    """The summed cross-entropy (nats) of labels under softmax(logits + bias).

    Unless `bias_gradient` is None, softmax - one-hot replaces the logits, and its sum over the rows is added to
    `bias_gradient` (fp32). Rows with the label -100 are ignored.
    """
    rows, vocab = logits.shape
    counted = labels != IGNORED
    if not counted.all():  # rare on a CPU, so the kernel does not support ignored rows
        rest = logits[counted]
        loss = softmax_gradient(rest, bias, labels[counted], bias_gradient)
        if bias_gradient is not None:
            logits.zero_()[counted] = rest
        return loss
    if rows and not 0 <= int(labels.min()) <= int(labels.max()) < vocab:
        raise DataError(f"A label is outside the vocabulary of {vocab}; only -100 may be.")
    precise, labels, threads = (
        None if bias is None else bias.float(),
        labels.to(torch.int64).contiguous(),
        thread_pool(),
    )
    return kernels(kind_of(logits.dtype)).softmax_gradient(
        DTYPES[logits.dtype], rows, vocab, logits.data_ptr(), None if precise is None else precise.data_ptr(),
        labels.data_ptr(), None if bias_gradient is None else bias_gradient.data_ptr(), addressof(threads),
    )  # fmt: skip


def stable_adamw_moments(
    gradient: Tensor, mean: Tensor, square: Tensor, betas: tuple[float, float], epsilon: float, scale: float
) -> float:
    """Update the moving averages of g = scale * gradient and of g^2, in place.

    Returns the sum of g^2 / max(square, epsilon^2). The tensors must be contiguous, of one size, in fp32, on the CPU.
    """
    struct, threads = _moments(mean, square, betas, epsilon, scale), thread_pool()
    return kernels().stable_adamw_update(addressof(struct), gradient.data_ptr(), addressof(threads))


def stable_adamw_move(
    values: Tensor, mean: Tensor, square: Tensor, epsilon: float, *, decay_factor: float, rate: float
) -> None:
    """values = decay_factor * values - rate * mean / (sqrt(square) + epsilon), in place; contiguous fp32 on the CPU."""
    struct, threads = _moments(mean, square, (0.0, 0.0), epsilon, 0.0), thread_pool()
    kernels().stable_adamw_move(addressof(struct), values.data_ptr(), decay_factor, rate, addressof(threads))


def _moments(mean: Tensor, square: Tensor, betas: tuple[float, float], epsilon: float, scale: float) -> _Moments:
    beta1, beta2 = betas
    return _Moments(mean.data_ptr(), square.data_ptr(), mean.numel(), scale, 1 - beta1, beta2, 1 - beta2, epsilon)
