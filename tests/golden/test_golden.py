import json
from pathlib import Path

import pytest

from golden.run import golden_losses

GOLDEN = json.loads(Path(__file__).with_name("losses.json").read_text(encoding="utf-8"))


def test_a_refactor_leaves_the_losses_where_they_were(tmp_path):
    """To the bit where they were recorded; another processor sums in another order, so elsewhere to 1e-4."""
    found = golden_losses(tmp_path)
    assert found == pytest.approx(GOLDEN, rel=1e-4)


def test_the_losses_repeat_to_the_bit(tmp_path):
    assert golden_losses(tmp_path / "a") == golden_losses(tmp_path / "b")
