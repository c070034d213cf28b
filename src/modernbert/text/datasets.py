"""Records of Parquet files and of data sets of the hub, with the names of their classes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.text.opening import UnreadableError
from modernbert.text.record import Origin, Record, RejectedRecord, Source


def read_parquet(path: Path, column: str | None) -> Iterator[Record | RejectedRecord]:
    """Rows, numbered from 1; classes that are stored as numbers get the names that the schema has for them."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: {install_command('corpus')}.") from None
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            has = file.schema_arrow.names
            if column is not None and column not in has:
                raise DataError(f"{path} has no column {column!r}; it has {', '.join(has)}.")
            names = _class_names(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=256, columns=None if column is None else [column]):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(_with_names(values, names), Origin(str(path), row))
    except (pyarrow.ArrowException, OSError) as error:
        sentence = f"{path} is damaged after row {row} ({error}); copy or make it again."
        raise UnreadableError("damaged file", sentence, f"{path}:{row}") from None


def read_hub(source: Source) -> Iterator[Record | RejectedRecord]:
    """Rows of a data set, numbered from 1; classes that are stored as numbers get their names."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"A hub data set needs the package datasets: {install_command('datasets')}.") from None
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        rows = datasets.load_dataset(source.path, source.subset, split=source.split)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"The data set {source.path!r} cannot be loaded ({reason}); check its name, subset, split and the network."
        ) from None
    names = {}
    for column, feature in rows.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            names[column] = inner.names
    for number, values in enumerate(rows, 1):
        yield Record(_with_names(values, names), Origin(source.path, number))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes of each column, which the package datasets writes into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {column: _names_of(feature) for column, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {column: names for column, names in found.items() if names}


def _names_of(feature: Any) -> list[str] | None:
    if isinstance(feature, list) and len(feature) == 1:  # a sequence, as older versions write it
        return _names_of(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=int)]
        return [str(name) for name in names] if isinstance(names, list) else None
    return _names_of(feature.get("feature"))


def _with_names(values: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    return values | {column: _named(values[column], names[column]) for column in names if column in values}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1 is no label
