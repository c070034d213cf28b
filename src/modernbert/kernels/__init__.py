"""Attention: one function with several backends, all tested against the backend `reference`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.kernels import blocked, calibration, flash, native, native_operators, reference, triton
from modernbert.kernels.arguments import check_attention
from modernbert.kernels.elementwise import add_norm, embedding_norm, geglu, layer_norm
from modernbert.kernels.rotary import Rope
from modernbert.packed import Sequences

__all__ = [
    "Rope",
    "add_norm",
    "available_backends",
    "default_backend",
    "embedding_norm",
    "geglu",
    "layer_norm",
    "varlen_attention",
]

_Backend = Callable[[Tensor, Sequences, int | None, Rope | None], Tensor]


def _rotated(attention: Callable[[Tensor, Tensor, Tensor, Sequences, int | None], Tensor]) -> _Backend:
    """A backend without rotary embedding, applied after the rotation."""

    def run(qkv: Tensor, sequences: Sequences, window: int | None, rope: Rope | None) -> Tensor:
        q, k, v = qkv.unbind(1)
        if rope is not None:
            q, k = rope(q), rope(k)
        return attention(q, k, v, sequences, window)

    return run


def _triton(qkv: Tensor, sequences: Sequences, window: int | None, rope: Rope | None) -> Tensor:
    """The Triton kernels, imported on first use."""
    if reason := triton.unavailable():
        raise BackendError(f"The triton backend {reason}; use backend='blocked'.")
    if not triton.supports(qkv.device, qkv.dtype):
        raise BackendError(
            f"The triton backend supports fp32, bf16 or fp16 on CUDA, not {qkv.dtype} on {qkv.device.type}; "
            "use backend='blocked'."
        )
    from modernbert.kernels.triton import attention

    return attention.varlen_attention(qkv, sequences, window, rope)


_BACKENDS: dict[str, _Backend] = {
    "reference": _rotated(reference.attention),
    "blocked": _rotated(blocked.attention),
    "native": native_operators.varlen_attention,
    "flash": flash.varlen_attention,
    "triton": _triton,
}
_TOKENS_MEASURED = 32_768  # in the calibration of global layers, or one longer sequence


def available_backends() -> dict[str, str | None]:
    """Every backend, with the reason why it cannot run on this machine, or None."""
    return {
        "reference": None,
        "blocked": None,
        "native": native.unavailable(),
        "flash": flash.unavailable(),
        "triton": triton.unavailable(),
    }


def default_backend(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int = 64,
    *,
    heads: int = 12,
    window: int | None = None,
    longest: int = 1024,
    training: bool = False,
) -> str:
    """The fastest backend for such tensors.

    On CUDA in fp16 or bf16: `triton` for a window, and for global attention the faster one of `triton` and `flash`.
    That is measured in a few milliseconds for this sequence length, and with the backward pass if `training` is set. On
    a CPU in fp32 or bf16: `native`, if available. Otherwise `blocked`.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    if device.type == "cuda" and half and flash.unavailable() is None:
        if triton.unavailable():
            return "flash"
        return "triton" if window is not None else _fastest_global(device, dtype, heads, head_dim, longest, training)
    return "native" if native.supports(device, dtype, head_dim) else "blocked"


def _fastest_global(
    device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, longest: int, training: bool
) -> str:
    length = 1 << max(6, (longest - 1).bit_length())
    runs: dict[str, Callable[[], object]] = {}
    key = ("global attention", device, dtype, heads, head_dim, length, training)
    if calibration.known(key):
        return calibration.fastest(key, runs, "flash")
    count = max(1, _TOKENS_MEASURED // length)

    def run(name: str) -> Callable[[], object]:
        def attend() -> None:
            with torch.enable_grad() if training else torch.no_grad():
                out = _BACKENDS[name](qkv, sequences, None, None)
            if training:
                torch.autograd.grad(out, qkv, out.detach())

        return attend

    if calibration.possible():
        with torch.inference_mode(False):
            sequences = Sequences.from_lengths([length] * count, device)
            qkv = torch.randn(length * count, 3, heads, head_dim, device=device, dtype=dtype, requires_grad=training)
        runs = {name: run(name) for name in ("triton", "flash")}
    return calibration.fastest(key, runs, "flash")


def varlen_attention(
    qkv: Float[Tensor, "tokens 3 heads head_dim"],
    sequences: Sequences,
    window: int | None = None,
    rope: Rope | None = None,
    backend: str | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Bidirectional attention inside each packed sequence, scaled by 1 / sqrt(head_dim). Differentiable.

    Queries and keys are rotated by `rope` first, if given. `window` is the number of visible tokens on each side,
    inclusive; None is global. `backend` defaults to `default_backend`.

    Raises:
        BackendError: the backend is unknown or does not support this machine or these tensors, or their shapes differ.
    """
    traced = torch.compiler.is_compiling()
    if not traced:  # compiled code was checked at its start, in `Encoder.forward`
        check_attention(qkv, sequences, window, rope)
    name = backend or default_backend(
        qkv.device,
        qkv.dtype,
        qkv.shape[-1],
        heads=qkv.shape[2],
        window=window,
        longest=sequences.max_length,
        training=qkv.requires_grad and torch.is_grad_enabled(),
    )
    if name not in _BACKENDS:
        raise BackendError(f"There is no attention backend {name!r}; choose one of {', '.join(_BACKENDS)}.")
    if not traced and len(qkv) == 0:
        return qkv[:, 2]
    if not traced and window is not None:
        window = min(window, len(qkv))  # a wider window has no effect, and sums with positions could overflow
    return _BACKENDS[name](qkv, sequences, window, rope)
