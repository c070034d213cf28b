"""An encoder without gradients in one native call: weights are packed once, and no memory is allocated per layer.

It equals the encoder's modules (src/native/encoder.h) except for rounding: the residual stream is in fp32, and a bf16
model computes in fp32 on processors without bf16 products.
"""

import mmap
from collections.abc import Sequence
from ctypes import POINTER, Structure, addressof, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from modernbert.kernels import native
from modernbert.packed import Sequences

_PANEL = 64  # outputs in a panel of a packed weight (src/native/linear.h)


class _Linear(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
    )


class _Layer(Structure):
    _fields_ = (
        ("attn_norm", c_void_p), ("mlp_norm", c_void_p), ("qkv", _Linear), ("attended", _Linear), ("up", _Linear),
        ("down", _Linear), ("window", c_int64), ("rope", c_int64),
    )  # fmt: skip


class _Encoder(Structure):
    _fields_ = (
        ("layers", POINTER(_Layer)), ("count", c_int64), ("hidden", c_int64), ("intermediate", c_int64),
        ("heads", c_int64), ("embedding_norm", c_void_p), ("final_norm", c_void_p), ("epsilon", c_float),
        ("scale", c_float), ("dtype", c_int32), ("int8", c_int32),
    )  # fmt: skip


class _Batch(Structure):
    _fields_ = (
        ("embedded", c_void_p), ("boundaries", c_void_p), ("sequences", c_int64), ("tokens", c_int64),
        ("cos", c_void_p * 2), ("sin", c_void_p * 2), ("rope_stride", c_int64), ("workspace", c_void_p),
    )  # fmt: skip


@dataclass(frozen=True)
class LayerWeights:
    """The weights of a layer. Linear weights are (outputs, inputs); norms have no bias."""

    attn_norm: Float[Tensor, "hidden"] | None
    mlp_norm: Float[Tensor, "hidden"]
    qkv: Float[Tensor, "qkv hidden"]
    attended: Float[Tensor, "hidden hidden"]
    up: Float[Tensor, "double hidden"]
    down: Float[Tensor, "hidden intermediate"]
    window: int | None
    rope: int  # which of the two rotations


@dataclass(frozen=True)
class _Packed:
    """A weight in panels, with its scales for int8."""

    weight: Tensor
    scales: Tensor | None
    sums: Tensor | None
    inputs: int
    outputs: int

    def described(self) -> _Linear:
        scales, sums = (None if t is None else t.data_ptr() for t in (self.scales, self.sums))
        return _Linear(self.weight.data_ptr(), scales, sums, self.inputs, self.outputs)


def _panels(weight: Tensor, step: int) -> Tensor:
    """(outputs, inputs) as [panel][input / step][64][step], with the last panel padded with zeros."""
    outputs, inputs = weight.shape
    full = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % _PANEL))
    return full.view(-1, _PANEL, inputs // step, step).transpose(1, 2)


def _pack(weight: Tensor, dtype: torch.dtype, step: int, int8: bool) -> _Packed:
    outputs, inputs = weight.shape
    if not int8:
        return _Packed(_in_huge_pages(_panels(weight.to(dtype), step)), None, None, inputs, outputs)
    precise = weight.float()
    scales = precise.abs().amax(1).clamp(min=1e-30) / 127
    quantized = (precise / scales[:, None]).round().to(torch.int8)
    padding = (0, -outputs % _PANEL)
    sums = torch.nn.functional.pad(quantized.sum(1).float() * 128, padding)
    return _Packed(
        _in_huge_pages(_panels(quantized, 4)), torch.nn.functional.pad(scales, padding), sums, inputs, outputs
    )


def _in_huge_pages(x: Tensor) -> Tensor:
    """A copy in huge pages, if the system has them, for fewer TLB misses."""
    result = _allocate_pages(x.numel() * x.element_size()).view(x.dtype).view(x.shape)
    return result.copy_(x)


def _allocate_pages(count: int) -> Tensor:
    """Page-aligned memory of `count` bytes. It is private: after a fork, each process writes into its own copy."""
    area = mmap.mmap(-1, max(count, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8, count=count)


def _interleave(up: Tensor) -> Tensor:
    """The rows of `Wi` in an order in which 32 gate outputs follow the 32 activated outputs that they gate."""
    activated, gate = up.unflatten(0, (2, -1, _PANEL // 2))
    return torch.stack((activated, gate), dim=1).flatten(0, 2)


class NativeEncoder:
    """Computes hidden states after the final norm from embedded tokens, in bf16, fp32, or with int8 linear layers.

    int8 is symmetric, with a scale for each output of a weight, and one for each token, computed in each call.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        embedding_norm: Float[Tensor, "hidden"],
        final_norm: Float[Tensor, "hidden"],
        *,
        heads: int,
        epsilon: float,
        dtype: torch.dtype,
        int8: bool = False,
        level: str | None = None,
    ) -> None:
        """`level` defaults to the fastest one for this kind of product."""
        self.hidden, intermediate = len(final_norm), layers[0].down.shape[1]
        kind = "int8" if int8 else native.kind_of(dtype)
        self._kernels = native.kernels_at(level or native.level(kind))
        step = self._kernels.bf16_step if dtype == torch.bfloat16 else 1
        if step and dtype == torch.bfloat16 and int8 and level is None and native.level("bf16") != native.level("int8"):
            step = 0  # on this processor, operations other than int8 products are faster in fp32
        self.dtype = dtype if step else torch.float32
        self._kept: list[Tensor | _Packed] = []  # keeps the tensors alive to which the structures below point
        packed = [
            tuple(
                self._keep_packed(_pack(weight, self.dtype, step or 1, int8))
                for weight in (layer.qkv, layer.attended, _interleave(layer.up), layer.down)
            )
            for layer in layers
        ]
        described = [
            _Layer(
                None if layer.attn_norm is None else self._keep(layer.attn_norm), self._keep(layer.mlp_norm), *linears,
                -1 if layer.window is None else min(layer.window, 2**31 - 1), layer.rope,
            )
            for layer, linears in zip(layers, packed, strict=True)
        ]  # fmt: skip
        self._layers = (_Layer * len(layers))(*described)
        self._described = _Encoder(
            self._layers, len(layers), self.hidden, intermediate, heads, self._keep(embedding_norm),
            self._keep(final_norm), epsilon, (self.hidden // heads) ** -0.5, native.DTYPES[self.dtype], int8,
        )  # fmt: skip
        self._workspaces: list[Tensor] = []

    def _keep(self, norm: Tensor) -> int:
        precise = norm.detach().float().contiguous()
        self._kept.append(precise)
        return precise.data_ptr()

    def _keep_packed(self, packed: _Packed) -> _Linear:
        self._kept.append(packed)
        return packed.described()

    def __call__(
        self, embedded: Float[Tensor, "tokens hidden"], sequences: Sequences, cos: list[Tensor], sin: list[Tensor]
    ) -> Float[Tensor, "tokens hidden"]:
        """`cos` and `sin` of the two rotations are (tokens, head_dim / 2) in fp32 with rows of equal stride."""
        sequences.require(embedded)
        assert min(len(x) for x in (*cos, *sin)) >= len(embedded), "a rotation for each token"
        embedded = embedded.to(self.dtype).contiguous()
        out = torch.empty_like(embedded)
        workspace = self._workspace(len(embedded))
        boundaries = sequences.cu_seqlens
        batch = _Batch(
            embedded.data_ptr(), boundaries.data_ptr(), len(boundaries) - 1, len(embedded),
            (c_void_p * 2)(*[x.data_ptr() for x in cos]), (c_void_p * 2)(*[x.data_ptr() for x in sin]),
            cos[0].stride(0), workspace.data_ptr(),
        )  # fmt: skip
        threads = native.thread_pool()
        native.check_status(
            self._kernels.encoder_forward(
                addressof(self._described), addressof(batch), out.data_ptr(), addressof(threads)
            )
        )
        self._workspaces.append(workspace)
        return out

    def release_memory(self) -> None:
        """Free the memory that is kept between calls (as much as the largest batch needed)."""
        self._workspaces.clear()

    def _workspace(self, tokens: int) -> Tensor:
        """A large enough workspace that no other thread is using."""
        needed = max(1, self._kernels.encoder_workspace(addressof(self._described), tokens))
        try:
            found = self._workspaces.pop()
        except IndexError:
            found = None
        return found if found is not None and len(found) >= needed else _allocate_pages(needed)


def measure_levels(kind: str, levels: Sequence[str], rounds: int = 8) -> dict[str, float]:
    """GFLOP/s of one layer at each level, with torch's threads, measured in a few milliseconds.

    The levels take turns. The best round of each is used, since other load only makes a round slower. On a busy core, 3
    rounds of a millisecond chose a slower level in 1 of 36 trials, 8 rounds in none.
    """
    width, tokens = 256, 96
    generator = torch.Generator().manual_seed(0)
    qkv, attended, up, down = (
        torch.randn(parts * width, width, generator=generator) * width**-0.5 for parts in (3, 1, 2, 1)
    )
    norm, dtype = torch.ones(width), torch.bfloat16 if kind == "bf16" else torch.float32
    layer = LayerWeights(None, norm, qkv, attended, up, down, window=None, rope=0)
    embedded, sequences = torch.randn(tokens, width, generator=generator), Sequences.from_lengths([tokens])
    cos, sin = [torch.ones(tokens, 32)] * 2, [torch.zeros(tokens, 32)] * 2
    encoders = {
        level: NativeEncoder([layer], norm, norm, heads=4, epsilon=1e-5, dtype=dtype, int8=kind == "int8", level=level)
        for level in levels
    }
    seconds = dict.fromkeys(levels, float("inf"))
    for round_ in range(1 + rounds):
        for level, encoder in encoders.items():
            began = perf_counter()
            encoder(embedded, sequences, cos, sin)
            if round_ > 0:  # the first one warms up
                seconds[level] = min(seconds[level], perf_counter() - began)
    operations = 2 * tokens * (7 * width**2 + 2 * tokens * width)
    return {level: operations / found / 1e9 for level, found in seconds.items()}
