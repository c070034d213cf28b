"""The library of native CPU kernels (C++, AVX2 and above): loading it, and choosing an instruction level.

The library depends neither on torch nor on Python (src/native/interface.h): it receives tensors as pointers and runs in
the threads of torch, through a function that torch exports for that. native_operators.py wraps it in torch operators.

The level for products in fp32, bf16 and int8 is measured on first use, since the bf16 instruction of some processors is
slower than fp32. The environment variable `MODERNBERT_NATIVE` sets one level for all (`amx`, `avx512_bf16`,
`avx512_vnni`, `avx512`, `avx2`) or switches the kernels `off`; `MODERNBERT_NATIVE_LIBRARY` names another build of the
library (`make check-native`).
"""

import ctypes
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ctypes import CFUNCTYPE, POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modernbert.errors import BackendError, ConfigError

LEVELS = ("amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2")  # by expected speed, fastest first
KINDS = ("fp32", "bf16", "int8")  # of matrix products; each uses the level that is fastest for it
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
logger = logging.getLogger(__name__)

_VERSION = 3  # of src/native/interface.h
_MIN_SPEEDUP = 1.05  # to choose a level that is expected to be slower


class _Threads(Structure):
    _fields_ = (("parallel_for", c_void_p), ("count", c_int64))


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
        ("max_products", CFUNCTYPE(c_int32, *[c_void_p] * 3)),
        ("bf16_step", c_int64),
    )


@dataclass
class _Loaded:
    """The kernels of every level that this processor supports, and the level of each kind of product."""

    tables: dict[str, Any]  # in the order of LEVELS
    forced: str  # the level that the environment sets; empty if it is measured
    parallel_for: int | None
    chosen: dict[str, str] = field(default_factory=dict)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)  # measured GFLOP/s by kind and level


def _load(requested_level: str) -> _Loaded | str:
    """The kernels for this processor, at `requested_level` if it is not empty; or the reason why there are none.

    Raises:
        ConfigError: the level does not exist, or MODERNBERT_NATIVE_LIBRARY is not a build of this library.
    """
    if requested_level not in ("", "off", *LEVELS):
        raise ConfigError(
            f"MODERNBERT_NATIVE is {requested_level!r}, which is not a level of the native kernels; "
            f"set it to {', '.join(LEVELS)} or off, or unset it."
        )
    if requested_level == "off":
        return "is switched off by MODERNBERT_NATIVE"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"needs x86-64, but this machine is {platform.machine()}"
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
            return "was not built: install a wheel, or install a C++ compiler before pip install"
        version = 0
    if version != _VERSION:
        return "was built from another version of the sources: install the package again"
    find.restype, find.argtypes = POINTER(_Kernels), [ctypes.c_char_p]
    found = {level: find(level.encode()) for level in LEVELS}
    tables = {level: pointer.contents for level, pointer in found.items() if pointer}
    if not tables or (requested_level and requested_level not in tables):
        return f"needs {requested_level or 'AVX2'}, which this processor does not have"
    return _Loaded(tables, requested_level, _parallel_for())


def _torch_cpu() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))


def _parallel_for() -> int | None:
    """The address of torch's parallel loop (torch/csrc/stable/c/shim.h)."""
    try:
        return ctypes.cast(_torch_cpu().torch_parallel_for, c_void_p).value
    except (OSError, AttributeError):
        return None


def _end_idle_threads() -> None:
    """End the idle threads of OpenMP before a fork; OpenMP starts them again when needed.

    A forked child does not have these threads, but GNU's OpenMP (part of torch) does not detect that and would wait for
    them forever. Inside a parallel loop this has no effect.
    """
    omp_pause_soft = 1
    with suppress(OSError, AttributeError):  # a different OpenMP, or none
        _torch_cpu().omp_pause_resource_all(omp_pause_soft)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_idle_threads)


_selected = _load(os.environ.get("MODERNBERT_NATIVE", ""))
if os.environ.get("MODERNBERT_NATIVE") in LEVELS and isinstance(_selected, str):
    logger.warning("MODERNBERT_NATIVE is set, but plain PyTorch runs: the native backend %s.", _selected)


def select(level: str) -> None:
    """Use this level from now on, or `off`; an empty string selects the fastest level for each kind of product.

    Raises:
        ConfigError: the level does not exist.
    """
    global _selected
    _selected = _load(level)


def choices() -> dict[str, str]:
    """The level of each kind of product, for `use_choices` in another process; empty if the kernels do not run."""
    return {} if unavailable() else {kind: level(kind) for kind in KINDS}


def use_choices(chosen: Mapping[str, str]) -> None:
    """Use the levels that another process chose, so that both compute the same bits.

    Raises:
        BackendError: this machine lacks a level, or only this machine has the kernels.
    """
    if chosen == choices():
        return
    tables = () if isinstance(_selected, str) else _selected.tables
    missing = sorted(set(chosen.values()) - set(tables))
    if missing or not chosen:
        used = f"native kernels of the level {missing[0]}, which this machine lacks" if missing else "no native kernels"
        raise BackendError(
            f"This run was started with {used}; resume it on a machine of the same kind, or start again with "
            f"MODERNBERT_NATIVE={'avx2' if missing else 'off'}."
        )
    _loaded().chosen.update(chosen)


def unavailable() -> str | None:
    """The reason why this backend cannot run on this machine, or None if it can."""
    return _selected if isinstance(_selected, str) else None


def available_levels() -> tuple[str, ...]:
    """The levels that this processor and this build support, in the order of LEVELS."""
    return () if isinstance(_selected, str) else tuple(_selected.tables)


def level(kind: str = "fp32") -> str:
    """The instruction level of a kind of product. The first call may measure for a few milliseconds."""
    loaded = _loaded()
    if kind not in loaded.chosen:
        candidates = candidates_for(kind, tuple(loaded.tables), loaded.forced)
        rates = _measured(kind, candidates) if len(candidates) > 1 else {}
        loaded.rates[kind], loaded.chosen[kind] = rates, fastest(candidates, rates)
    return loaded.chosen[kind]


def rates(kind: str) -> dict[str, float]:
    """The measured GFLOP/s of each level for a kind of product; empty if there was only one candidate."""
    level(kind)
    return dict(_loaded().rates[kind])


def candidates_for(kind: str, available: Sequence[str], forced: str) -> list[str]:
    """The levels that a kind of product can use, the one with the largest instructions first.

    Levels with the same code for a kind are one candidate: for fp32, all levels above `avx512` have its code; for bf16,
    `avx512_vnni` has the code of `avx512`; for int8, `avx512_bf16` has the code of `avx512_vnni`. A forced level is the
    only candidate. Exception: `avx512` has no int8 instruction, so it uses `avx512_vnni` if the processor supports it.
    """
    if forced == "avx512" and kind == "int8" and "avx512_vnni" in available:
        return ["avx512_vnni"]
    if forced:
        return [forced]
    same = {
        "fp32": {"amx", "avx512_bf16", "avx512_vnni"},
        "bf16": {"avx512_vnni"},
        "int8": {"avx512_vnni"} if "avx512_bf16" in available else set(),  # avx512_bf16 also has bf16
    }
    return [level for level in available if level not in same[kind]]


def fastest(candidates: Sequence[str], rates: Mapping[str, float]) -> str:
    """The first candidate, unless another one is faster by more than the error of a measurement."""
    best = candidates[0]
    for level in candidates[1:]:
        if rates[level] > _MIN_SPEEDUP * rates[best]:
            best = level
    return best


def _measured(kind: str, levels: Sequence[str]) -> dict[str, float]:
    from modernbert.kernels.native_encoder import measure_levels  # a circular import at the top

    return measure_levels(kind, levels)


def supports(device: torch.device, dtype: torch.dtype, width: int = 0, of: int = 32) -> bool:
    """Whether the kernels run here and support fp32 or bf16 tensors on the CPU, with `width` a multiple of `of`."""
    return unavailable() is None and device.type == "cpu" and dtype in DTYPES and width % of == 0


def _loaded() -> _Loaded:
    assert isinstance(_selected, _Loaded)
    return _selected


def kind_of(dtype: torch.dtype) -> str:
    """The kind of product for tensors of this dtype."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def kernels(kind: str = "fp32") -> Any:
    """The C functions of src/native/interface.h at the level of this kind of product."""
    return kernels_at(level(kind))


def kernels_at(level: str) -> Any:
    """The C functions of one level."""
    return _loaded().tables[level]


def thread_pool() -> _Threads:
    """The threads of torch, in the form that the kernels expect."""
    return _Threads(_loaded().parallel_for, torch.get_num_threads())


def check_status(status: int) -> None:
    """Check that a kernel has not rejected its boundaries, with which it would access memory out of bounds.

    Raises:
        BackendError: the status is not 0.
    """
    if status:
        raise BackendError(
            "The boundaries of the sequences do not rise from 0 to the number of tokens; make the sequences with pack "
            "or Sequences.from_lengths."
        )
