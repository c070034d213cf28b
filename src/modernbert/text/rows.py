"""Write rows in memory as JSON lines, so that all readers of this package can read them and a run can resume."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from modernbert.errors import DataError
from modernbert.files import atomic_write
from modernbert.text.class_names import class_names, with_class_names

Rows = Any  # an iterable of mappings, a DataFrame of pandas or polars, or a Dataset of the package datasets


def write_rows(rows: Rows, folder: Path, name: str) -> Path:
    """Write rows as JSON lines into `folder`, with the class names of a `datasets.Dataset`. Returns the file.

    The file name ends with a hash of the content, so that other rows never replace those of an earlier run.

    Raises:
        DataError: a row is not a mapping with text keys, a value cannot be written as JSON, or there is no row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = hashlib.sha256()
    with TemporaryFile("w+", encoding="utf-8", dir=folder) as lines:
        count = 0
        for count, row in enumerate(_mappings(rows), 1):
            if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
                raise DataError(f"Row {count} is a {type(row).__name__}, not a mapping of names to values.")
            line = json.dumps({name: _plain(row[name], name, count) for name in row}, ensure_ascii=False) + "\n"
            content.update(line.encode("utf-8", "surrogatepass"))
            lines.write(line)
        if not count:
            raise DataError("There is no row; give at least one.")
        path = folder / f"{name}-{content.hexdigest()[:12]}.jsonl"
        lines.seek(0)
        with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
            shutil.copyfileobj(lines, file)
    return path


def _mappings(rows: Rows) -> Iterator[Any]:
    if isinstance(rows, str | bytes | Mapping):
        raise DataError(f"Rows are a {type(rows).__name__}; give a list of mappings, one for each example.")
    if hasattr(rows, "to_dicts"):  # polars
        return iter(rows.to_dicts())
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        return iter(rows.to_dict("records"))
    if hasattr(rows, "features") and hasattr(rows, "column_names"):  # datasets
        names = class_names(rows.features)
        return (with_class_names(row, names) for row in rows)
    if not isinstance(rows, Iterable):
        raise DataError(f"Rows are a {type(rows).__name__}; give a path, a list of mappings, a DataFrame or a Dataset.")
    return iter(rows)


def _plain(value: Any, name: str, row: int) -> Any:
    """A value that JSON can hold: numpy's numbers and arrays as Python's, missing values as null."""
    if hasattr(value, "tolist"):  # numpy, torch
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else _reject(value, name, row)
    if isinstance(value, list | tuple):
        return [_plain(one, name, row) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one, name, row) for key, one in value.items()}
    if isinstance(value, date | datetime):
        return value.isoformat()
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values
        return None
    return _reject(value, name, row)


def _reject(value: Any, name: str, row: int) -> Any:
    raise DataError(
        f"Row {row}: {name} is {value!r}, a {type(value).__name__}; give texts, numbers, lists or mappings."
    )
