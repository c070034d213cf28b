"""Collections of Qdrant, on a server or in a folder (the local mode of its client)."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from modernbert.errors import DataError
from modernbert.installation import install_command
from modernbert.search.stores.store import Float32Rows, Row, VectorStore, plain

_POINTS_PER_REQUEST = 128  # a server accepts 32 MiB of JSON
_TIMEOUT_SECONDS = 60


class QdrantStore(VectorStore):
    """The payload of a point has `id`, `text` and `metadata`.

    Qdrant accepts only integers and UUIDs as ids of points: an id that is an integer stays, and `point_id` turns any
    other id into a UUID. `location` is a folder or a URL.
    """

    def __init__(self, location: str, collection: str, key: str | None = None) -> None:
        try:
            import qdrant_client
            from qdrant_client.http.exceptions import ApiException
        except ImportError:
            raise DataError(f"Qdrant needs its client: {install_command('qdrant')}.") from None
        self.name, self.collection = f"The collection {collection!r} of Qdrant in {location}", collection
        self._errors = (ApiException, OSError, ValueError, RuntimeError)
        local: dict[str, Any] = {"path": str(Path(location).expanduser())}
        remote: dict[str, Any] = {
            "url": location,
            "api_key": key,
            "timeout": _TIMEOUT_SECONDS,
            "check_compatibility": False,
        }
        with self._database_errors():
            self.client = qdrant_client.QdrantClient(**(remote if "://" in location else local))

    def dimensions(self) -> int | None:
        from qdrant_client import models

        with self._database_errors():
            if not self.client.collection_exists(self.collection):
                return None
            vectors = self.client.get_collection(self.collection).config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.distance != models.Distance.COSINE:
            raise DataError(f"{self.name} does not have one vector compared by cosine; name another collection.")
        return int(vectors.size)

    def create(self, dimensions: int) -> None:
        from qdrant_client import models

        settings = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        with self._database_errors():
            self.client.create_collection(self.collection, vectors_config=settings)

    def upsert(self, rows: Sequence[Row], vectors: Float32Rows) -> None:
        from qdrant_client import models

        points = (
            models.PointStruct(
                id=point_id(row.id),
                vector=vector.tolist(),
                payload={"id": row.id, "text": row.text, "metadata": plain(row.metadata)},
            )
            for row, vector in zip(rows, vectors, strict=True)
        )
        with self._database_errors():
            self.client.upload_points(self.collection, points, batch_size=_POINTS_PER_REQUEST, wait=True)

    def build_index(self) -> None:
        """Nothing to do: a server builds its HNSW index as points arrive, and the local mode searches exactly."""

    def close(self) -> None:
        self.client.close()

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Local mode is not recommended for collections with more")
                yield
        except self._errors as error:
            reason = str(error).strip().partition("\n")[0].removesuffix(".")
            raise DataError(f"{self.name} cannot be used ({reason}).") from None


def point_id(name: str) -> int | str:
    """The integer or UUID that stands for the id `name` in Qdrant."""
    if re.fullmatch("0|[1-9][0-9]{0,17}", name):
        return int(name)
    return str(uuid5(NAMESPACE_OID, name))
