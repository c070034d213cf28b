"""The choice of the level of the native kernels for each kind of product, with rates that the tests set."""

import os
import subprocess
import sys

import pytest
import torch

from modernbert.errors import BackendError, ConfigError
from modernbert.kernels import Rope, native
from modernbert.kernels.native_encoder import LayerWeights, NativeEncoder, measure_levels
from modernbert.packed import Sequences

ALL = ("amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2")
NO_AMX = ALL[1:]
here = pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")


@pytest.fixture
def processor(monkeypatch):
    """A processor with these levels and rates, and the number of measurements made on it."""

    class Table:
        def __init__(self, level):
            self.level, self.bf16_step = level, 2 if level in ("amx", "avx512_bf16") else 0

    def make(levels, rates, forced=""):
        loaded = native._Loaded({level: Table(level) for level in levels}, forced, None)
        monkeypatch.setattr(native, "_selected", loaded)
        measured = []

        def measure(kind, compared):
            measured.append(kind)
            return {level: rates[kind][level] for level in compared}

        monkeypatch.setattr(native, "_measured", measure)
        return measured

    return make


XEON = {  # AVX-512 BF16 without AMX, whose instruction for bf16 is slower than fp32
    "fp32": {"avx512": 120.0, "avx2": 70.0},
    "bf16": {"avx512_bf16": 80.0, "avx512": 118.0, "avx2": 69.0},
    "int8": {"avx512_bf16": 400.0, "avx512": 100.0, "avx2": 90.0},
}


def test_each_kind_of_product_uses_the_level_measured_to_be_fastest(processor):
    processor(NO_AMX, XEON)
    assert {kind: native.level(kind) for kind in native.KINDS} == {
        "fp32": "avx512", "bf16": "avx512", "int8": "avx512_bf16",
    }  # fmt: skip
    assert native.kernels("bf16").level == "avx512"
    assert native.kernels("int8").level == "avx512_bf16"
    assert native.rates("bf16") == XEON["bf16"]


def test_a_matrix_unit_is_used_where_it_is_fastest(processor):
    rates = {kind: {level: 1000.0 / (1 + n) for n, level in enumerate(ALL)} for kind in native.KINDS}
    processor(ALL, rates)
    assert {kind: native.level(kind) for kind in native.KINDS} == {"fp32": "avx512", "bf16": "amx", "int8": "amx"}


def test_a_choice_is_measured_once_and_only_where_there_is_one(processor):
    measured = processor(NO_AMX, XEON)
    for _ in range(3):
        for kind in native.KINDS:
            native.level(kind)
    assert sorted(measured) == sorted(native.KINDS)
    assert processor(["avx2"], {}) == []
    assert {native.level(kind) for kind in native.KINDS} == {"avx2"}
    assert native.rates("int8") == {}


def test_a_process_can_use_the_levels_chosen_by_another_process(processor):
    processor(NO_AMX, XEON)
    chosen = native.choices()
    assert chosen == {"fp32": "avx512", "bf16": "avx512", "int8": "avx512_bf16"}
    busy = {kind: {level: 100.0 * (level == "avx2") + 1 for level in ALL} for kind in native.KINDS}
    processor(NO_AMX, busy)
    assert set(native.choices().values()) == {"avx2"}
    native.use_choices(chosen)
    assert native.choices() == chosen


def test_levels_that_are_not_here_are_refused(processor, monkeypatch):
    processor(["avx2"], {})
    with pytest.raises(BackendError, match=r"level avx512, which this machine lacks; .* MODERNBERT_NATIVE=avx2"):
        native.use_choices({"fp32": "avx512", "bf16": "avx512", "int8": "avx2"})
    with pytest.raises(BackendError, match=r"started with no native kernels; .* MODERNBERT_NATIVE=off"):
        native.use_choices({})
    monkeypatch.setattr(native, "_selected", "is switched off")
    assert native.choices() == {}
    native.use_choices({})
    with pytest.raises(BackendError, match="level avx2, which this machine lacks"):
        native.use_choices(dict.fromkeys(native.KINDS, "avx2"))


def test_what_a_measurement_errs_does_not_change_the_level():
    """The same run on the same machine must give the same bits."""
    assert native.fastest(["avx512_bf16", "avx512"], {"avx512_bf16": 100.0, "avx512": 104.0}) == "avx512_bf16"
    assert native.fastest(["avx512_bf16", "avx512"], {"avx512_bf16": 100.0, "avx512": 106.0}) == "avx512"


@pytest.mark.parametrize("forced", ALL)
def test_a_forced_level_is_used_for_all_kinds_without_measuring(processor, forced):
    assert processor(ALL, {}, forced) == []
    expected = {"fp32": forced, "bf16": forced, "int8": "avx512_vnni" if forced == "avx512" else forced}
    assert {kind: native.level(kind) for kind in native.KINDS} == expected


def test_forcing_avx512_keeps_the_vnni_instruction_for_int8():
    assert native.candidates_for("int8", NO_AMX, "avx512") == ["avx512_vnni"]
    assert native.candidates_for("int8", ["avx512", "avx2"], "avx512") == ["avx512"]  # a processor that lacks it
    assert native.candidates_for("bf16", NO_AMX, "avx512") == ["avx512"]


def test_a_processor_without_bf16_has_the_instruction_for_int8(processor):
    """Cascade Lake, Ice Lake and others: AVX-512 with VNNI, without BF16."""
    measured = processor(ALL[2:], XEON | {"int8": {"avx512_vnni": 400.0, "avx512": 100.0, "avx2": 90.0}})
    found = {kind: native.level(kind) for kind in native.KINDS}
    assert found == {"fp32": "avx512", "bf16": "avx512", "int8": "avx512_vnni"}
    assert sorted(measured) == sorted(native.KINDS)


@pytest.mark.parametrize("kind", native.KINDS)
def test_levels_with_the_same_code_for_a_kind_are_measured_once(kind):
    expected = {"fp32": [], "bf16": ["amx", "avx512_bf16"], "int8": ["amx", "avx512_bf16"]}[kind]
    assert native.candidates_for(kind, ALL, "") == [*expected, "avx512", "avx2"]


@here
@pytest.mark.parametrize("kind", native.KINDS)
def test_every_level_of_this_processor_can_be_measured(kind):
    levels = [level for level in native.LEVELS if level in native._loaded().tables]
    found = measure_levels(kind, levels, rounds=1)
    assert list(found) == levels
    assert all(0 < rate < 1e6 for rate in found.values())


@here
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_all_levels_compute_the_same_for_every_kind_of_product(int8):
    """Every level is tested by name, since a forced `avx512` uses int8 products of the level above."""
    generator = torch.Generator().manual_seed(0)
    weight, norm = torch.randn(128, 64, generator=generator) / 8, torch.ones(64)
    layer = LayerWeights(None, norm, torch.cat((weight, weight[:64])), weight[64:], weight, weight[:64], None, 0)
    embedded, sequences = torch.randn(70, 64, generator=generator), Sequences.from_lengths([69, 1])
    rope = Rope.of(sequences.positions, 64, 10_000.0)
    cos, sin = [rope.cos[:, 0, :32].contiguous()] * 2, [rope.sin[:, 0, 32:].contiguous()] * 2
    found = {
        level: NativeEncoder([layer], norm, norm, heads=1, epsilon=1e-5, dtype=torch.float32, int8=int8, level=level)(
            embedded, sequences, cos, sin
        )
        for level in native._loaded().tables
    }
    tolerance = 5e-3 if int8 else 1e-5  # the last bit of a sum can change the rounding to int8
    for one in found.values():
        assert float((one - found["avx2"]).norm() / found["avx2"].norm()) < tolerance
    assert found["avx2"].isfinite().all()


@here
@pytest.mark.parametrize(("dtype", "int8"), [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)])
def test_an_encoder_uses_its_own_kind_of_product(monkeypatch, dtype, int8):
    asked, level = [], native.level()
    monkeypatch.setattr(native, "level", lambda kind="fp32": asked.append(kind) or level)
    weight = torch.randn(96, 32)
    layer = LayerWeights(None, torch.ones(32), weight, weight[:32], weight[:64], weight[:32], None, 0)
    NativeEncoder([layer], torch.ones(32), torch.ones(32), heads=1, epsilon=1e-5, dtype=dtype, int8=int8)
    assert set(asked) <= {"int8", "bf16"} if int8 else set(asked) == {native.kind_of(dtype)}
    assert asked[0] == ("int8" if int8 else native.kind_of(dtype))


@pytest.mark.parametrize("name", ["avx-512", "AVX2", "none", "avx512 "])
def test_a_level_that_does_not_exist_is_an_error_that_names_the_levels(name):
    levels = "amx, avx512_bf16, avx512_vnni, avx512, avx2"
    with pytest.raises(ConfigError, match=f"not a level of the native kernels; set it to {levels} or off"):
        native.select(name)


def start(**environment):
    command = [sys.executable, "-m", "modernbert", "doctor"]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=False
    )


def test_a_misspelt_setting_is_one_sentence_and_not_a_silent_fall_to_plain_pytorch():
    told = start(MODERNBERT_NATIVE="avx-2")
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "MODERNBERT_NATIVE is 'avx-2', which is not a level" in told.stderr


@pytest.mark.slow
def test_a_foreign_library_is_one_sentence(tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    for library in (tmp_path / "text.so", "libm.so.6"):
        told = start(MODERNBERT_NATIVE_LIBRARY=str(library))
        assert told.returncode == 2, told.stderr
        assert f"names {library}, which is not a build of the native kernels" in told.stderr


def test_a_library_of_other_sources_is_not_called(monkeypatch):
    monkeypatch.setattr(native, "_VERSION", 10**6)
    monkeypatch.delenv("MODERNBERT_NATIVE_LIBRARY", raising=False)
    assert "install the package again" in str(native._load("")) or "was not built" in str(native._load(""))
