"""How the kernels are launched: on which device, with how many programs."""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from modernbert.kernels.triton import interpreted


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Kernels launched inside run where `x` is: Triton launches on the current device, whatever it is given."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@functools.cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device; 2 for the CPU, where the interpreter runs programs one by one."""
    if device.type == "cuda":
        count: int = torch.cuda.get_device_properties(device).multi_processor_count
        return count
    return 2


def power_of_two(number: int) -> int:
    """The least power of 2 that is not smaller, the only lengths of a Triton tensor."""
    return 1 << max(0, number - 1).bit_length()


def _repair_interpreter() -> None:
    """Let a loop run up to a number that is known at run time only.

    Triton's interpreter (3.6) makes an integer of an array with one element there, which NumPy 2.4 refuses.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def repaired(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = repaired


if interpreted():
    _repair_interpreter()
