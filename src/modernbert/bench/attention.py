"""The speed of each attention backend on a CUDA device, forward and backward, by sequence length."""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modernbert.bench.cuda import Target, cuda_machine, free_memory, seconds_of
from modernbert.bench.inference import first_line
from modernbert.bench.remaining import log_remaining
from modernbert.bench.timing import relative_error
from modernbert.errors import ConfigError
from modernbert.kernels import available_backends, varlen_attention
from modernbert.kernels.rotary import Rope
from modernbert.packed import Sequences
from modernbert.stream.lengths import visible_keys

logger = logging.getLogger(__name__)

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
TOKENS = 65_536
HEADS, HEAD_DIM = 12, 64
WINDOW = 64
_SLOW = ("reference", "blocked", "native")  # plain PyTorch, or for the CPU
_COMPARED_TOKENS = 2048
_MAX_ERROR = 0.05  # relative, of bf16 against fp32
_FORWARD, _BACKWARD = 4, 10  # operations per visible pair and dimension: two products, and five


@dataclass(frozen=True)
class AttentionTime:
    """One backend on sequences of one length. Seconds are medians; None if it failed or its error is too large."""

    backend: str
    length: int
    window: int | None
    error: float | None
    failure: str | None
    forward_seconds: float | None
    both_seconds: float | None  # forward and backward
    forward_flops_per_second: float | None  # counting visible keys only
    both_flops_per_second: float | None


@dataclass(frozen=True)
class AttentionReport:
    """The times of all backends that run on a device."""

    machine: dict[str, str]
    device: str
    tokens: int
    heads: int
    head_dim: int
    unavailable: dict[str, str]
    times: tuple[AttentionTime, ...]
    benchmark: str = "attention"


def bench_attention(target: Target, lengths: Sequence[int] = (), tokens: int | None = None) -> AttentionReport:
    """Time the backends on bf16 tensors of each length, rotary embedding included, with and without a window.

    Before a backend is timed, its output on the first sequences is compared with that of `blocked` in fp32.

    Raises:
        ConfigError: a length is not between 1 and the number of tokens.
    """
    total = tokens or (256 if target.dry else TOKENS)
    chosen = tuple(dict.fromkeys(lengths)) or ((32, 128) if target.dry else LENGTHS)
    if not all(1 <= length <= total for length in chosen):
        raise ConfigError(f"A length must be between 1 and the {total:,} tokens of the batch; give other lengths.")
    backends = available_backends()
    # A dry run tests the benchmark with a slow backend.
    names = ["blocked"] if target.dry else [n for n, reason in backends.items() if reason is None and n not in _SLOW]
    combinations = list(itertools.product(chosen, (None, WINDOW), names))
    times: list[AttentionTime] = []
    began = time.perf_counter()
    for length, window, name in combinations:
        times.append(_measure(name, length, window, total, target))
        if left := len(combinations) - len(times):
            log_remaining(left * (time.perf_counter() - began) / len(times))
    return AttentionReport(
        cuda_machine(target),
        target.name,
        total,
        HEADS,
        HEAD_DIM,
        {name: reason for name, reason in backends.items() if reason},
        tuple(times),
    )


def _measure(backend: str, length: int, window: int | None, total: int, target: Target) -> AttentionTime:
    lengths = [length] * (total // length)
    sequences = Sequences.from_lengths(lengths, target.device)
    generator = torch.Generator().manual_seed(length)
    qkv = torch.randn(sum(lengths), 3, HEADS, HEAD_DIM, generator=generator).to(target.device, torch.bfloat16)
    rope = Rope.of(sequences.positions, HEAD_DIM, 10_000.0)
    pairs = float(visible_keys(np.array(lengths, dtype=np.int64), window).sum())
    flops = pairs * HEADS * HEAD_DIM
    qkv.requires_grad_()
    upstream = torch.randn(qkv.shape[0], HEADS, HEAD_DIM, device=target.device, dtype=torch.bfloat16)

    def forward() -> Tensor:
        with torch.no_grad():
            return varlen_attention(qkv, sequences, window, rope, backend)

    def both() -> Tensor:
        [gradient] = torch.autograd.grad(varlen_attention(qkv, sequences, window, rope, backend), qkv, upstream)
        return gradient

    repeats = 2 if target.dry else 7
    try:
        error = _error(forward, qkv, lengths, window, target)
        if error > _MAX_ERROR:
            return AttentionTime(backend, length, window, error, "disagrees with fp32", None, None, None, None)
        once = statistics.median(seconds_of(forward, target, repeats, warm_up=2))
        twice = statistics.median(seconds_of(both, target, repeats, warm_up=2))
    except Exception as problem:  # a failure of one backend must not stop the others
        free_memory(target)
        logger.warning("%s at %d: %s", backend, length, first_line(problem))
        return AttentionTime(backend, length, window, None, first_line(problem), None, None, None, None)
    both_flops = (_FORWARD + _BACKWARD) * flops
    return AttentionTime(backend, length, window, error, None, once, twice, _FORWARD * flops / once, both_flops / twice)


def _error(
    forward: Callable[[], Tensor], qkv: Tensor, lengths: Sequence[int], window: int | None, target: Target
) -> float:
    """The relative error of the first sequences against the `blocked` backend in fp32."""
    first = lengths[: max(1, _COMPARED_TOKENS // lengths[0])]
    sequences = Sequences.from_lengths(first, target.device)
    rope = Rope.of(sequences.positions, HEAD_DIM, 10_000.0)
    with torch.no_grad():
        expected = varlen_attention(qkv[: sum(first)].float(), sequences, window, rope, "blocked")
        return relative_error(forward()[: sum(first)], expected)
