"""The largest dot products of query vectors with the vectors of each document: the costly part of late interaction."""

import ctypes

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int

from modernbert.kernels import native

_COLUMNS = 32  # the native kernel's number of query vectors is a multiple of this


class _MaxProducts(ctypes.Structure):
    _fields_ = (
        ("vectors", ctypes.c_void_p),
        ("boundaries", ctypes.c_void_p),
        ("documents", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("queries", ctypes.c_void_p),
        ("columns", ctypes.c_int64),
    )


def max_products(
    vectors: Float[np.ndarray, "tokens dim"],
    boundaries: Int[np.ndarray, "documents_and_one"],
    queries: Float[np.ndarray, "query_tokens dim"],
) -> Float[np.ndarray, "documents query_tokens"]:
    """For each document and query vector the largest dot product, in fp32; minus infinity for an empty document.

    Document i has the rows `boundaries[i]` to `boundaries[i + 1]` of `vectors`. A product that is not finite makes the
    result NaN or infinite.

    Raises:
        BackendError: the boundaries do not rise from 0 to the number of rows.
    """
    vectors, queries = (np.ascontiguousarray(one, dtype=np.float32) for one in (vectors, queries))
    boundaries = np.ascontiguousarray(boundaries, dtype=np.int32)
    rises = len(boundaries) > 0 and boundaries[0] == 0 and boundaries[-1] == len(vectors)
    native.check_status(not (rises and (np.diff(boundaries) >= 0).all()))
    if not native.supports(torch.device("cpu"), torch.float32):
        return _in_numpy(vectors, boundaries, queries)
    count = len(queries)
    columns = np.zeros((vectors.shape[1], -(-count // _COLUMNS) * _COLUMNS), dtype=np.float32)
    columns[:, :count] = queries.T
    largest = np.empty((len(boundaries) - 1, columns.shape[1]), dtype=np.float32)
    given = _MaxProducts(
        vectors.ctypes.data, boundaries.ctypes.data, len(largest), len(vectors), vectors.shape[1], columns.ctypes.data,
        columns.shape[1],
    )  # fmt: skip
    threads = native.thread_pool()
    native.check_status(native.kernels().max_products(ctypes.byref(given), largest.ctypes.data, ctypes.byref(threads)))
    return largest[:, :count]


def _in_numpy(
    vectors: npt.NDArray[np.float32], boundaries: npt.NDArray[np.int32], queries: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    largest = np.full((len(boundaries) - 1, len(queries)), -np.inf, dtype=np.float32)
    filled = np.flatnonzero(np.diff(boundaries))
    if len(filled):
        products = torch.from_numpy(vectors) @ torch.from_numpy(queries).t()
        largest[filled] = np.maximum.reduceat(products.numpy(), boundaries[filled], axis=0)
    return largest
