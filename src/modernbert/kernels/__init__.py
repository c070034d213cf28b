"""The attention seam: one function, several backends, one oracle that they all answer to."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.kernels import blocked, flash, reference
from modernbert.kernels.rotary import Rope
from modernbert.packed import Sequences

__all__ = ["Rope", "available_backends", "default_backend", "varlen_attention"]

_BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, Sequences, int | None], Tensor]] = {
    "reference": reference.attention,
    "blocked": blocked.attention,
    "flash": flash.attention,
}


def available_backends() -> dict[str, str | None]:
    """Every backend, with the reason why it cannot run on this machine, or None if it can."""
    return {"reference": None, "blocked": None, "flash": flash.unavailable()}


def default_backend(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest backend for such tensors: `flash` for fp16 and bf16 on CUDA where it runs, otherwise `blocked`."""
    half = dtype in (torch.float16, torch.bfloat16)
    return "flash" if device.type == "cuda" and half and flash.unavailable() is None else "blocked"


def varlen_attention(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens heads head_dim"],
    v: Float[Tensor, "tokens heads head_dim"],
    sequences: Sequences,
    window: int | None = None,
    backend: str | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Bidirectional attention inside each packed sequence, scaled by 1 / sqrt(head_dim). Differentiable.

    `window` is the number of tokens seen on each side, both ends included; None is global. `backend` is chosen by
    `default_backend` unless it is named.

    Raises:
        BackendError: there is no such backend, or it cannot run here or on these tensors.
    """
    name = backend or default_backend(q.device, q.dtype)
    if name not in _BACKENDS:
        raise BackendError(f"There is no attention backend {name!r}; choose one of {', '.join(_BACKENDS)}.")
    return _BACKENDS[name](q, k, v, sequences, window)
