"""The Triton kernels run on a CUDA device where there is one, and in Triton's interpreter on the CPU elsewhere."""

import importlib.util
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch


def _interpret() -> None:
    """Switch Triton's interpreter on, which the library decides when it is imported.

    A loop up to a number that is known at run time needs a scalar as an integer; the interpreter of Triton 3.6 makes
    one of an array with one element, which NumPy 2.4 refuses.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def repaired(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = repaired


if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
    _interpret()


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
