"""FlashAttention on CUDA through operators of torch: version 2 is built in, version 3 if torch can activate it."""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.kernels import triton
from modernbert.kernels.rotary import Rope
from modernbert.packed import Sequences


@cache
def unavailable() -> str | None:
    """The reason why this backend cannot run on this machine, or None."""
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    if torch.version.hip is not None:
        return "needs an NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"needs an Ampere GPU or newer, but {torch.cuda.get_device_name()} is older"
    return None


@cache
def version() -> int:
    """The version of FlashAttention: 3 on Hopper if its package is installed (this call activates it), else 2."""
    from torch.nn.attention import activate_flash_attention_impl, list_flash_attention_impls

    if torch.cuda.get_device_capability()[0] != 9 or "FA3" not in list_flash_attention_impls():
        return 2
    try:
        activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError):  # not installed, or without the kernels that torch expects
        return 2
    return 3


def varlen_attention(
    qkv: Float[Tensor, "tokens 3 heads head_dim"], sequences: Sequences, window: int | None, rope: Rope | None
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window, with q and k rotated by `rope`.

    Raises:
        BackendError: the tensors are not fp16 or bf16 on a CUDA device that FlashAttention supports.
    """
    if reason := unavailable():
        raise BackendError(f"The flash backend {reason}; use backend='blocked'.")
    if qkv.device.type != "cuda" or qkv.dtype not in (torch.float16, torch.bfloat16):
        raise BackendError(
            f"The flash backend supports fp16 or bf16 on CUDA, not {qkv.dtype} on {qkv.device.type}; "
            "run under autocast, convert the model, or use backend='blocked'."
        )
    version()
    if rope is not None and triton.unavailable():
        q, k, v = qkv.unbind(1)
        qkv, rope = torch.stack((rope(q), rope(k), v), 1), None
    cos, sin = (None, None) if rope is None else rope.angles
    arguments = sequences.cu_seqlens, sequences.max_length, -1 if window is None else window
    output: Tensor = flash_attention(qkv, cos, sin, *arguments)[0]
    return output


def forward(qkv: Tensor, cu_seqlens: Tensor, longest: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention with rotated q and k: the result, the logsumexp (heads, tokens), and the (unused) dropout state."""
    q, k, v = qkv.unbind(1)
    found = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens, cu_seqlens, longest, longest, 0.0, False, False,
        window_size_left=window, window_size_right=window,
    )  # fmt: skip
    return found[0], found[1], found[2]


@torch.library.custom_op("modernbert::flash_attention", mutates_args=())
def flash_attention(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, cu_seqlens: Tensor, longest: int, window: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention after the rotation of q and k, the logsumexp, and further tensors for the backward pass.

    `cos` and `sin` are (tokens, head_dim / 2) in fp32. A negative window is global.
    """
    if cos is None or sin is None:
        rotated_qkv = qkv.clone(memory_format=torch.contiguous_format)
    else:
        from modernbert.kernels.triton.rotary import rotated

        rotated_qkv = rotated(qkv, cos, sin)
    out, logsumexp, state = forward(rotated_qkv, cu_seqlens, longest, window)
    return out, logsumexp, rotated_qkv, state


@flash_attention.register_fake
def _(qkv: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, _, heads, dim = qkv.shape
    shapes = qkv.new_empty(tokens, heads, dim), qkv.new_empty(heads, tokens, dtype=torch.float32)
    rotated_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    return *shapes, rotated_qkv, qkv.new_empty(2, dtype=torch.uint64)


@torch.library.custom_op("modernbert::flash_attention_backward", mutates_args=())
def flash_attention_backward(
    grad: Tensor,
    rotated_qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor,
    longest: int,
    window: int,
    out: Tensor,
    logsumexp: Tensor,
    state: Tensor,
) -> Tensor:
    """The gradient of qkv; the gradients of q, k and v are rotated back and joined in one pass."""
    q, k, v = rotated_qkv.unbind(1)
    unused = torch.empty(0, device=grad.device)
    grads = torch.ops.aten._flash_attention_backward(
        grad.contiguous(), q, k, v, out, logsumexp, cu_seqlens, cu_seqlens, longest, longest, 0.0, False, state, unused,
        window_size_left=window, window_size_right=window,
    )  # fmt: skip
    if cos is None or sin is None:
        return torch.stack(grads, 1)
    from modernbert.kernels.triton.rotary import rotate

    result = torch.empty_like(rotated_qkv)
    dq, dk, dv = (x.contiguous() for x in grads)
    rotate(dq, dk, dv, cos, sin, result, inverse=True)
    return result


@flash_attention_backward.register_fake
def _(grad: Tensor, rotated_qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(rotated_qkv)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, cos, sin, cu_seqlens, longest, window = inputs
    out, logsumexp, rotated_qkv, state = output
    ctx.longest, ctx.window = longest, window
    ctx.save_for_backward(rotated_qkv, cos, sin, cu_seqlens, out, logsumexp, state)
    ctx.mark_non_differentiable(logsumexp, rotated_qkv, state)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    rotated_qkv, cos, sin, cu_seqlens, out, logsumexp, state = ctx.saved_tensors
    found = flash_attention_backward(
        grad, rotated_qkv, cos, sin, cu_seqlens, ctx.longest, ctx.window, out, logsumexp, state
    )
    return found, None, None, None, None, None


flash_attention.register_autograd(_differentiate, setup_context=_keep)
