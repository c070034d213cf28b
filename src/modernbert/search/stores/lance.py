"""Tables of LanceDB, an embedded database that stores its tables in a folder."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.search.stores.store import Float32Rows, Row, VectorStore, plain


class LanceStore(VectorStore):
    """`metadata` is a text column with JSON. `location` is a folder, or an address such as s3://bucket/folder."""

    def __init__(self, location: str, table: str) -> None:
        try:
            import lancedb
        except ImportError:
            raise DataError(f"LanceDB needs its package: {install_command('lancedb')}.") from None
        self.name, self.table = f"The table {table!r} of LanceDB in {location}", table
        with self._database_errors():
            self.database = lancedb.connect(location if "://" in location else str(Path(location).expanduser()))

    def dimensions(self) -> int | None:
        with self._database_errors():
            if self.table not in self.database.list_tables().tables:
                return None
            schema = self.database.open_table(self.table).schema
        length = schema.field("vector").type.list_size if _is_vector(schema) else 0
        if schema.names != _schema(1).names or schema.types != _schema(length).types:
            shown = ", ".join(schema.names)
            raise DataError(f"{self.name} was made by another program, with the columns {shown}; name another table.")
        return int(length)

    def create(self, dimensions: int) -> None:
        with self._database_errors():
            self.database.create_table(self.table, schema=_schema(dimensions), exist_ok=True)

    def upsert(self, rows: Sequence[Row], vectors: Float32Rows) -> None:
        import pyarrow

        columns = {
            "id": pyarrow.array([row.id for row in rows]),
            "text": pyarrow.array([row.text for row in rows]),
            "metadata": pyarrow.array([json.dumps(plain(row.metadata), ensure_ascii=False) for row in rows]),
            "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1]),
        }
        data = pyarrow.table(columns, schema=_schema(vectors.shape[1]))
        with self._database_errors():
            merge = self.database.open_table(self.table).merge_insert("id")
            merge.when_matched_update_all().when_not_matched_insert_all().execute(data)

    def build_index(self) -> None:
        """Build an HNSW index over vectors in 8 bits; rows of later runs are added to it."""
        from lancedb.index import HnswSq

        with self._database_errors():
            table = self.database.open_table(self.table)
            if not any("vector" in index.columns for index in table.list_indices()):
                table.create_index("vector", config=HnswSq(distance_type="cosine"))
            table.optimize()

    def close(self) -> None:
        """Nothing to do: every call has written its files."""

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0].removesuffix(".")
            raise DataError(f"{self.name} cannot be used ({reason}).") from None


def _schema(dimensions: int) -> Any:
    import pyarrow

    text = pyarrow.string()
    vector = pyarrow.list_(pyarrow.float32(), dimensions)
    return pyarrow.schema([("id", text), ("text", text), ("metadata", text), ("vector", vector)])


def _is_vector(schema: Any) -> bool:
    return "vector" in schema.names and hasattr(schema.field("vector").type, "list_size")
