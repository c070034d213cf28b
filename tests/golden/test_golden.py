import json
from pathlib import Path

import pytest

from golden.run import golden_losses

GOLDEN = json.loads(Path(__file__).with_name("losses.json").read_text(encoding="utf-8"))


def test_a_refactor_leaves_the_losses_where_they_were(tmp_path):
    """To the bit where they were recorded; another processor sums in another order: 1.8e-7 was seen."""
    found = golden_losses(tmp_path)
    assert found == pytest.approx(GOLDEN, rel=1e-6)


def test_the_losses_repeat_to_the_bit(tmp_path):
    assert golden_losses(tmp_path / "a") == golden_losses(tmp_path / "b")


@pytest.mark.gpu
def test_a_refactor_leaves_the_losses_on_cuda_where_they_were(tmp_path):
    """In bf16, recorded on one kind of card: another one, or another choice of kernels, rounds otherwise."""
    recorded = json.loads(Path(__file__).with_name("losses-cuda.json").read_text(encoding="utf-8"))
    assert golden_losses(tmp_path, "cuda") == pytest.approx(recorded, rel=5e-3)
