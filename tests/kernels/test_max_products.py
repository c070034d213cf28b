"""The largest products of documents and queries, at every level of the native kernels and without them."""

import numpy as np
import pytest

from modernbert.errors import BackendError
from modernbert.kernels import native
from modernbert.kernels.max_products import max_products

LEVELS = ["off", *native.LEVELS]


@pytest.fixture(params=LEVELS)
def level(request):
    if request.param not in ("off", *native.available_levels()):
        pytest.skip(f"this processor or this build lacks {request.param}")
    native.select(request.param)
    yield request.param
    native.select("")


def expected(vectors, lengths, queries):
    """In fp64, document by document."""
    parts = np.split(vectors.astype(np.float64), np.cumsum(lengths)[:-1])
    empty = np.full(len(queries), -np.inf)
    return np.stack([(part @ queries.T.astype(np.float64)).max(0) if len(part) else empty for part in parts])


@pytest.mark.parametrize("count", [1, 31, 32, 70, 200])
@pytest.mark.parametrize("dim", [1, 48, 128])
def test_products_equal_those_of_numpy(level, count, dim):
    generator = np.random.default_rng(0)
    lengths = [0, 1, 0, 47, 48, 49, 500, 0, 0, 5, 1000, 7, 0]
    vectors = generator.standard_normal((sum(lengths), dim), dtype=np.float32)
    queries = generator.standard_normal((count, dim), dtype=np.float32)
    found = max_products(vectors, np.cumsum([0, *lengths]), queries)
    np.testing.assert_allclose(found, expected(vectors, lengths, queries), rtol=1e-5, atol=2e-5)


def test_documents_of_one_token_and_none(level):
    vectors, queries = np.eye(4, dtype=np.float16), np.eye(4, dtype=np.float32)[::-1]
    assert (max_products(vectors, np.arange(5), queries) == queries.T).all()
    assert max_products(vectors[:0], np.zeros(1, dtype=np.int64), queries).shape == (0, 4)
    assert (max_products(vectors[:0], np.zeros(4, dtype=np.int64), queries) == -np.inf).all()


def test_a_nan_anywhere_in_a_document_is_seen_in_its_result_only(level):
    vectors, queries = np.ones((9, 16), dtype=np.float32), np.ones((2, 16), dtype=np.float32)
    vectors[4, 3] = np.nan
    found = max_products(vectors, np.array([0, 3, 6, 9]), queries)
    assert np.isnan(found).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("boundaries", [[], [1, 9], [0, 8], [0, 10], [0, 5, 4, 9], [-1, 9]])
def test_boundaries_that_would_read_other_memory_are_refused(level, boundaries):
    with pytest.raises(BackendError, match="do not rise from 0 to the number of tokens"):
        max_products(
            np.ones((9, 16), dtype=np.float32), np.array(boundaries, dtype=np.int64), np.ones((2, 16), dtype=np.float32)
        )
