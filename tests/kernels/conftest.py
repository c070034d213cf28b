"""The Triton kernels run on a CUDA device if there is one, else in Triton's interpreter on the CPU."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request) -> Iterator[torch.device]:
    """The device on which the kernels of a test run."""
    pytest.importorskip("triton")
    if request.param == "interpreter":
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device, where the kernels themselves are tested")
        with np.errstate(all="ignore"):  # a GPU gives infinities and NaN without a warning
            yield torch.device("cpu")
    elif not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    else:
        yield torch.device("cuda")
