"""FlashAttention on CUDA through torch's `varlen_attn`: version 2 built in, version 3 where torch can activate it."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.packed import Sequences


@cache
def unavailable() -> str | None:
    """Why this backend cannot run on this machine, or None if it can."""
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    if torch.version.hip is not None:
        return "needs an NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"needs an Ampere GPU or newer, and {torch.cuda.get_device_name()} is older"
    return None


@cache
def version() -> int:
    """The FlashAttention that runs here: 3 on Hopper with its package installed (turned on by this call), else 2."""
    from torch.nn.attention import activate_flash_attention_impl, list_flash_attention_impls

    if torch.cuda.get_device_capability()[0] != 9 or "FA3" not in list_flash_attention_impls():
        return 2
    try:
        activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError):  # not installed, or without the kernels that torch wants
        return 2
    return 3


def attention(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens heads head_dim"],
    v: Float[Tensor, "tokens heads head_dim"],
    sequences: Sequences,
    window: int | None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window; fp16 or bf16 on CUDA.

    Raises:
        BackendError: the tensors are not fp16 or bf16 on a CUDA device that FlashAttention supports.
    """
    if reason := unavailable():
        raise BackendError(f"The flash backend {reason}; use backend='blocked'.")
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        raise BackendError(
            f"The flash backend takes fp16 or bf16 on CUDA, not {q.dtype} on {q.device.type}; "
            "run under autocast, convert the model, or use backend='blocked'."
        )
    from torch.nn.attention.varlen import varlen_attn

    version()
    ends, longest = sequences.cu_seqlens, sequences.max_length
    sides = (-1, -1) if window is None else (window, window)
    output = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=sides)
    assert isinstance(output, Tensor)
    return output
