"""Models and workloads so small that real engines run on them quickly."""

import pytest
import torch

from modernbert.bench import inference, models, training
from modernbert.bench.workloads import Workload
from modernbert.model import EncoderConfig

TINY = EncoderConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=2,
    local_attention=32,
)
WORKLOADS = (Workload("ragged", (90, 7, 64, 33)), Workload("one", (70,)))


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    """The preset `tiny`, with workloads and matrix products of its size."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for measuring in (inference, training):
            patch.setattr(measuring, "matrix_products", lambda dtype: torch.ones(64, 64, dtype=dtype).square)
        patch.setitem(models.PRESETS, "tiny", TINY)
        patch.setattr(inference, "WORKLOADS", WORKLOADS)
        patch.setattr(training, "WORKLOADS", WORKLOADS)
        yield
    torch.set_num_threads(threads)
