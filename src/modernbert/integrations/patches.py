"""Reversible replacement of a method of one object."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from modernbert.errors import ConfigError


class Patch:
    """Replaces a method of one object through the `__dict__` of the object; the class does not change.

    Copies and pickles of the object contain a patch of their own.
    """

    def __init__(self, module: Any, method: str) -> None:
        self.module = module
        self.method = method

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the method, which libraries inspect to select arguments."""
        return inspect.signature(getattr(type(self.module), self.method).__get__(self.module))

    @property
    def __name__(self) -> str:
        return self.method

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The method of the class."""
        return getattr(type(self.module), self.method)(self.module, *args, **kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments | None:
        """The arguments by name, or None if they do not fit (the original method then raises the error)."""
        try:
            return self.__signature__.bind(*args, **kwargs)
        except TypeError:
            return None

    def install(self) -> None:
        """Replace the method.

        Raises:
            ConfigError: the method is already replaced, for example by a hook of another library.
        """
        if self.method in vars(self.module):
            raise ConfigError(
                f"The method {self.method} of this {type(self.module).__name__} is already replaced by a hook of "
                "another library or a wrapper; accelerate the model before that."
            )
        vars(self.module)[self.method] = self


def patches_of(model: nn.Module) -> Iterator[Patch]:
    """All patches on a model and its submodules."""
    for module in model.modules():
        for value in list(vars(module).values()):
            if isinstance(value, Patch):
                yield value


def remove_patches(model: nn.Module) -> list[Patch]:
    """Remove all patches from a model and return them."""
    patches = list(patches_of(model))
    for patch in patches:
        vars(patch.module).pop(patch.method, None)
    return patches
