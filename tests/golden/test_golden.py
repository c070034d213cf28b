import json
import math

import pytest

from golden.run import LOSSES, golden_losses, known_machines, steps_that_differ, this_machine

GOLDEN = json.loads(LOSSES.read_text(encoding="utf-8"))


def test_a_refactor_leaves_the_losses_where_they_were(tmp_path):
    """To the bit on the machines that are recorded, to 1e-6 elsewhere."""
    assert steps_that_differ(golden_losses(tmp_path), GOLDEN, this_machine() in known_machines()) == []


def test_a_last_bit_counts_on_a_recorded_machine_alone():
    assert steps_that_differ(GOLDEN, GOLDEN, True) == []
    for step in range(len(GOLDEN)):
        moved = list(GOLDEN)
        moved[step] = math.nextafter(GOLDEN[step], 0)
        assert steps_that_differ(moved, GOLDEN, True) == [step]
        assert steps_that_differ(moved, GOLDEN, False) == []
        moved[step] = GOLDEN[step] * (1 + 2e-6)
        assert steps_that_differ(moved, GOLDEN, False) == [step]
        moved[step] = math.nan
        assert steps_that_differ(moved, GOLDEN, False) == [step]


def test_the_losses_repeat_to_the_bit(tmp_path):
    assert golden_losses(tmp_path / "a") == golden_losses(tmp_path / "b")


@pytest.mark.gpu
def test_a_refactor_leaves_the_losses_on_cuda_where_they_were(tmp_path):
    """In bf16, recorded on one kind of card: another one, or another choice of kernels, rounds otherwise."""
    recorded = json.loads(LOSSES.with_name("losses-cuda.json").read_text(encoding="utf-8"))
    assert golden_losses(tmp_path, "cuda") == pytest.approx(recorded, rel=5e-3)
