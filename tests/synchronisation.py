"""A check that code never waits for a CUDA device."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def never_waiting() -> Iterator[None]:
    """Every call inside the block that waits for the CUDA device fails; work queued before is allowed."""
    torch.cuda.synchronize()
    try:
        _set("error")
        yield
    finally:
        _set("default")


def _set(mode: str) -> None:
    with warnings.catch_warnings():  # torch warns that this is a prototype, and here warnings are errors
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)
