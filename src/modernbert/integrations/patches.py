"""Putting a function in the place of a method on one object, so that it can be taken off again."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from modernbert.errors import ConfigError


class Patch:
    """Stands in an object's own `__dict__` in the place of a method of its class, which stays what it was.

    It is copied and pickled with the object, and then belongs to the copy.
    """

    def __init__(self, module: Any, method: str) -> None:
        self.module = module
        self.method = method

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the method: libraries look at it to know what they may pass."""
        return inspect.signature(getattr(type(self.module), self.method).__get__(self.module))

    @property
    def __name__(self) -> str:
        return self.method

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The method of the class."""
        return getattr(type(self.module), self.method)(self.module, *args, **kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments | None:
        """The arguments by name, or None where they do not fit (then the method says so itself)."""
        try:
            return self.__signature__.bind(*args, **kwargs)
        except TypeError:
            return None

    def put_on(self) -> None:
        """Take the method's place.

        Raises:
            ConfigError: something else, such as a hook of another library, stands there already.
        """
        if self.method in vars(self.module):
            raise ConfigError(
                f"The method {self.method} of this {type(self.module).__name__} was replaced already, by a hook of "
                "another library or a wrapper; accelerate the model before that."
            )
        vars(self.module)[self.method] = self


def patches_of(model: nn.Module) -> Iterator[Patch]:
    """Every patch on a model and its parts."""
    for module in model.modules():
        for value in list(vars(module).values()):
            if isinstance(value, Patch):
                yield value


def take_off(model: nn.Module) -> list[Patch]:
    """Leave a model as it was without patches; gives back those that were on it."""
    found = list(patches_of(model))
    for patch in found:
        vars(patch.module).pop(patch.method, None)
    return found
