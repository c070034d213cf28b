"""The attention seam: one function, several backends, one oracle that they all answer to."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.kernels import blocked, flash, native, reference
from modernbert.kernels.arguments import check_attention
from modernbert.kernels.elementwise import add_norm, geglu
from modernbert.kernels.rotary import Rope
from modernbert.packed import Sequences

__all__ = ["Rope", "add_norm", "available_backends", "default_backend", "geglu", "varlen_attention"]

_Backend = Callable[[Tensor, Sequences, int | None, Rope | None], Tensor]


def _rotated(attention: Callable[[Tensor, Tensor, Tensor, Sequences, int | None], Tensor]) -> _Backend:
    """A backend that knows nothing of rotation, after it."""

    def run(qkv: Tensor, sequences: Sequences, window: int | None, rope: Rope | None) -> Tensor:
        q, k, v = qkv.unbind(1)
        if rope is not None:
            q, k = rope(q), rope(k)
        return attention(q, k, v, sequences, window)

    return run


_BACKENDS: dict[str, _Backend] = {
    "reference": _rotated(reference.attention),
    "blocked": _rotated(blocked.attention),
    "native": native.varlen_attention,
    "flash": _rotated(flash.attention),
}


def available_backends() -> dict[str, str | None]:
    """Every backend, with the reason why it cannot run on this machine, or None if it can."""
    return {"reference": None, "blocked": None, "native": native.unavailable(), "flash": flash.unavailable()}


def default_backend(device: torch.device, dtype: torch.dtype, head_dim: int = 64) -> str:
    """The fastest backend for such tensors.

    `flash` for fp16 and bf16 on CUDA and `native` for fp32 and bf16 on a CPU, where they run; otherwise `blocked`.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    if device.type == "cuda" and half and flash.unavailable() is None:
        return "flash"
    return "native" if native.takes(device, dtype, head_dim) else "blocked"


def varlen_attention(
    qkv: Float[Tensor, "tokens 3 heads head_dim"],
    sequences: Sequences,
    window: int | None = None,
    rope: Rope | None = None,
    backend: str | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Bidirectional attention inside each packed sequence, scaled by 1 / sqrt(head_dim). Differentiable.

    Queries and keys are turned by `rope` first, if there is one. `window` is the number of tokens seen on each side,
    both ends included; None is global. `backend` is chosen by `default_backend` unless it is named.

    Raises:
        BackendError: there is no such backend, it cannot run here or on these tensors, or they do not fit together.
    """
    traced = torch.compiler.is_compiling()
    if not traced:  # what is compiled was checked as it began, in `Encoder.forward`
        check_attention(qkv, sequences, window, rope)
    name = backend or default_backend(qkv.device, qkv.dtype, qkv.shape[-1])
    if name not in _BACKENDS:
        raise BackendError(f"There is no attention backend {name!r}; choose one of {', '.join(_BACKENDS)}.")
    if not traced and len(qkv) == 0:
        return qkv[:, 2]
    if not traced and window is not None:
        window = min(window, len(qkv))  # a wider one sees no more, and its sums with positions could overflow
    return _BACKENDS[name](qkv, sequences, window, rope)
