"""Noticing that a module is no longer what it was when its weights were packed."""

from collections.abc import Iterator
from ctypes import string_at
from typing import Any

from torch import nn

_SAMPLE_BYTES = 64  # of each parameter on the CPU, from its middle


class WeightWatch:
    """What a module and its parameters were at one moment, to be compared with what they are now.

    It sees a parameter or submodule that was put in the place of another one, added or taken away, every change in
    place that PyTorch counts (optimizers, `load_state_dict`, `copy_` under `no_grad`), another dtype, device or place
    in memory. Changes through `.data` are not counted: they are seen on the CPU where they touch the middle of a
    parameter, as an update of all its numbers does. A comparison takes about a microsecond for each parameter.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: list[tuple[dict[str, Any], str, object]] = []
        self._sizes: list[tuple[dict[str, Any], int]] = []
        self._modules = list(module.modules())
        for child in self._modules:
            for entries in (child._modules, child._parameters):
                self._sizes.append((entries, len(entries)))
                self._places += [(entries, name, value) for name, value in entries.items()]
        self._parameters = [(value, *_middle(value)) for value in module.parameters()]
        self._state = list(self._states())

    def changed(self) -> bool:
        """Whether anything is different now."""
        if any(len(entries) != size for entries, size in self._sizes):
            return True
        if any(entries.get(name) is not value for entries, name, value in self._places):
            return True
        return any(now != before for now, before in zip(self._states(), self._state, strict=True))

    def hooked(self) -> bool:
        """Whether somebody listens to what goes through the module or one of its parts.

        Hooks of transformers itself that record hidden states stay installed after their first use and do nothing then.
        """
        for child in self._modules:
            if child._forward_pre_hooks:
                return True
            if child._forward_hooks:
                found = (getattr(hook, "__module__", "") for hook in child._forward_hooks.values())
                if any("output_capturing" not in name for name in found):
                    return True
        return False

    def _states(self) -> Iterator[tuple[object, ...]]:
        for parameter, offset, size in self._parameters:
            at = parameter.data_ptr()
            sample = string_at(at + offset, size) if size and parameter.is_cpu else b""
            yield parameter._version, at, parameter.dtype, sample


def _middle(parameter: nn.Parameter) -> tuple[int, int]:
    """Where the sample of a parameter begins, in bytes, and its size; none of one that is not in one piece."""
    if not parameter.is_contiguous():
        return 0, 0
    total = parameter.numel() * parameter.element_size()
    size = min(_SAMPLE_BYTES, total)
    return (total - size) // 2, size
