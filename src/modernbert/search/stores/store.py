"""What the databases have in common: a table of texts with their vectors, written so that writing again is harmless."""

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
    """A text, its id (its own, or its number from 0), where it stands, and what else its record has."""

    id: str
    text: str
    origin: str
    metadata: Mapping[str, Any]


class VectorStore(ABC):
    """A table with the columns `id`, `text`, `metadata` and `vector`, in a database that is open.

    Every method raises a DataError where the database refuses. `name` is how messages call the table.
    """

    name: str
    most_dimensions: ClassVar[int | None] = None  # of vectors that its index takes

    @abstractmethod
    def dimensions(self) -> int | None:
        """The length of the vectors of the table, or None if there is no such table.

        Raises:
            DataError: there is one with other columns, or of vectors that are not compared by cosine.
        """

    @abstractmethod
    def create(self, dimensions: int) -> None:
        """Make the table, which is not there."""

    @abstractmethod
    def upsert(self, rows: Sequence[Row], vectors: Float32Rows) -> None:
        """Write rows in place of those with the same ids."""

    @abstractmethod
    def build_index(self) -> None:
        """See that an index for cosine similarity covers all rows."""

    @abstractmethod
    def close(self) -> None:
        """Let the database go."""

    def check(self, dimensions: int) -> bool:
        """Whether the table is there.

        Raises:
            DataError: it is there, with vectors of another length, or no table can have vectors of this one.
        """
        if self.most_dimensions is not None and dimensions > self.most_dimensions:
            raise DataError(
                f"{self.name} takes vectors of at most {self.most_dimensions:,} dimensions, and these have "
                f"{dimensions:,}; give --truncate-dim."
            )
        there = self.dimensions()
        if there not in (None, dimensions):
            raise DataError(
                f"{self.name} has vectors of {there} dimensions, but these have {dimensions}; name another table, or "
                "give --truncate-dim."
            )
        return there is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(target: str, key: str | None = None) -> VectorStore:
    """The table that a target names, as `lancedb:FOLDER#TABLE`; `key` is the API key of Qdrant.

    Raises:
        ConfigError: it names none.
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
    raise ConfigError(f"--to names no table of a database; there are {_FORMS}.")


def plain(value: Any) -> Any:
    """A value of a record as JSON has it: dates as ISO 8601, NaN and infinities as null, other things as text.

    Half a surrogate pair, which JSON can write and UTF-8 cannot, becomes U+FFFD.
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
