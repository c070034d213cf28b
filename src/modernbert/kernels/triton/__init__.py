"""Kernels in Triton for CUDA devices: attention, rotation, layer norm, GeGLU, cross-entropy, StableAdamW.

Importing this package does not import the triton library, which a CPU build of torch lacks; importing one of its
modules does. If `TRITON_INTERPRET=1` is in the environment before that, the kernels run on CPU tensors in Triton's
interpreter, to test their numerics without a GPU.
"""

import importlib.util
import os

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_installed = importlib.util.find_spec("triton") is not None  # at import, since torch.compile cannot trace find_spec
_devices: dict[str, str | None] = {}  # the reason why CUDA cannot be used, once determined


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")


def unavailable() -> str | None:
    """The reason why the kernels cannot run on this machine, or None."""
    if _installed and interpreted():
        return None
    return _cuda_unavailable()


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels support these tensors: fp32, bf16 or fp16 on CUDA, or on the CPU if interpreted."""
    if dtype not in DTYPES:
        return False
    if device.type == "cuda":
        return _cuda_unavailable() is None
    return device.type == "cpu" and _installed and interpreted()


def _cuda_unavailable() -> str | None:
    if "cuda" not in _devices:
        _devices["cuda"] = _why_not_on_cuda()
    return _devices["cuda"]


def _why_not_on_cuda() -> str | None:
    if not _installed:
        return "needs the package triton, which is part of PyTorch for CUDA"
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 8 else f"needs compute capability 8.0, but this device has {major}.{minor}"
