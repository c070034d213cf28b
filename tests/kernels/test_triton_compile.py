"""Every Triton kernel compiles for a Hopper GPU, with the arguments of a run of ModernBERT-base in bf16."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # compiling all of them takes a quarter of a minute


@pytest.fixture(scope="module")
def resources() -> list[dict]:
    """The resources of each kernel, from a process in which Triton compiles and does not interpret."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "modernbert.kernels.triton.resources", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_no_kernel_spills_registers(resources):
    assert {r["name"]: r["spilled_bytes"] for r in resources if r["spilled_bytes"]} == {}


def test_a_processor_holds_enough_threads_to_hide_the_memory(resources):
    """A quarter of the maximum; except rows of 8,192, and attention, which loads ahead instead."""
    few = {r["name"] for r in resources if r["programs"] * r["warps"] < 16}
    assert {name for name in few if not name.startswith("attention")} == {"add_norm backward, bf16 stream, width 8192"}
    assert all(r["programs"] * r["warps"] >= 8 for r in resources)


def test_numbers_are_read_by_16_bytes(resources):
    narrow = [r["name"] for r in resources if ".global.v4.b32" not in r["ptx"]]
    assert narrow == ["StableAdamW, sums of tensors"]  # a few numbers of each tensor
