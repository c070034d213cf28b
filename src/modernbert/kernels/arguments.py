"""Checks of the arguments of attention, common to all backends: shapes, dtypes and devices."""

import torch
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.kernels.rotary import Rope
from modernbert.packed import Sequences


def check_attention(qkv: Tensor, sequences: Sequences, window: int | None, rope: Rope | None) -> None:
    """Check that no kernel accesses memory out of bounds. The values in `Sequences` were checked on creation.

    Raises:
        BackendError: the arguments are not consistent.
    """
    if reason := _wrong_tensors(qkv, sequences) or _wrong_window(window) or _wrong_rope(qkv, rope):
        raise BackendError(f"Attention cannot run on these arguments: {reason}.")


def _wrong_tensors(qkv: Tensor, sequences: Sequences) -> str | None:
    if qkv.dim() != 4 or qkv.shape[1] != 3 or 0 in qkv.shape[2:] or qkv.shape[3] % 2 or not qkv.is_floating_point():
        return (
            "qkv must be (tokens, 3, heads, head_dim) in a floating dtype, with an even head_dim, "
            f"not {tuple(qkv.shape)} in {qkv.dtype}"
        )
    if len(qkv) != sequences.num_tokens:
        return f"qkv has {len(qkv)} tokens but the sequences have {sequences.num_tokens}"
    if qkv.device != sequences.device:
        return f"qkv is on {qkv.device} but the sequences on {sequences.device}"
    return None


def _wrong_window(window: int | None) -> str | None:
    if window is None:
        return None
    if isinstance(window, bool) or not isinstance(window, int | torch.SymInt) or window < 0:
        return f"window must be the number of visible tokens on each side, 0 or more, or None for all, not {window!r}"
    return None


def _wrong_rope(qkv: Tensor, rope: Rope | None) -> str | None:
    if rope is None:
        return None
    expected = (len(qkv), 1, qkv.shape[3])
    for name, x in (("cos", rope.cos), ("sin", rope.sin)):
        if x.shape != expected or x.dtype != torch.float32 or x.device != qkv.device:
            return (
                f"the {name} of rope must be {expected} in torch.float32 on {qkv.device}, "
                f"not {tuple(x.shape)} in {x.dtype} on {x.device}"
            )
    return None


def check_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> None:
    """Check shapes, dtypes and devices. The kernels check whether labels are in the vocabulary.

    Raises:
        BackendError: the arguments are not consistent.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or not x.is_floating_point():
        reason = f"x must be (rows, hidden) and weight (vocab, hidden), not {tuple(x.shape)} and {tuple(weight.shape)}"
    elif bias is not None and bias.shape != weight.shape[:1]:
        reason = f"the bias must be ({len(weight)},), not {tuple(bias.shape)}"
    elif labels.shape != x.shape[:1] or labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
        reason = f"the labels must be integers, one for each of {len(x)} rows, not {tuple(labels.shape)} {labels.dtype}"
    elif any(each is not None and each.device != x.device for each in (weight, bias, labels)):
        reason = "all tensors must be on one device"
    else:
        return
    raise BackendError(f"Cross-entropy cannot run on these arguments: {reason}.")


def check_add_norm(x: Tensor, y: Tensor, weight: Tensor | None) -> None:
    """Check that numbers and widths of rows are equal.

    Raises:
        BackendError: they differ.
    """
    if x.shape != y.shape or x.dim() < 1 or (weight is not None and weight.shape != x.shape[-1:]):
        shapes = ", ".join(str(tuple(each.shape)) for each in (x, y, weight) if each is not None)
        raise BackendError(f"add_norm needs rows and weights of equal width, not shapes {shapes}.")
