"""What lies between the matrix products of a layer: one pass over memory where the native kernels run."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.kernels import native


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
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    native_dtypes = y.dtype == dtype and (x.dtype == dtype or x.dtype == torch.float32)
    if native_dtypes and norm.bias is None and all(native.takes(t.device, t.dtype, t.shape[-1], of=16) for t in (x, y)):
        total, normed, _, _ = native.add_norm(x, y, norm.weight, norm.eps, dtype)
        return total, normed
    total = x + y
    return total, F.layer_norm(total, total.shape[-1:], norm.weight, norm.bias, norm.eps)


def geglu(x: Float[Tensor, "tokens double"]) -> Float[Tensor, "tokens intermediate"]:
    """GeGLU (Shazeer 2020, arXiv 2002.05202): the first half of each row is activated and gated by the second."""
    if native.takes(x.device, x.dtype, x.shape[-1]):
        result: Tensor = native.geglu(x)
        return result
    activated, gate = x.chunk(2, dim=-1)
    return F.gelu(activated) * gate
