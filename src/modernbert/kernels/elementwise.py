"""What lies between the matrix products of a layer: one pass over memory where the native kernels run."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.kernels import native, triton


def add_norm(
    x: Float[Tensor, "tokens hidden"],
    y: Float[Tensor, "tokens hidden"],
    norm: nn.Module,
) -> tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens hidden"]]:
    """x + y, and its layer norm (Ba et al. 2016, arXiv 1607.06450): the residual stream and what the next part reads.

    `norm` is an `nn.LayerNorm`, of which the weights are taken. Native kernels write its result in the dtype of
    autocast, where the next linear layer would convert it anyway.
    """
    assert isinstance(norm, nn.LayerNorm)
    dtype = _wanted_dtype(x)
    if _triton_takes(norm, x, y) and y.dtype == dtype and x.dtype in (dtype, torch.float32):
        from modernbert.kernels.triton import norm as kernels

        total, normed, _, _ = kernels.add_norm(x, y, norm.weight, norm.eps, dtype)
        return total, normed
    native_dtypes = y.dtype == dtype and (x.dtype == dtype or x.dtype == torch.float32)
    if native_dtypes and norm.bias is None and all(native.takes(t.device, t.dtype, t.shape[-1], of=16) for t in (x, y)):
        total, normed, _, _ = native.add_norm(x, y, norm.weight, norm.eps, dtype)
        return total, normed
    total = x + y
    return total, F.layer_norm(total, total.shape[-1:], norm.weight, norm.bias, norm.eps)


def geglu(x: Float[Tensor, "tokens double"]) -> Float[Tensor, "tokens intermediate"]:
    """GeGLU (Shazeer 2020, arXiv 2002.05202): the first half of each row is activated and gated by the second."""
    if x.is_cuda and triton.takes(x.device, x.dtype):
        from modernbert.kernels.triton import geglu as kernels

        return kernels.geglu(x)
    if native.takes(x.device, x.dtype, x.shape[-1]):
        result: Tensor = native.geglu(x)
        return result
    activated, gate = x.chunk(2, dim=-1)
    return F.gelu(activated) * gate


def layer_norm(x: Float[Tensor, "rows hidden"], norm: nn.Module) -> Float[Tensor, "rows hidden"]:
    """The layer norm of x, with the weights of an `nn.LayerNorm`. On CUDA in the dtype of autocast."""
    assert isinstance(norm, nn.LayerNorm)
    if _triton_takes(norm, x):
        from modernbert.kernels.triton import norm as kernels

        return kernels.layer_norm(x, norm.weight, norm.eps, _wanted_dtype(x))[0]
    result: Tensor = norm(x)
    return result


def embedding_norm(
    tokens: Int[Tensor, "tokens"], embedding: nn.Embedding, norm: nn.Module, *, precise: bool = False
) -> Float[Tensor, "tokens hidden"]:
    """The embeddings of tokens, and their layer norm: the beginning of the residual stream.

    It is in the dtype of the table; on CUDA, unless `precise`, in that of autocast.
    """
    assert isinstance(norm, nn.LayerNorm)
    table = embedding.weight
    if _triton_takes(norm, table):
        from modernbert.kernels.triton import norm as kernels

        dtype = table.dtype if precise else _wanted_dtype(table)
        return kernels.embedding_norm(tokens, table, norm.weight, norm.eps, dtype)[0]
    result: Tensor = norm(embedding(tokens))
    return result


def _wanted_dtype(x: Tensor) -> torch.dtype:
    """That of autocast, where the next linear layer would convert it anyway, or else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _triton_takes(norm: nn.LayerNorm, *tensors: Tensor) -> bool:
    return norm.bias is None and all(x.is_cuda and triton.takes(x.device, x.dtype) for x in tensors)
