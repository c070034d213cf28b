"""Measure on first use which of several equivalent kernels is the fastest on this device."""

import logging
from collections.abc import Callable, Hashable, Mapping

import torch

logger = logging.getLogger(__name__)

_ROUNDS, _RUNS = 3, 4
_chosen: dict[Hashable, str] = {}


def fastest(
    key: Hashable,
    candidates: Mapping[str, Callable[[], object]],
    default: str,
    seconds: Callable[[Callable[[], object]], float] | None = None,
) -> str:
    """The fastest candidate for this key, measured on the first call.

    If the key is new and measuring is not possible now, it returns `default`, and a later call measures.
    """
    if key in _chosen:
        return _chosen[key]
    if not possible():
        return default
    measure = seconds or _cuda_seconds
    found = {name: measure(run) for name, run in candidates.items()}
    _chosen[key] = min(found, key=lambda name: found[name])
    logger.debug("%s: %s", key, ", ".join(f"{name} {1e6 * each:.0f} us" for name, each in found.items()))
    return _chosen[key]


def known(key: Hashable) -> bool:
    """Whether this key was measured."""
    return key in _chosen


def possible() -> bool:
    """Whether measuring is possible now: not while code is being traced or captured in a CUDA graph."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def forget() -> None:
    """Forget all results, so that the next calls measure again."""
    _chosen.clear()


def chosen() -> dict[Hashable, str]:
    """The choices of this process so far."""
    return dict(_chosen)


def _cuda_seconds(run: Callable[[], object]) -> float:
    """Seconds of a run after a warm-up run, which compiles.

    It is the best of a few rounds of several runs, measured by the clock of the device.
    """
    run()
    found = []
    for _ in range(_ROUNDS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(_RUNS):
            run()
        ended.record()
        ended.synchronize()
        found.append(began.elapsed_time(ended) / 1000 / _RUNS)
    return min(found)
