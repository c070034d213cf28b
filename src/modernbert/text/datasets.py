"""Records of Parquet files and of data sets on the hub, with class names in place of class numbers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.text.class_names import class_names, with_class_names
from modernbert.text.opening import UnreadableError
from modernbert.text.record import Origin, Record, RejectedRecord, Source


def read_parquet(path: Path, column: str | None) -> Iterator[Record | RejectedRecord]:
    """The rows, numbered from 1, with class names from the schema in place of class numbers."""
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
            names = _schema_names(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=256, columns=None if column is None else [column]):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(with_class_names(values, names), Origin(str(path), row))
    except (pyarrow.ArrowException, OSError) as error:
        sentence = f"{path} is damaged after row {row} ({error}); copy it or create it again."
        raise UnreadableError("damaged file", sentence, f"{path}:{row}") from None


def read_hub(source: Source) -> Iterator[Record | RejectedRecord]:
    """The rows of a data set, numbered from 1, with class names in place of class numbers."""
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
    names = class_names(rows.features)
    for number, values in enumerate(rows, 1):
        yield Record(with_class_names(values, names), Origin(source.path, number))


def _schema_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The class names of each column, which the package datasets writes into the schema of a Parquet file."""
    try:
        return class_names(json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
