"""GPU kernels in Triton. Importing this package does not import Triton: that waits for the first kernel."""

import os
from functools import cache
from importlib.util import find_spec

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def unavailable() -> str | None:
    """Why these kernels cannot run here, or None if they can: on a CUDA device, or anywhere in Triton's interpreter."""
    if find_spec("triton") is None:
        return "needs the package triton, which torch brings on Linux"
    if interpreted():
        return None
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return "needs an NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"needs an Ampere GPU or newer, and {torch.cuda.get_device_name()} is older"
    return None


@cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors: TRITON_INTERPRET=1, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def takes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels can run here and take such tensors."""
    return unavailable() is None and dtype in DTYPES and (device.type == "cuda" or interpreted())
