import pytest

from modernbert.bench import levels
from modernbert.bench.levels import bench_levels
from modernbert.errors import BackendError, ConfigError
from modernbert.kernels import native

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")


def test_every_level_is_measured_in_every_kind_and_compared_with_the_automatic_one(monkeypatch):
    monkeypatch.setattr(native, "_measured", lambda kind, compared: dict.fromkeys(compared, 1.0))
    taken = []
    original = levels.InferenceEncoder

    def made(encoder, int8):
        kind = "int8" if int8 else native.kind_of(encoder.embeddings.tok_embeddings.weight.dtype)
        taken.append((kind, native._loaded().forced))
        return original(encoder, int8=int8)

    monkeypatch.setattr(levels, "InferenceEncoder", made)
    report = bench_levels("tiny", threads=1, rounds=1, workloads=["1 x 16"])
    assert taken == [(kind, level) for kind in native.KINDS for level in ("", *native.available_levels())]
    assert [(one.kind, one.workload) for one in report.results] == [(kind, "1 x 16") for kind in native.KINDS]
    for one in report.results:
        assert one.chosen == native.level(one.kind)
        assert tuple(one.forced) == native.available_levels()
        assert one.share == one.automatic.median / max(each.median for each in one.forced.values())
    assert native._loaded().forced == ""


def test_the_share_is_that_of_the_medians(monkeypatch):
    def seconds(runs, rounds, what, clock):
        return {level: [1.0, 5.0, 2.0] if level else [4.0, 2.5, 1.0] for level in runs}

    monkeypatch.setattr(levels, "alternate", seconds)
    for one in bench_levels("tiny", threads=1, rounds=3, workloads=["2 x 512"], kinds=["int8"]).results:
        assert one.automatic.median == 1024 / 2.5
        assert one.share == 2.0 / 2.5


def test_mistakes_are_one_sentence(monkeypatch):
    with pytest.raises(ConfigError, match="There is no workload 'x'"):
        bench_levels("tiny", workloads=["x"])
    with pytest.raises(ConfigError, match="no products in 'fp64'; choose fp32, bf16, int8"):
        bench_levels("tiny", kinds=["fp64"])
    with pytest.raises(ConfigError, match="cannot run 0 rounds"):
        bench_levels("tiny", rounds=0)
    native.select("off")
    try:
        with pytest.raises(BackendError, match="There are no levels to measure: the native backend is switched off"):
            bench_levels("tiny")
    finally:
        native.select("")
