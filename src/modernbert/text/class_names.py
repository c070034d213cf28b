"""The names of classes that a data set stores as numbers (`ClassLabel` of the package datasets)."""

from collections.abc import Mapping
from typing import Any


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The class names of each column that has some, from a `Features` object or from its JSON form."""
    names_by_column = {column: _names_of(feature) for column, feature in features.items()}
    return {column: names for column, names in names_by_column.items() if names}


def with_class_names(values: Mapping[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row with class names in place of numbers. A number without a name, such as -1, becomes None (no label)."""
    return {column: _named(value, names[column]) if column in names else value for column, value in values.items()}


def _names_of(feature: Any) -> list[str] | None:
    """The class names of a column, or of the values in its lists."""
    if isinstance(feature, list) and len(feature) == 1:  # a list of classes, as older versions write it
        return _names_of(feature[0])
    in_json = isinstance(feature, Mapping)
    values = feature if in_json else {name: getattr(feature, name, None) for name in ("names", "feature")}
    if (feature.get("_type") if in_json else type(feature).__name__) == "ClassLabel":
        names = values.get("names")
        if isinstance(names, Mapping):
            names = [names[key] for key in sorted(names, key=int)]
        return [str(name) for name in names] if isinstance(names, list) else None
    inner = values.get("feature")
    return None if inner is None else _names_of(inner)


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value
