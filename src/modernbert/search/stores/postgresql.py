"""Tables of PostgreSQL with the extension pgvector."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.search.stores.store import COLUMNS, Float32Rows, Row, VectorStore, plain

_FOUND_COLUMNS = """
    SELECT attname, format_type(atttypid, NULL), atttypmod FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"""
_FOUND_INDEX = """
    SELECT 1 FROM pg_index JOIN pg_opclass ON pg_opclass.oid = ANY(pg_index.indclass)
    WHERE indrelid = to_regclass(%s) AND opcname = 'vector_cosine_ops'"""


class PostgresStore(VectorStore):
    """`id` is the primary key and `metadata` is jsonb. `table` may name a schema: `search.passages`.

    Values missing in the address come from the usual sources of PostgreSQL clients (PGPASSWORD, ~/.pgpass).
    """

    max_dimensions = 2000  # limit of pgvector's HNSW index for the type vector

    def __init__(self, address: str, table: str) -> None:
        try:
            import psycopg
            from pgvector.psycopg import register_vector
        except ImportError:
            raise DataError(f"PostgreSQL needs psycopg and pgvector: {install_command('pgvector')}.") from None
        self.name = f"The table {table!r} of PostgreSQL"
        self._error: type[Exception] = psycopg.Error
        self._table = psycopg.sql.Identifier(*table.split("."))
        with self._database_errors():
            self.connection = psycopg.connect(address, autocommit=True)
        try:
            with self._database_errors():
                self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                register_vector(self.connection)
        except DataError:
            self.connection.close()
            raise

    def dimensions(self) -> int | None:
        with self._database_errors():
            found = self.connection.execute(_FOUND_COLUMNS, [self._table.as_string()]).fetchall()
        columns = {name: (kind.rpartition(".")[2], length) for name, kind, length in found}
        if not columns:
            return None
        kind, length = columns.get("vector", ("", -1))
        if columns.keys() != set(COLUMNS) or kind != "vector" or length < 1:
            shown = ", ".join(columns)
            raise DataError(f"{self.name} was made by another program, with the columns {shown}; name another table.")
        return int(length)

    def create(self, dimensions: int) -> None:
        self._run(
            "CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY, text text NOT NULL, metadata jsonb NOT NULL, "
            f"vector vector({dimensions}) NOT NULL)"
        )

    def upsert(self, rows: Sequence[Row], vectors: Float32Rows) -> None:
        """Write all rows in one transaction."""
        values = []
        for row, vector in zip(rows, vectors, strict=True):
            metadata = plain(row.metadata)
            if "\0" in row.id + row.text or _has_nul(metadata):
                raise DataError(f"{row.origin}: PostgreSQL cannot store the NUL character (U+0000); remove it.")
            values.append((row.id, row.text, json.dumps(metadata, ensure_ascii=False), vector))
        query = self._query(
            "INSERT INTO {table} (id, text, metadata, vector) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET "
            "text = EXCLUDED.text, metadata = EXCLUDED.metadata, vector = EXCLUDED.vector"
        )
        with self._database_errors(), self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(query, values)

    def build_index(self) -> None:
        with self._database_errors():
            if self.connection.execute(_FOUND_INDEX, [self._table.as_string()]).fetchone() is None:
                self._run("CREATE INDEX ON {table} USING hnsw (vector vector_cosine_ops)")

    def close(self) -> None:
        self.connection.close()

    def _query(self, text: str) -> Any:
        from psycopg import sql

        return sql.SQL(text).format(table=self._table)

    def _run(self, text: str) -> None:
        with self._database_errors():
            self.connection.execute(self._query(text))

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            reason = str(error).strip().partition("\n")[0].removesuffix(".")
            raise DataError(f"{self.name} cannot be used ({reason}).") from None


def _has_nul(value: Any) -> bool:
    """Whether a string anywhere in a JSON value contains U+0000."""
    if isinstance(value, dict):
        return any(map(_has_nul, (*value, *value.values())))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value
