"""Typed, frozen configuration: TOML in, overrides on top, one sentence when something is wrong, TOML out."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from modernbert.errors import ConfigError


class Config(BaseModel):
    """A frozen value. Unknown keys are refused, every field has a default that works or is required for a reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def load(kind: type[C], path: Path | str, overrides: Iterable[str] = ()) -> C:
    """Read a TOML recipe, apply `section.key=value` overrides and validate.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value does not fit.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe {path}: give the path of a TOML file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}.") from None
    return parse(kind, values, str(path), overrides)


def parse(kind: type[C], values: Mapping[str, Any], where: str, overrides: Iterable[str] = ()) -> C:
    """Validate plain values under `section.key=value` overrides; `where` names their origin in the message.

    Raises:
        ConfigError: naming the first unknown key and the one that was probably meant, or else the first wrong value.
    """
    changed = deepcopy(dict(values))
    for override in overrides:
        _apply(changed, override)
    try:
        return kind.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(kind, error)}") from None


def dump(config: Config) -> str:
    """The configuration as TOML that `load` reads back to an equal value. Keys that are None are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"The override {override!r} is not of the form section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word, such as a path, needs no quotes on a command line
    *sections, last = key.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"The override {override!r} goes through {section!r}, which is a value, not a table.")
    table[last] = value


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    mistakes = error.errors()
    # A misspelt key of a required field is two mistakes, and its name is the one to show.
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    place = ".".join(str(part) for part in first["loc"]) or "the recipe"
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), sorted(_field_names(kind, set())), n=1)
        return f"{place} is not a known key" + (f"; did you mean {close[0]!r}?" if close else ".")
    if first["type"] == "missing":
        return f"{place} is required."
    message = first["msg"].removeprefix("Value error, ")
    shown = f" (got {first['input']!r})" if isinstance(first["input"], str | int | float | bool) else ""
    return f"{place}: {message}{shown}."


def _field_names(kind: type[BaseModel], seen: set[type[BaseModel]]) -> set[str]:
    seen.add(kind)
    names: set[str] = set()
    for name, field in kind.model_fields.items():
        names.add(name)
        for inner in _models_in(field.annotation):
            if inner not in seen:
                names |= _field_names(inner, seen)
    return names


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
