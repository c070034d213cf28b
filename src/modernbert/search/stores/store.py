"""The interface of all databases: a table of texts with their vectors, in which rows with the same id are replaced."""

import datetime
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from modernbert.errors import ConfigError, DataError

Float32Rows = npt.NDArray[np.float32]  # (rows, dimensions)

COLUMNS = ("id", "text", "metadata", "vector")
_FORMS = "lancedb:FOLDER#TABLE, postgresql://USER@HOST/DATABASE#TABLE and qdrant:FOLDER_OR_URL#COLLECTION"


@dataclass(frozen=True)
class Row:
    """A text, its id (that of its record, or its number from 0), its origin, and the other values of its record."""

    id: str
    text: str
    origin: str
    metadata: Mapping[str, Any]


class VectorStore(ABC):
    """A table with the columns `id`, `text`, `metadata` and `vector` in an open database.

    Every method raises a DataError if the database reports an error. `name` is the name of the table in messages.
    """

    name: str
    max_dimensions: ClassVar[int | None] = None  # limit of the database's index

    @abstractmethod
    def dimensions(self) -> int | None:
        """The length of the vectors of the table, or None if the table does not exist.

        Raises:
            DataError: the table has other columns, or does not compare vectors by cosine.
        """

    @abstractmethod
    def create(self, dimensions: int) -> None:
        """Create the table, which must not exist."""

    @abstractmethod
    def upsert(self, rows: Sequence[Row], vectors: Float32Rows) -> None:
        """Write rows; they replace rows with the same ids."""

    @abstractmethod
    def build_index(self) -> None:
        """Make an index for cosine similarity over all rows."""

    @abstractmethod
    def close(self) -> None:
        """Close the database."""

    def check(self, dimensions: int) -> bool:
        """Whether the table exists.

        Raises:
            DataError: it exists with vectors of another length, or the database cannot index vectors of this length.
        """
        if self.max_dimensions is not None and dimensions > self.max_dimensions:
            raise DataError(
                f"{self.name} supports vectors of at most {self.max_dimensions:,} dimensions, and these have "
                f"{dimensions:,}; give --truncate-dim."
            )
        stored = self.dimensions()
        if stored not in (None, dimensions):
            raise DataError(
                f"{self.name} has vectors of {stored} dimensions, but these have {dimensions}; name another table, or "
                "give --truncate-dim."
            )
        return stored is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(target: str, key: str | None = None) -> VectorStore:
    """The table of a target such as `lancedb:FOLDER#TABLE`; `key` is the API key of Qdrant.

    Raises:
        ConfigError: the target does not name a table.
        DataError: the database cannot be opened, or its package is not installed.
    """
    place, _, table = target.rpartition("#")
    kind, _, inside = place.partition(":")
    if table and inside:
        if kind == "lancedb":
            from modernbert.search.stores.lance import LanceStore

            return LanceStore(inside, table)
        if kind in ("postgresql", "postgres"):
            from modernbert.search.stores.postgresql import PostgresStore

            return PostgresStore(place, table)
        if kind == "qdrant":
            from modernbert.search.stores.qdrant import QdrantStore

            return QdrantStore(inside, table, key)
    # The target is not shown: it may hold a password.
    raise ConfigError(f"--to does not name a table of a database; give one of {_FORMS}.")


def plain(value: Any) -> Any:
    """A value of a record as JSON: dates as ISO 8601, NaN and infinities as null, other objects as text.

    Half a surrogate pair, which JSON can represent and UTF-8 cannot, becomes U+FFFD.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
