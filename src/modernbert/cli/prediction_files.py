"""The files of `modernbert predict`: inputs in any format, and outputs with a prediction in each row."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert.cli.console import texts_of
from modernbert.errors import ConfigError, DataError
from modernbert.evaluate.folder import recipe_for
from modernbert.files import atomic_write, check_file
from modernbert.installation import install_command
from modernbert.search.stores.store import plain
from modernbert.tasks.texts import TextColumns
from modernbert.text.records import Record, RejectedRecord, Source, format_of, read_records
from modernbert.train.finetune_recipe import TaskData

OUTPUTS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row of a file, and the column names that the model was trained with."""

    record: Record
    columns: TaskData | TextColumns

    def text(self, *names: str) -> str:
        """The text in the first of these columns that exists.

        Raises:
            DataError: the row has none of them, or no text there.
        """
        named = [str(getattr(self.columns, name, None) or name) for name in names]
        found = next((name for name in named if name in self.record.values), None)
        value = None if found is None else self.record.values[found]
        if not isinstance(value, str):
            has = ", ".join(map(str, self.record.values))
            raise DataError(
                f"{self.record.origin}: there is no text in a column {' or '.join(named)}; it has {has}. Name the "
                f"column with --column {names[0]}=NAME."
            )
        return value

    def optional(self, name: str) -> str | None:
        """The text in an optional column."""
        column = getattr(self.columns, name, None)
        value = self.record.values.get(column) if isinstance(column, str) else None
        return value if isinstance(value, str) else None

    def words(self) -> list[str] | None:
        """The words of a row, if it has them."""
        for name in (getattr(self.columns, "words", None), "words", "tokens"):
            value = self.record.values.get(name) if isinstance(name, str) else None
            if isinstance(value, list) and all(isinstance(one, str) for one in value):
                return value
        return None


def rows_of(folder: Path, file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, in the format of its suffix, with the column names that the model was trained with.

    `columns` are changes of column names, KEY=NAME.

    Raises:
        ConfigError: there is no such key.
        DataError: the file cannot be read, or holds no row.
    """
    for one in columns:
        if "=" not in one:
            raise ConfigError(f"--column {one} is not of the form KEY=NAME, such as text=review.")
    recipe = recipe_for(folder, file, [f"data.{one}" for one in columns])
    source = recipe.data.test
    assert isinstance(source, Source)
    empty = True
    for record in read_records(source):
        if isinstance(record, RejectedRecord):
            raise record.error()
        empty = False
        yield Row(record, recipe.data)
    if empty:
        raise DataError(f"{file} has no row; give a file with at least one.")


def texts_and_rows(texts: list[str], file: Path | None, column: str) -> list[tuple[Row | None, str]]:
    """The texts of the command line, and those of a file: its lines, or a column of a table with its rows.

    Raises:
        DataError: there is no text, or the file or the column cannot be read.
    """
    if file is None or format_of(file) is None:
        return [(None, text) for text in texts_of(texts, file)]
    found: list[tuple[Row | None, str]] = [(None, text) for text in texts_of(texts, None)] if texts else []
    columns = TextColumns(text=column)
    for record in read_records(Source(path=str(file))):
        if isinstance(record, RejectedRecord):
            raise record.error()
        row = Row(record, columns)
        found.append((row, row.text("text")))
    if not found:
        raise DataError(f"{file} has no row; give a file with at least one.")
    return found


def check_output(path: Path) -> None:
    """Check that predictions can be written to a path, before they are computed.

    Raises:
        ConfigError: its suffix is not a supported format.
        DataError: a package is missing, or the path is a folder or inside a file.
    """
    check_file(path)
    if path.suffix.lower() not in OUTPUTS:
        raise ConfigError(f"{path} must end in {', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}.")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise DataError(f"{path} needs pyarrow: {install_command('corpus')}.") from None


def with_prediction(row: Row | None, prediction: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its prediction. If a column already has the name, the prediction is `predicted_NAME`."""
    given = dict(row.record.values) if row is not None else {}
    given.pop("lines", None)
    new = {name: value for name, value in prediction.items() if name not in given or given[name] != value}
    return given | {f"predicted_{name}" if name in given else name: value for name, value in new.items()}


def write_predictions(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV (lists and mappings as JSON), JSON lines or Parquet."""
    with atomic_write(path) as partial:
        if path.suffix.lower() == ".parquet":
            import pyarrow
            from pyarrow import parquet

            try:
                table = pyarrow.Table.from_pylist(
                    [{name: plain(one) if isinstance(one, str) else one for name, one in row.items()} for row in rows]
                )
            except (pyarrow.ArrowException, UnicodeError) as error:
                raise DataError(
                    f"{path}: Parquet does not take a column of these rows ({error}); write .jsonl."
                ) from None
            parquet.write_table(table, partial)
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                file.writelines(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)
                return
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row in rows:
                writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return json.dumps(plain(value), ensure_ascii=False)
    return plain(value) if isinstance(value, str) else value
