"""The Triton kernels run on a CUDA device where there is one, and in Triton's interpreter on the CPU elsewhere."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch


def _repair_interpreter() -> None:
    """Loops whose bounds are read from memory: NumPy 2.4 does not make a number of an array with one element."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the library is imported, which no test module does by itself
    _repair_interpreter()


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request) -> Iterator[torch.device]:
    """Where the kernels of a test run: the same claims hold on both."""
    pytest.importorskip("triton")
    if request.param == "interpreter":
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device, where the kernels themselves are tested")
        with np.errstate(all="ignore"):  # a card gives infinities and NaN without a word
            yield torch.device("cpu")
    elif not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    else:
        yield torch.device("cuda")
