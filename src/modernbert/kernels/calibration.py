"""Which of several kernels for the same thing is the fastest on this device: measured once, on first use."""

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
    """The name of the candidate that took the least time when this key was first asked for.

    Where nothing can be measured now and the key is new, it is `default`, and the key stays open.
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
    """Whether something can be measured now: not while work is being traced, or captured in a CUDA graph."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def forget() -> None:
    """Measure anew from here on."""
    _chosen.clear()


def chosen() -> dict[Hashable, str]:
    """What was chosen so far in this process."""
    return dict(_chosen)


def _cuda_seconds(run: Callable[[], object]) -> float:
    """The time of one of several runs that wait for nobody, after one that does not count (it compiles).

    By the device's clock, the best of a few rounds: the host starts the runs of a round ahead of the device.
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
