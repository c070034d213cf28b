"""StableAdamW (Wortsman et al. 2023, arXiv 2304.13013) of all tensors in three launches.

Tensors are addressed through a table of pointers and split into chunks, with one program per chunk. The host reads
nothing: the sums that a step depends on, including the norm of all gradients, stay on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from modernbert.kernels.triton.launch import on_device_of

CHUNK = 16384  # elements per program
BLOCK, WARPS = 2048, 8  # elements per iteration of a program
SETTINGS = 8  # columns of the table of settings


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of a group of tensors for one step."""

    beta1: float  # both debiased
    beta2: float
    epsilon: float
    lr: float
    decay: float  # weight_decay / peak_lr


@triton.jit
@no_type_check
def _chunk(tensors, chunks, CHUNK: tl.constexpr):
    """This program's tensor, the first element of its chunk, and the number of elements of the tensor."""
    tensor = tl.load(chunks + 2 * tl.program_id(0))
    return tensor, tl.load(chunks + 2 * tl.program_id(0) + 1) * CHUNK, tl.load(tensors + 6 * tensor + 4)


@triton.jit
@no_type_check
def _pointer(tensors, tensor, COLUMN: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(tensors + 6 * tensor + COLUMN).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
@no_type_check
def _inside(at, size, MASKED: tl.constexpr):
    """A mask that is a constant in full chunks, which allows loads of four numbers per instruction."""
    if MASKED:
        inside = at < size
    else:
        inside = tl.full(at.shape, 1, tl.int1)
    return inside


@triton.jit
@no_type_check
def _all_squares(sums, count):
    """The sum of the squares of all gradients."""
    total = 0.0
    for first in range(0, count, 256):
        at = first + tl.arange(0, 256)
        total += tl.sum(tl.load(sums + at, mask=at < count, other=0.0), 0)
    return total


@triton.jit
@no_type_check
def _gradient_scale(sums, count, settings, CLIP: tl.constexpr):
    """The factor that clips the norm of all gradients."""
    scale = 1.0
    if CLIP:
        scale = tl.minimum(tl.load(settings + 5) / (tl.sqrt(_all_squares(sums, count)) + 1e-6), 1.0)
    return scale


@triton.jit
@no_type_check
def _chunk_sums(
    gradient, square, begin, size, scale, beta2, share2, epsilon,
    RATIO: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    ratios = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, CHUNK, BLOCK):
        at = begin + first + tl.arange(0, BLOCK)
        inside = _inside(at, size, MASKED)
        g = tl.load(gradient + at, mask=inside, other=0.0)
        squares += g * g
        if RATIO:
            g = g * scale
            v = tl.load(square + at, mask=inside, other=0.0) * beta2 + share2 * g * g
            ratios += g * g / tl.maximum(v, epsilon * epsilon)
    return tl.sum(squares, 0), tl.sum(ratios, 0)


@triton.jit(do_not_specialize=["num_tensors", "num_chunks"])
@no_type_check
def sums_kernel(
    tensors, chunks, settings, sums, partial, num_tensors, num_chunks,
    RATIO: tl.constexpr, CLIP: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The sum of g^2 over each chunk; with RATIO also the sum of g^2 / max(v, epsilon^2) with the updated v."""
    tensor, begin, size = _chunk(tensors, chunks, CHUNK)
    group = settings + 8 * tl.load(tensors + 6 * tensor + 5)
    scale = _gradient_scale(sums, num_tensors, settings, CLIP)
    gradient = _pointer(tensors, tensor, 1, ALIGNED)
    square = _pointer(tensors, tensor, 3, ALIGNED)
    beta2, share2, epsilon = tl.load(group + 1), tl.load(group + 2), tl.load(group + 3)
    if begin + CHUNK <= size:
        squares, ratios = _chunk_sums(
            gradient, square, begin, size, scale, beta2, share2, epsilon, RATIO, CHUNK, BLOCK, False
        )
    else:
        squares, ratios = _chunk_sums(
            gradient, square, begin, size, scale, beta2, share2, epsilon, RATIO, CHUNK, BLOCK, True
        )
    tl.store(partial + tl.program_id(0), squares)
    if RATIO:
        tl.store(partial + num_chunks + tl.program_id(0), ratios)


@triton.jit(do_not_specialize=["num_tensors", "num_chunks"])
@no_type_check
def tensor_sums_kernel(partial, first_chunks, sums, num_tensors, num_chunks, BLOCK: tl.constexpr):
    """The sum of one kind over the chunks of one tensor, in order."""
    tensor, kind = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(first_chunks + tensor), tl.load(first_chunks + tensor + 1)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(begin, end, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(partial + kind * num_chunks + at, mask=at < end, other=0.0)
    tl.store(sums + kind * num_tensors + tensor, tl.sum(total, 0))


@triton.jit
@no_type_check
def _move_chunk(
    values, gradient, mean, square, begin, size, scale, share1, beta2, share2, epsilon, lr, decay_factor,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    for first in range(0, CHUNK, BLOCK):
        at = begin + first + tl.arange(0, BLOCK)
        inside = _inside(at, size, MASKED)
        g = tl.load(gradient + at, mask=inside, other=0.0) * scale
        m = tl.load(mean + at, mask=inside, other=0.0)
        m += share1 * (g - m)
        v = tl.load(square + at, mask=inside, other=0.0) * beta2 + share2 * g * g
        p = tl.load(values + at, mask=inside, other=0.0) * decay_factor - lr * m / (tl.sqrt(v) + epsilon)
        tl.store(mean + at, m, mask=inside)
        tl.store(square + at, v, mask=inside)
        tl.store(values + at, p, mask=inside)


@triton.jit(do_not_specialize=["num_tensors"])
@no_type_check
def update_kernel(
    tensors, chunks, settings, sums, norm, num_tensors,
    CLIP: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Update moments and parameters of a chunk if the norm of all gradients is finite."""
    tensor, begin, size = _chunk(tensors, chunks, CHUNK)
    group = settings + 8 * tl.load(tensors + 6 * tensor + 5)
    total = tl.sqrt(_all_squares(sums, num_tensors))
    if tl.program_id(0) == 0:
        tl.store(norm, total)
    if total < float("inf"):  # false for NaN too
        scale = 1.0
        if CLIP:
            scale = tl.minimum(tl.load(settings + 5) / (total + 1e-6), 1.0)
        share1, beta2, share2 = tl.load(group), tl.load(group + 1), tl.load(group + 2)
        epsilon, lr, decay = tl.load(group + 3), tl.load(group + 4), tl.load(group + 6)
        rms = tl.sqrt(tl.load(sums + num_tensors + tensor) / size.to(tl.float32))  # RMS_t of algorithm 2
        lr = lr / tl.maximum(rms, 1.0)
        decay_factor = 1.0 - lr * decay
        values = _pointer(tensors, tensor, 0, ALIGNED)
        gradient = _pointer(tensors, tensor, 1, ALIGNED)
        mean = _pointer(tensors, tensor, 2, ALIGNED)
        square = _pointer(tensors, tensor, 3, ALIGNED)
        if begin + CHUNK <= size:
            _move_chunk(
                values, gradient, mean, square, begin, size, scale, share1, beta2, share2, epsilon, lr, decay_factor,
                CHUNK, BLOCK, False,
            )  # fmt: skip
        else:
            _move_chunk(
                values, gradient, mean, square, begin, size, scale, share1, beta2, share2, epsilon, lr, decay_factor,
                CHUNK, BLOCK, True,
            )  # fmt: skip


class MultiTensor:
    """The tables of the tensors of the last update, rebuilt if addresses or shapes change."""

    def __init__(self) -> None:
        self._shapes: tuple[int, ...] = ()
        self._rows: list[tuple[int, ...]] = []
        self._tensors = self._chunks = self._first_chunks = torch.empty(0)
        self._aligned = False

    def step(
        self,
        tensors: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
        kinds: Sequence[int],
        settings: Sequence[Settings],
        max_norm: float | None,
    ) -> Tensor:
        """Update (parameter, gradient, mean, square) of every tensor with `settings[kind]`.

        The norm of all gradients is clipped to `max_norm`. Returns the norm before clipping, 0-dim; if it is not
        finite, nothing changes.
        """
        device = tensors[0][0].device
        self._address(tensors, kinds, device)
        rows = [[1 - s.beta1, s.beta2, 1 - s.beta2, s.epsilon, s.lr, max_norm or 0.0, s.decay, 0.0] for s in settings]
        table = _copied(rows, torch.float32, device)
        count, num_chunks = len(tensors), len(self._chunks)
        partial = torch.empty(2, num_chunks, dtype=torch.float32, device=device)
        sums = torch.empty(2, count, dtype=torch.float32, device=device)
        norm = torch.empty((), dtype=torch.float32, device=device)
        common: dict[str, Any] = {"CHUNK": CHUNK, "BLOCK": BLOCK, "ALIGNED": self._aligned, "num_warps": WARPS}
        clip = max_norm is not None
        with on_device_of(table):
            for ratio in (False, True) if clip else (True,):  # clipping needs the norm before the ratios
                sums_kernel[num_chunks,](
                    self._tensors, self._chunks, table, sums, partial, count, num_chunks, RATIO=ratio,
                    CLIP=clip and ratio, **common,
                )  # fmt: skip
                tensor_sums_kernel[count, 1 + ratio](
                    partial, self._first_chunks, sums, count, num_chunks, BLOCK=256, num_warps=1
                )
            update_kernel[num_chunks,](self._tensors, self._chunks, table, sums, norm, count, CLIP=clip, **common)
        return norm

    def _address(
        self, tensors: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], kinds: Sequence[int], device: torch.device
    ) -> None:
        sizes = tuple(p.numel() for p, *_ in tensors)
        if sizes != self._shapes or self._chunks.device != device:
            counts = [-(-size // CHUNK) for size in sizes]
            chunks = [(tensor, chunk) for tensor, count in enumerate(counts) for chunk in range(count)]
            first_chunks = [0]
            for count in counts:
                first_chunks.append(first_chunks[-1] + count)
            self._chunks = _copied(chunks, torch.int64, device)
            self._first_chunks = _copied(first_chunks, torch.int64, device)
            self._shapes, self._rows = sizes, []
        rows: list[tuple[int, ...]] = [
            (p.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), p.numel(), kind)
            for (p, g, m, v), kind in zip(tensors, kinds, strict=True)
        ]
        if rows != self._rows:
            self._rows = rows
            self._tensors = _copied(rows, torch.int64, device)
            self._aligned = all(pointer % 16 == 0 for row in rows for pointer in row[:4])


def _copied(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A table on the device, without waiting for the copy: torch keeps the pinned memory until it is finished."""
    table = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
