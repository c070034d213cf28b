"""Typed, frozen configuration: read from TOML with overrides, checked with clear messages, written as TOML."""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modernbert.errors import ConfigError

Seed = Annotated[int, Field(ge=0, lt=2**63)]  # largest integer of TOML, valid for all generators


class Config(BaseModel):
    """A frozen value. Unknown keys are an error; each field has a default that works, or is required.

    A class with a `bare_key` can also be given as a string, the value of that key. `for_values` may return a
    subclass that depends on the values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    bare_key: ClassVar[str | None] = None

    @classmethod
    def for_values(cls, values: Mapping[str, Any]) -> "type[Config]":
        """The class to use for these values."""
        return cls

    @model_validator(mode="before")
    @classmethod
    def _from_bare(cls, value: Any) -> Any:
        return {cls.bare_key: str(value)} if cls.bare_key is not None and isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        """Check that each number fits the type that computes with it."""
        for name in type(self).model_fields:
            for value in _numbers_in(getattr(self, name)):
                largest = _MAX_INT if isinstance(value, int) else _MAX_FLOAT
                if not -largest <= value <= largest:
                    raise ValueError(f"{name} {value:g} is out of range; the largest is {largest:g}")
        return self


C = TypeVar("C", bound=Config)
_ANY = "NAME"
_Table = tuple[tuple[str, ...], type[BaseModel]]
_MAX_INT = 2**63 - 1
_MAX_FLOAT = 3.4e38  # the largest fp32 number


def _numbers_in(value: Any) -> Iterator[int | float]:
    """The numbers in a field, except those of another Config, which has checked its own."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _numbers_in(one)
    elif isinstance(value, dict):
        yield from _numbers_in(list(value.values()))


def check_directory(path: Path, name: str) -> None:
    """Check that a path is not the current folder, its parent or the root.

    Raises:
        ValueError: it is one of these; inside a validator, this becomes a ConfigError.
    """
    if path.name in ("", ".."):
        raise ValueError(f"{name} = {str(path)!r} is the current folder, its parent or the root; name a new folder")


def load(kind: type[C], path: Path | str, overrides: Iterable[str] = ()) -> C:
    """Read a TOML recipe, apply `section.key=value` overrides and validate.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value does not fit.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors on Windows write a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe {path}: give the path of a TOML file.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply for a recipe.") from None
    return parse(kind, values, str(path), overrides)


def parse(kind: type[C], values: Mapping[str, Any], where: str, overrides: Iterable[str] = ()) -> C:
    """Validate plain values with `section.key=value` overrides; `where` names their origin in messages.

    Raises:
        ConfigError: a key is unknown (the message suggests a similar one), or a value is wrong.
    """
    try:
        changed = deepcopy(dict(values))
        for override in overrides:
            _apply(kind, changed, override)
        subclass = kind.for_values(changed)
        assert issubclass(subclass, kind)
        kind = subclass
        return kind.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(kind, error)}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply.") from None


def dump(config: Config) -> str:
    """The configuration as TOML, from which `load` reads an equal value. Keys with the value None are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _apply(kind: type[Config], values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"The override {override!r} is not of the form section.key=value.")
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except ValueError:
        value = text  # a plain word, such as a path, needs no quotes on the command line
    *sections, last = key.strip().split(".")
    table = values
    inside: list[_Table] = [((), kind)]  # the possible classes of the table, with the names before their keys
    for depth, section in enumerate(sections):
        _check_name(table, inside, [*sections[:depth], section], override)
        inside = _tables_below(inside, section)
        below = table.setdefault(section, {})
        bare = next(
            (one.bare_key for left, one in inside if not left and issubclass(one, Config) and one.bare_key), None
        )
        if bare is not None and isinstance(below, str):
            below = table[section] = {bare: below}
        if not isinstance(below, dict):
            raise ConfigError(f"The override {override!r} goes through {section!r}, which is a value, not a table.")
        table = below
    _check_name(table, inside, [*sections, last], override)
    table[last] = value


def _tables_below(inside: Sequence[_Table], section: str) -> list[_Table]:
    """The classes that a section of a table may be."""
    found: list[_Table] = []
    for left, one in inside:
        if left:
            found.append((left[1:], one))
        elif section in one.model_fields:
            found += _models_in(one.model_fields[section].annotation)
    return found


def _check_name(table: Mapping[str, Any], inside: Sequence[_Table], path: Sequence[str], override: str) -> None:
    """Check that an override names an existing table, in sections whose tables have names that the recipe chooses.

    Raises:
        ConfigError: the recipe has no table of that name.
    """
    *above, name = path
    if name in table or not any(left and left[0] == _ANY for left, _ in inside):
        return
    where = ".".join(above)
    meant = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {where + '.' + meant[0]!r}?" if meant else "."
    raise ConfigError(
        f"The override {override!r} names {name!r}, but the recipe has {', '.join(table) or 'nothing'} in "
        f"[{where}]{hint}"
    )


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    mistakes = error.errors()
    # A misspelt key of a required field causes two errors; show the one with its name.
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        meant = " or ".join(repr(key) for key in _suggestions(kind, tuple(map(str, first["loc"]))))
        return f"{place} is not a known key" + (f"; did you mean {meant}?" if meant else ".")
    if first["type"] == "missing":
        return f"{place} is required."
    message = first["msg"].removeprefix("Value error, ")
    shown = f" (got {_shortened(first['input'])})" if isinstance(first["input"], str | int | float | bool) else ""
    return f"{place}: {message}{shown}." if place else f"{message}{shown}."


def _shortened(value: str | float) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _suggestions(kind: type[BaseModel], written: tuple[str, ...]) -> list[str]:
    """Suggestions for a misspelt key: the closest name in the same table, or all keys with the closest name."""
    *table, name = written
    places = list(dict.fromkeys(_places(kind, ())))
    beside = [one[-1] for one in places if len(one) == len(written) and _fits(table, one[:-1])]
    if close := difflib.get_close_matches(name, sorted(set(beside)), n=1):
        return [".".join((*table, close[0]))]
    close = difflib.get_close_matches(name, sorted({one[-1] for one in places}), n=1)
    return [".".join(one) for one in places if close and one[-1] == close[0]]


def _fits(table: Sequence[str], place: Sequence[str]) -> bool:
    return all(known in (part, _ANY) for part, known in zip(table, place, strict=True))


def _places(kind: type[BaseModel], table: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The keys of a class and of all classes inside it, as tuples of names; `_ANY` is a name that the user chooses."""
    for name, field in kind.model_fields.items():
        yield (*table, name)
        for between, inner in _models_in(field.annotation):
            yield from _places(inner, (*table, name, *between))


def _models_in(annotation: Any) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """The classes inside a type, each with the table names between the field and the keys of the class."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
    named = (_ANY,) if get_origin(annotation) is dict else ()
    for argument in getattr(annotation, "__args__", ()):
        for between, inner in _models_in(argument):
            yield (*named, *between), inner
