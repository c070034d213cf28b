"""The registers, spills and shared memory of the kernels on a Hopper GPU, compiled without a GPU.

`python -m modernbert.kernels.triton.resources` prints the table, for the shapes of ModernBERT-base in bf16. It must run
without TRITON_INTERPRET in the environment.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from modernbert.kernels.triton import attention, attention_kernels, cross_entropy, geglu, norm, optimizer, rotary
from modernbert.kernels.triton.launch import power_of_two
from modernbert.packed import IGNORED

HOPPER = GPUTarget("cuda", 90, 32)


@dataclass(frozen=True)
class Kernel:
    """A kernel with the arguments of a run. A type such as `*bf16` is a pointer to 16-byte-aligned memory."""

    name: str
    function: Any
    signature: dict[str, str]  # types of arguments in order; other arguments are in `constants`
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    divisible: tuple[str, ...] = ()  # arguments that are multiples of 16 in a run, for which Triton specializes


@dataclass(frozen=True)
class Resources:
    """The resources that ptxas assigned to one kernel."""

    name: str
    warps: int
    registers: int  # per thread
    spilled_bytes: int  # per thread, in local memory
    shared_bytes: int  # per program
    ptx: str = field(repr=False, compare=False, default="")

    @property
    def programs(self) -> int:
        """Concurrent programs on a multiprocessor of an H100 or H200."""
        threads = 32 * self.warps
        by_registers = 65536 // (-(-self.registers // 8) * 8 * threads)
        by_shared = 227 * 1024 // (self.shared_bytes + 1024)
        return min(by_registers, by_shared, 2048 // threads, 32)


def _norm(name: str, backward: bool, stream: str, width: int = 768, **flags: bool) -> Kernel:
    rows, block, warps = norm.tile(width)
    constants = {"WIDTH": width, "ROWS": rows, "BLOCK": block, **flags}
    tokens = "*i64" if flags["GATHER"] else "*fp32"
    if backward:
        signature = {
            "stream_grad": stream if flags["STREAM"] else "*bf16", "normed_grad": "*bf16", "total": stream,
            "tokens": tokens, "mean": "*fp32", "inverse": "*fp32", "weight": "*fp32", "grad": stream,
            "narrow": "*bf16", "partial": "*fp32", "rows": "i32", "vocab": "i32",
        }  # fmt: skip
        return Kernel(name, norm.norm_backward_kernel, signature, constants, warps)
    signature = {
        "x": stream, "y": "*bf16", "tokens": tokens, "weight": "*fp32", "total": stream, "normed": "*bf16",
        "mean": "*fp32", "inverse": "*fp32", "rows": "i32", "vocab": "i32", "epsilon": "fp32",
    }  # fmt: skip
    return Kernel(name, norm.norm_forward_kernel, signature, constants, warps)


def _geglu(name: str, function: Any, pointers: Sequence[str], width: int = 1152) -> Kernel:
    constants = {"WIDTH": width, "ROWS": geglu.ROWS, "COLUMNS": geglu.COLUMNS}
    return Kernel(name, function, dict.fromkeys(pointers, "*bf16") | {"rows": "i32"}, constants, geglu.WARPS)


def _softmax(name: str, gradient: bool, bias: bool = True, vocab: int = 50_368) -> Kernel:
    signature = {"logits": "*bf16", "bias": "*fp32", "labels": "*i64", "losses": "*fp32", "rows": "i32"}
    constants = {
        "VOCAB": vocab, "IGNORED": IGNORED, "ROWS": cross_entropy.ROWS, "LANES": cross_entropy.LANES,
        "VECTOR": cross_entropy.VECTOR, "BIAS": bias, "GRADIENT": gradient,
    }  # fmt: skip
    return Kernel(name, cross_entropy.softmax_kernel, signature, constants, cross_entropy.WARPS)


def _attention(name: str, which: int, window: int, heads: int = 12, dim: int = 64) -> Kernel:
    """The forward, query-gradient or key-gradient kernel, with the sizes of a run."""
    function = (
        attention_kernels.attention_forward_kernel, attention_kernels.attention_query_gradient_kernel,
        attention_kernels.attention_key_gradient_kernel,
    )[which]  # fmt: skip
    size = attention.blocks(window, dim, torch.bfloat16)[which]
    pointers = dict.fromkeys(("qkv", "out", "grad", "grad_qkv"), "*bf16") | {"tiles": "*i32"}
    pointers |= dict.fromkeys(("logsumexp", "delta", "cos", "sin"), "*fp32")
    numbers = {"angle_stride": "i32", "tokens": "i32", "scale": "fp32"}
    signature = {key: kind for key, kind in (pointers | numbers).items() if key in function.arg_names}
    constants = {"HEADS": heads, "DIM": dim, "DIM_BLOCK": dim, "WINDOW": window, "PRECISE": False}
    constants |= (
        {"ROWS": size.block_rows, "KEYS": size.tile_rows}
        if which == 2
        else {"ROWS": size.tile_rows, "KEYS": size.block_rows}
    )
    return Kernel(name, function, signature, constants | ({"ROTATED": True} if which else {}), size.warps, size.stages)


def _rotation(name: str, inverse: bool, heads: int = 12, dim: int = 64) -> Kernel:
    pointers = dict.fromkeys(("q", "k", "v", "out"), "*bf16") | {"cos": "*fp32", "sin": "*fp32"}
    strides = ("tokens", "q_stride", "k_stride", "v_stride", "out_stride", "angle_stride")
    constants = {
        "HEADS": heads, "HALF": dim // 2, "HEADS_BLOCK": power_of_two(heads), "HALF_BLOCK": dim // 2,
        "TOKENS": rotary.TOKENS, "INVERSE": inverse,
    }  # fmt: skip
    signature = pointers | dict.fromkeys(strides, "i32")
    return Kernel(name, rotary.rotate_kernel, signature, constants, rotary.WARPS, divisible=strides[1:])


_TABLES = {"tensors": "*i64", "chunks": "*i64", "settings": "*fp32", "sums": "*fp32"}
_CHUNKS = {"CHUNK": optimizer.CHUNK, "BLOCK": optimizer.BLOCK, "ALIGNED": True}

KERNELS: tuple[Kernel, ...] = (
    *(
        _attention(f"attention, {kind}{part}", which, window)
        for kind, window in (("global", -1), ("window 64", 64))
        for which, part in enumerate(("", ", gradient of queries", ", gradient of keys"))
    ),
    _rotation("rotation", inverse=False),
    _rotation("rotation back", inverse=True),
    _norm("add_norm, bf16 stream", False, "*bf16", ADD=True, GATHER=False),
    _norm("add_norm, fp32 stream", False, "*fp32", ADD=True, GATHER=False),
    _norm("layer_norm", False, "*bf16", ADD=False, GATHER=False),
    _norm("embedding_norm", False, "*fp32", ADD=False, GATHER=True),
    _norm("add_norm backward, bf16 stream", True, "*bf16", STREAM=True, NARROW=False, GATHER=False),
    _norm("add_norm backward, fp32 stream", True, "*fp32", STREAM=True, NARROW=True, GATHER=False),
    _norm("layer_norm backward", True, "*bf16", STREAM=False, NARROW=False, GATHER=False),
    _norm("embedding_norm backward", True, "*fp32", STREAM=False, NARROW=False, GATHER=True),
    _norm("add_norm backward, bf16 stream, width 8192", True, "*bf16", 8192, STREAM=True, NARROW=False, GATHER=False),
    _geglu("geglu", geglu.geglu_forward_kernel, ("x", "result")),
    _geglu("geglu backward", geglu.geglu_backward_kernel, ("grad", "x", "result")),
    _softmax("cross-entropy", gradient=False),
    _softmax("cross-entropy with gradient", gradient=True),
    _softmax("cross-entropy with gradient, no bias", gradient=True, bias=False),
    Kernel(
        "bias gradient", cross_entropy.column_sum_kernel, {"x": "*bf16", "partial": "*fp32", "rows": "i32"},
        {
            "WIDTH": 50_368, "SPLIT": cross_entropy.SPLIT_ROWS, "ROWS": cross_entropy.SUM_ROWS,
            "COLUMNS": cross_entropy.SUM_COLUMNS,
        },
        cross_entropy.SUM_WARPS,
    ),
    Kernel(
        "StableAdamW, sums", optimizer.sums_kernel,
        _TABLES | {"partial": "*fp32", "num_tensors": "i32", "num_chunks": "i32"},
        {"RATIO": True, "CLIP": False, **_CHUNKS}, optimizer.WARPS,
    ),
    Kernel(
        "StableAdamW, sums of tensors", optimizer.tensor_sums_kernel,
        {"partial": "*fp32", "first_chunks": "*i64", "sums": "*fp32", "num_tensors": "i32", "num_chunks": "i32"},
        {"BLOCK": 256}, 1,
    ),
    Kernel(
        "StableAdamW, update", optimizer.update_kernel, _TABLES | {"norm": "*fp32", "num_tensors": "i32"},
        {"CLIP": False, **_CHUNKS}, optimizer.WARPS,
    ),
)  # fmt: skip


def compiled(kernel: Kernel, target: GPUTarget = HOPPER) -> Resources:
    """Compile a kernel for a GPU that this machine need not have."""
    names = kernel.function.arg_names
    types = {name: kernel.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in kernel.constants.items()}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if types[name].startswith("*") or name in kernel.divisible
    }
    source = ASTSource(kernel.function, types, constants, aligned)
    found = triton.compile(source, target=target, options={"num_warps": kernel.warps, "num_stages": kernel.stages})
    registers, local = _used(found.asm["cubin"])
    return Resources(kernel.name, kernel.warps, registers, local, found.metadata.shared, found.asm["ptx"])


def _used(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack (which holds spilled registers) per thread."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dump = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", dump.stdout)
    assert found is not None, dump.stdout
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def table(found: Sequence[Resources]) -> str:
    """The table for the documentation."""
    rows = [
        "| kernel | warps | registers | spilled bytes | shared bytes | programs a processor |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {r.name} | {r.warps} | {r.registers} | {r.spilled_bytes} | {r.shared_bytes} | {r.programs} |" for r in found
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    every = [compiled(kernel) for kernel in KERNELS]
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(r) | {"programs": r.programs} for r in every]))
    else:
        print(table(every))
