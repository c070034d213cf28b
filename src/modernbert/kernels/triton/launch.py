"""The device and the number of programs of a kernel launch."""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from modernbert.kernels.triton import interpreted


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which kernels run on the device of `x`: Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@functools.cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device; 2 for the CPU, on which the interpreter runs programs sequentially."""
    if device.type == "cuda":
        count: int = torch.cuda.get_device_properties(device).multi_processor_count
        return count
    return 2


def power_of_two(number: int) -> int:
    """The smallest power of 2 that is not below `number`; lengths of Triton tensors must be powers of 2."""
    return 1 << max(0, number - 1).bit_length()


def _repair_interpreter() -> None:
    """Support loops with a bound that is known only at run time.

    For these, Triton's interpreter (3.6) converts an array with one element to an integer, which NumPy 2.4 refuses.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def repaired(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = repaired


if interpreted():
    _repair_interpreter()
