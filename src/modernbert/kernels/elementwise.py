"""Operations between matrix products, in one pass over memory with native or Triton kernels.

Kernels write the result of a norm in the dtype of autocast, which the next linear layer needs.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.errors import DataError
from modernbert.kernels import native, native_operators
from modernbert.kernels import triton as triton_kernels
from modernbert.kernels.arguments import check_add_norm


def add_norm(
    x: Float[Tensor, "tokens hidden"],
    y: Float[Tensor, "tokens hidden"],
    norm: nn.Module,
) -> tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens hidden"]]:
    """x + y, and its layer norm (Ba et al. 2016, arXiv 1607.06450): the residual stream and the next block's input.

    `norm` is an `nn.LayerNorm`, whose weights are used.

    Raises:
        BackendError: x, y and the weights of the norm differ in width, or x and y in the number of rows.
    """
    assert isinstance(norm, nn.LayerNorm)
    check_add_norm(x, y, norm.weight)
    dtype = _dtype(x)
    ours = x.dtype in (dtype, torch.float32) and y.dtype == dtype
    if ours and _norm_on_triton(x, norm) and _norm_on_triton(y, norm):
        from modernbert.kernels.triton import norm as kernels

        total, normed, _, _ = kernels.add_norm(x, y, norm.weight, norm.eps, dtype)
        return total, normed
    native_dtypes = y.dtype == dtype and (x.dtype == dtype or x.dtype == torch.float32)
    if (
        native_dtypes
        and norm.bias is None
        and all(native.supports(t.device, t.dtype, t.shape[-1], of=16) for t in (x, y))
    ):
        total, normed, _, _ = native_operators.add_norm(x, y, norm.weight, norm.eps, dtype)
        return total, normed
    total = x + y
    return total, F.layer_norm(total, total.shape[-1:], norm.weight, norm.bias, norm.eps)


def layer_norm(x: Float[Tensor, "*rows hidden"], norm: nn.Module) -> Float[Tensor, "*rows hidden"]:
    """The layer norm of x. `norm` is an `nn.LayerNorm`, whose weights are used."""
    assert isinstance(norm, nn.LayerNorm)
    if _norm_on_triton(x, norm):
        from modernbert.kernels.triton import norm as kernels

        normed: Tensor = kernels.layer_norm(x, norm.weight, norm.eps, _dtype(x))[0]
        return normed
    return norm(x)


def embedding_norm(
    tokens: Int[Tensor, "*rows"], embedding: nn.Module, norm: nn.Module, *, half: bool = False
) -> Float[Tensor, "*rows hidden"]:
    """The layer norm of the embedding of each token, the start of the residual stream.

    It has the dtype of the table, or with `half` on CUDA that of autocast. `embedding` is an `nn.Embedding` and `norm`
    an `nn.LayerNorm`, whose weights are used. On CUDA the host does not wait for the device: an id outside the table
    gives NaN.

    Raises:
        DataError: an id is outside the table, or the ids are on another device.
    """
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(norm, nn.LayerNorm)
    table = embedding.weight
    plain = embedding.padding_idx is None and embedding.max_norm is None and not embedding.scale_grad_by_freq
    _check_device(tokens, table)
    if plain and not embedding.sparse and _norm_on_triton(table, norm):
        from modernbert.kernels.triton import norm as kernels

        dtype = _dtype(table) if half else table.dtype
        normed: Tensor = kernels.embedding_norm(tokens, table, norm.weight, norm.eps, dtype)[0]
        return normed
    return norm(_rows(tokens, embedding))


def embedding_rows(tokens: Int[Tensor, "*rows"], embedding: nn.Module) -> Float[Tensor, "*rows hidden"]:
    """The embedding of each token, by an `nn.Embedding`.

    Raises:
        DataError: an id is outside the table, or the ids are on another device.
    """
    assert isinstance(embedding, nn.Embedding)
    _check_device(tokens, embedding.weight)
    return _rows(tokens, embedding)


def _check_device(tokens: Tensor, table: Tensor) -> None:
    if tokens.device != table.device:
        raise DataError(
            f"The tokens are on {tokens.device} but the model on {table.device}; move one of them with to()."
        )


def _rows(tokens: Tensor, embedding: nn.Embedding) -> Tensor:
    if torch.compiler.is_compiling():
        return embedding(tokens)
    try:
        return embedding(tokens)
    except IndexError:
        raise DataError(
            f"The ids of the tokens go from {int(tokens.min())} to {int(tokens.max())}, but the model knows 0 to "
            f"{embedding.num_embeddings - 1}; give the ids of the model's own tokenizer."
        ) from None


def geglu(x: Float[Tensor, "tokens double"]) -> Float[Tensor, "tokens intermediate"]:
    """GeGLU (Shazeer 2020, arXiv 2002.05202): the first half of each row is activated and gated by the second."""
    result: Tensor
    if _on_triton(x):
        from modernbert.kernels.triton import geglu as kernels

        result = kernels.geglu(x)
        return result
    if native.supports(x.device, x.dtype, x.shape[-1]):
        result = native_operators.geglu(x)
        return result
    activated, gate = x.chunk(2, dim=-1)
    return F.gelu(activated) * gate


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype of the next linear layer."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def _on_triton(x: Tensor) -> bool:
    """Whether to use the Triton kernels: on CUDA only, since their interpreter is for tests."""
    return x.is_cuda and triton_kernels.supports(x.device, x.dtype)


def _norm_on_triton(x: Tensor, norm: nn.LayerNorm) -> bool:
    return norm.bias is None and norm.weight is not None and x.shape[-1] <= 8192 and _on_triton(x)
