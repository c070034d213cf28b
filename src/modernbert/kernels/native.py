"""Kernels in C++ for CPUs with AVX2 and more: attention, residual + layer norm, GeGLU, cross-entropy, StableAdamW.

The library knows neither torch nor Python (src/native/interface.h): tensors reach it as pointers, and it runs in
torch's own threads, through the function that torch exports for that. Here each kernel becomes an operator of torch
with its shape and its gradient, so that autograd, `torch.compile` and export see it.

Which level serves products in fp32, in bf16 and in int8 is measured on first use: there are processors whose
instruction for bf16 is slower than fp32. `MODERNBERT_NATIVE` in the environment names the level of all of them (`amx`,
`avx512_bf16`, `avx512_vnni`, `avx512`, `avx2`) or switches them `off`;
`MODERNBERT_NATIVE_LIBRARY` names another build of the library (`make check-native`).
"""

import ctypes
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ctypes import CFUNCTYPE, POINTER, Structure, addressof, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.errors import BackendError, ConfigError
from modernbert.kernels.arguments import check_add_norm
from modernbert.kernels.operator import Operator
from modernbert.kernels.rotary import Rope
from modernbert.packed import IGNORED, Sequences

LEVELS = ("amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2")  # what their names promise, the most first
KINDS = ("fp32", "bf16", "int8")  # of products; each takes the level that is fastest at it
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
logger = logging.getLogger(__name__)

_VERSION = 2  # of src/native/interface.h
_CLEARLY = 1.05  # a level whose name promises less has to be faster by this


class _Threads(Structure):
    _fields_ = (("parallel_for", c_void_p), ("count", c_int64))


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
        ("mean_share", c_float), ("square_kept", c_float), ("square_share", c_float), ("epsilon", c_float),
    )  # fmt: skip


class _Kernels(Structure):
    _fields_ = (
        ("attention_forward", CFUNCTYPE(c_int32, *[c_void_p] * 4)),
        ("attention_backward", CFUNCTYPE(c_int32, *[c_void_p] * 6)),
        ("add_norm_forward", CFUNCTYPE(None, *[c_void_p] * 8)),
        ("add_norm_backward", CFUNCTYPE(None, *[c_void_p] * 10)),
        ("geglu_forward", CFUNCTYPE(None, c_int, c_int64, c_int64, *[c_void_p] * 3)),
        ("geglu_backward", CFUNCTYPE(None, c_int, c_int64, c_int64, *[c_void_p] * 4)),
        ("softmax_gradient", CFUNCTYPE(c_double, c_int, c_int64, c_int64, *[c_void_p] * 5)),
        ("encoder_workspace", CFUNCTYPE(c_int64, c_void_p, c_int64)),
        ("encoder_forward", CFUNCTYPE(c_int32, *[c_void_p] * 4)),
        ("stable_adamw_update", CFUNCTYPE(c_double, *[c_void_p] * 3)),
        ("stable_adamw_move", CFUNCTYPE(None, c_void_p, c_void_p, c_float, c_float, c_void_p)),
        ("bf16_step", c_int64),
    )


@dataclass
class _Loaded:
    """The kernels of every level that runs here, and which level each kind of product takes."""

    tables: dict[str, Any]  # in the order of LEVELS
    forced: str  # or empty: the choice is measured
    parallel_for: int | None
    chosen: dict[str, str] = field(default_factory=dict)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)  # GFLOP/s of what was compared, by kind and level


def _load(wanted: str) -> _Loaded | str:
    """The kernels that run here, with `wanted` forced unless it is empty; or why there are none.

    Raises:
        ConfigError: there is no such level, or a library that the environment names is not ours.
    """
    if wanted not in ("", "off", *LEVELS):
        raise ConfigError(
            f"MODERNBERT_NATIVE is {wanted!r}, which is no level of the native kernels; "
            f"take {', '.join(LEVELS)} or off, or leave it unset."
        )
    if wanted == "off":
        return "is switched off by MODERNBERT_NATIVE"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"is for x86-64, and this is {platform.machine()}"
    named = os.environ.get("MODERNBERT_NATIVE_LIBRARY")
    try:
        library = ctypes.CDLL(str(named or Path(__file__).with_name("libmodernbert.so")))
        find, version = library.native_kernels, library.native_version()
    except (OSError, AttributeError) as error:
        if named:
            raise ConfigError(
                f"MODERNBERT_NATIVE_LIBRARY names {named}, which is not a build of the native kernels ({error})."
            ) from None
        if isinstance(error, OSError):
            return "was not built: install a wheel, or a C++ compiler before pip install"
        version = 0
    if version != _VERSION:
        return "was built from other sources than these: install the package again"
    find.restype, find.argtypes = POINTER(_Kernels), [ctypes.c_char_p]
    found = {level: find(level.encode()) for level in LEVELS}
    tables = {level: pointer.contents for level, pointer in found.items() if pointer}
    if not tables or (wanted and wanted not in tables):
        return f"needs {wanted or 'AVX2'}, which this processor has not"
    return _Loaded(tables, wanted, _parallel_for())


def _torch_cpu() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))


def _parallel_for() -> int | None:
    """The address of torch's parallel loop (torch/csrc/stable/c/shim.h)."""
    try:
        return ctypes.cast(_torch_cpu().torch_parallel_for, c_void_p).value
    except (OSError, AttributeError):
        return None


def _end_idle_threads() -> None:
    """End the waiting threads of OpenMP, which come back when they are next needed.

    A child of a fork has none of them. GNU's OpenMP, which torch brings, does not notice: the child would wait for them
    for ever. Inside a parallel loop nothing happens.
    """
    omp_pause_soft = 1
    with suppress(OSError, AttributeError):  # another OpenMP, or none
        _torch_cpu().omp_pause_resource_all(omp_pause_soft)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_idle_threads)


_selected = _load(os.environ.get("MODERNBERT_NATIVE", ""))
if os.environ.get("MODERNBERT_NATIVE") in LEVELS and isinstance(_selected, str):
    logger.warning("MODERNBERT_NATIVE is set, but plain PyTorch runs: the native backend %s.", _selected)


def select(level: str) -> None:
    """Take this level from now on, or `off`; empty is the best one for each kind of product.

    Raises:
        ConfigError: there is no such level.
    """
    global _selected
    _selected = _load(level)


def unavailable() -> str | None:
    """Why this backend cannot run on this machine, or None if it can."""
    return _selected if isinstance(_selected, str) else None


def available_levels() -> tuple[str, ...]:
    """The levels that this processor and this build have, in the order of LEVELS; none where nothing can run."""
    return () if isinstance(_selected, str) else tuple(_selected.tables)


def level(kind: str = "fp32") -> str:
    """The instruction level that a kind of product takes. The first question after it may measure, for milliseconds."""
    loaded = _loaded()
    if kind not in loaded.chosen:
        candidates = candidates_for(kind, tuple(loaded.tables), loaded.forced)
        rates = _measured(kind, candidates) if len(candidates) > 1 else {}
        loaded.rates[kind], loaded.chosen[kind] = rates, fastest(candidates, rates)
    return loaded.chosen[kind]


def rates(kind: str) -> dict[str, float]:
    """What was measured to choose the level of a kind of product, in GFLOP/s; empty where there was no choice."""
    level(kind)
    return dict(_loaded().rates[kind])


def candidates_for(kind: str, available: Sequence[str], forced: str) -> list[str]:
    """The levels among which a kind of product has a choice, the one with the largest instructions first.

    Levels with the same code for a kind are one candidate: fp32 is that of `avx512` on all levels above it, bf16 is
    that of `avx512` on `avx512_vnni`, and int8 that of `avx512_vnni` on `avx512_bf16`. A forced level is the only one,
    save that `avx512` has no instruction for int8: it takes that of `avx512_vnni`, where the processor has it.
    """
    if forced == "avx512" and kind == "int8" and "avx512_vnni" in available:
        return ["avx512_vnni"]
    if forced:
        return [forced]
    same = {
        "fp32": {"amx", "avx512_bf16", "avx512_vnni"},
        "bf16": {"avx512_vnni"},
        "int8": {"avx512_vnni"} if "avx512_bf16" in available else set(),  # the upper one also has bf16 for the rest
    }
    return [level for level in available if level not in same[kind]]


def fastest(candidates: Sequence[str], rates: Mapping[str, float]) -> str:
    """The first candidate, unless another one is faster by more than a measurement errs."""
    best = candidates[0]
    for level in candidates[1:]:
        if rates[level] > _CLEARLY * rates[best]:
            best = level
    return best


def _measured(kind: str, levels: Sequence[str]) -> dict[str, float]:
    from modernbert.kernels.native_encoder import measure_levels  # which stands on this module

    return measure_levels(kind, levels)


def supports(device: torch.device, dtype: torch.dtype, width: int = 0, of: int = 32) -> bool:
    """Whether the kernels are there and take such tensors: fp32 or bf16 on the CPU, rows of a multiple of `of`."""
    return unavailable() is None and device.type == "cpu" and dtype in DTYPES and width % of == 0


def varlen_attention(
    qkv: Float[Tensor, "tokens 3 heads head_dim"], sequences: Sequences, window: int | None, rope: Rope | None
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window, of q and k turned by `rope`.

    Raises:
        BackendError: the kernels cannot run here, or not on these tensors.
    """
    if reason := unavailable():
        raise BackendError(f"The native backend {reason}; use backend='blocked'.")
    dim = qkv.shape[-1]
    if not supports(qkv.device, qkv.dtype, dim):
        raise BackendError(
            f"The native backend takes fp32 or bf16 on the CPU with head_dim a multiple of 32, not {qkv.dtype} on "
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


def _loaded() -> _Loaded:
    assert isinstance(_selected, _Loaded)
    return _selected


def kind_of(dtype: torch.dtype) -> str:
    """The kind of product that tensors of a dtype take part in."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def kernels(kind: str = "fp32") -> Any:
    """The C functions of src/native/interface.h at the level that this kind of product takes."""
    return kernels_at(level(kind))


def kernels_at(level: str) -> Any:
    """The C functions of one level."""
    return _loaded().tables[level]


def team() -> _Threads:
    """Torch's threads, as the kernels take them."""
    return _Threads(_loaded().parallel_for, torch.get_num_threads())


def require_done(refused: int) -> None:
    """Raise what a kernel has refused: boundaries that would have it read and write outside of its tensors.

    Raises:
        BackendError: it did.
    """
    if refused:
        raise BackendError("The boundaries of the sequences do not rise from 0 to the number of tokens.")


def _described(qkv: Tensor, cos: Tensor, sin: Tensor, boundaries: Tensor, window: int) -> _Attention:
    """Pointers and sizes. An exported model comes here without `varlen_attention`, so that sizes are checked again.

    Raises:
        BackendError: the tensors are not what the kernels take.
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
            "The native kernels take qkv as (tokens, 3, heads, head_dim), rotations as (tokens, head_dim / 2) in fp32 "
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
    """Rotated and attended: (tokens, heads, head_dim), and the logsumexp of the scores (heads, tokens).

    `qkv` is (tokens, 3, heads, head_dim); `cos` and `sin` are (tokens, head_dim / 2) in fp32 with rows of equal
    stride; a negative window is global.
    """
    qkv = qkv.contiguous()
    described, threads = _described(qkv, cos, sin, boundaries, window), team()
    out, logsumexp = _attention_shape(qkv)
    require_done(
        kernels(kind_of(qkv.dtype)).attention_forward(
            addressof(described), out.data_ptr(), logsumexp.data_ptr(), addressof(threads)
        )
    )
    return out, logsumexp


def _attention_backward(
    grad: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, boundaries: Tensor, window: int, out: Tensor, logsumexp: Tensor
) -> Tensor:
    """The gradient of `qkv`."""
    qkv, grad = qkv.contiguous(), grad.contiguous()
    result = torch.empty_like(qkv)
    described, threads = _described(qkv, cos, sin, boundaries, window), team()
    if grad.shape != out.shape or out.shape != qkv[:, 0].shape or logsumexp.shape != (qkv.shape[2], len(qkv)):
        raise BackendError("The gradient, the output and the logsumexp are not those of this attention.")
    require_done(
        kernels(kind_of(qkv.dtype)).attention_backward(
            addressof(described), logsumexp.data_ptr(), out.data_ptr(), grad.data_ptr(), result.data_ptr(),
            addressof(threads),
        )
    )  # fmt: skip
    return result


attention_backward = Operator("attention_backward", _attention_backward, lambda grad, qkv, *_: torch.empty_like(qkv))


def _keep_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
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


attention = Operator("attention", _attention, _attention_shape, _keep_attention, _differentiate_attention)


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
    check_add_norm(x, y, weight)  # again, since an exported model comes here by itself
    x, y, weight = x.contiguous(), y.contiguous(), weight.float()
    total, normed, mean, inverse = _add_norm_shape(x, y, weight, epsilon, dtype)
    described, threads = _norm(x, weight, epsilon, dtype), team()
    kernels(kind_of(dtype)).add_norm_forward(
        addressof(described), x.data_ptr(), y.data_ptr(), total.data_ptr(), normed.data_ptr(), mean.data_ptr(),
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
    described, threads = _norm(total, precise, 0.0, normed_grad.dtype), team()
    kernels(kind_of(normed_grad.dtype)).add_norm_backward(
        addressof(described), total.data_ptr(), mean.data_ptr(), inverse.data_ptr(), normed_grad.data_ptr(),
        None if stream_grad is None else stream_grad.data_ptr(), grad.data_ptr(), narrow.data_ptr(),
        weight_grad.data_ptr(), addressof(threads),
    )  # fmt: skip
    return grad, narrow, weight_grad.to(weight.dtype)


add_norm_backward = Operator("add_norm_backward", _add_norm_backward, _add_norm_backward_shape)


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    total, _, mean, inverse = output
    ctx.save_for_backward(total, mean, inverse, inputs[2])
    ctx.mark_non_differentiable(mean, inverse)
    ctx.set_materialize_grads(False)


def _differentiate_norm(ctx: Any, stream_grad: Tensor | None, normed_grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    total, mean, inverse, weight = ctx.saved_tensors
    assert normed_grad is not None, "a norm whose result nobody uses"
    return *add_norm_backward.operator(stream_grad, normed_grad, total, mean, inverse, weight), None, None


add_norm = Operator("add_norm", _add_norm, _add_norm_shape, _keep_norm, _differentiate_norm)


def _geglu_shape(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _geglu(x: Tensor) -> Tensor:
    """gelu(a) * b for rows (a, b): (..., 2 width) to (..., width)."""
    x = x.contiguous()
    result, threads = _geglu_shape(x), team()
    width = result.shape[-1]
    kernels(kind_of(x.dtype)).geglu_forward(
        DTYPES[x.dtype], result.numel() // max(1, width), width, x.data_ptr(), result.data_ptr(), addressof(threads)
    )
    return result


def _geglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    x, grad = x.contiguous(), grad.contiguous()
    result, threads, width = torch.empty_like(x), team(), grad.shape[-1]
    kernels(kind_of(x.dtype)).geglu_backward(
        DTYPES[x.dtype], grad.numel() // max(1, width), width, x.data_ptr(), grad.data_ptr(), result.data_ptr(),
        addressof(threads),
    )  # fmt: skip
    return result


geglu_backward = Operator("geglu_backward", _geglu_backward, lambda grad, x: torch.empty_like(x))


def _keep_geglu(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_geglu(ctx: Any, grad: Tensor) -> Any:
    [x] = ctx.saved_tensors
    return geglu_backward.operator(grad, x)


geglu = Operator("geglu", _geglu, _geglu_shape, _keep_geglu, _differentiate_geglu)


def softmax_gradient(
    logits: Float[Tensor, "rows vocab"],
    bias: Float[Tensor, "vocab"] | None,
    labels: Tensor,
    bias_gradient: Float[Tensor, "vocab"] | None,
) -> float:
    """The summed cross-entropy (nats) of labels under softmax(logits + bias).

    Unless `bias_gradient` is None, softmax - one-hot takes the place of the logits, and its sum over the rows is added
    there (fp32). Rows labelled -100 count for nothing.
    """
    rows, vocab = logits.shape
    counted = labels != IGNORED
    if not counted.all():  # rare on a CPU: the kernel does not know them
        rest = logits[counted]
        loss = softmax_gradient(rest, bias, labels[counted], bias_gradient)
        if bias_gradient is not None:
            logits.zero_()[counted] = rest
        return loss
    if rows and not 0 <= int(labels.min()) <= int(labels.max()) < vocab:
        raise IndexError(f"a label is outside the vocabulary of {vocab}")
    precise, labels, threads = None if bias is None else bias.float(), labels.to(torch.int64).contiguous(), team()
    return kernels(kind_of(logits.dtype)).softmax_gradient(
        DTYPES[logits.dtype], rows, vocab, logits.data_ptr(), None if precise is None else precise.data_ptr(),
        labels.data_ptr(), None if bias_gradient is None else bias_gradient.data_ptr(), addressof(threads),
    )  # fmt: skip


def stable_adamw_moments(
    gradient: Tensor, mean: Tensor, square: Tensor, betas: tuple[float, float], epsilon: float, scale: float
) -> float:
    """Bring the moving averages of g = scale * gradient and of g^2 up to date, in place.

    Returns the sum of g^2 / max(square, epsilon^2). All three are contiguous, of one size and in fp32 on the CPU.
    """
    described, threads = _moments(mean, square, betas, epsilon, scale), team()
    return kernels().stable_adamw_update(addressof(described), gradient.data_ptr(), addressof(threads))


def stable_adamw_move(
    values: Tensor, mean: Tensor, square: Tensor, epsilon: float, *, kept: float, rate: float
) -> None:
    """values = kept * values - rate * mean / (sqrt(square) + epsilon), in place; contiguous, in fp32 on the CPU."""
    described, threads = _moments(mean, square, (0.0, 0.0), epsilon, 0.0), team()
    kernels().stable_adamw_move(addressof(described), values.data_ptr(), kept, rate, addressof(threads))


def _moments(mean: Tensor, square: Tensor, betas: tuple[float, float], epsilon: float, scale: float) -> _Moments:
    beta1, beta2 = betas
    return _Moments(mean.data_ptr(), square.data_ptr(), mean.numel(), scale, 1 - beta1, beta2, 1 - beta2, epsilon)
