"""Detection of changes in a module after its weights were packed."""

from collections.abc import Iterator
from ctypes import string_at
from typing import Any

from torch import nn

_SAMPLE_BYTES = 64  # of each parameter on the CPU, from its middle


class WeightWatch:
    """A snapshot of a module and its parameters, for comparison with their current state.

    It detects replaced, added and removed parameters or submodules, in-place changes that PyTorch counts (optimizers,
    `load_state_dict`, `copy_` under `no_grad`), and another dtype, device or memory address. PyTorch does not count
    changes through `.data`: these are detected on the CPU if they change the middle of a parameter, as an update of all
    its values does. A comparison needs about a microsecond per parameter.
    """

    def __init__(self, module: nn.Module) -> None:
        self._entries: list[tuple[dict[str, Any], str, object]] = []
        self._sizes: list[tuple[dict[str, Any], int]] = []
        self._modules = list(module.modules())
        for child in self._modules:
            for entries in (child._modules, child._parameters):
                self._sizes.append((entries, len(entries)))
                self._entries += [(entries, name, value) for name, value in entries.items()]
        self._parameters = [(value, *_sample_range(value)) for value in module.parameters()]
        self._state = list(self._states())

    def changed(self) -> bool:
        """Whether anything has changed."""
        if any(len(entries) != size for entries, size in self._sizes):
            return True
        if any(entries.get(name) is not value for entries, name, value in self._entries):
            return True
        return any(now != before for now, before in zip(self._states(), self._state, strict=True))

    def hooked(self) -> bool:
        """Whether the module or a submodule has forward hooks.

        Hooks of transformers that record hidden states stay installed after use without effect, and are ignored.
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
            address = parameter.data_ptr()
            sample = string_at(address + offset, size) if size and parameter.is_cpu else b""
            yield parameter._version, address, parameter.dtype, sample


def _sample_range(parameter: nn.Parameter) -> tuple[int, int]:
    """Offset and size of the sample of a parameter in bytes; 0 and 0 if it is not contiguous."""
    if not parameter.is_contiguous():
        return 0, 0
    total = parameter.numel() * parameter.element_size()
    size = min(_SAMPLE_BYTES, total)
    return (total - size) // 2, size
