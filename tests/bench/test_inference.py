"""The inference benchmark, with transformers, on a model of four layers."""

import math

import pytest
import torch

from modernbert.bench import inference, models, workloads
from modernbert.bench.inference import bench_inference
from modernbert.bench.peers import Engine, Peer, our_engines, packed_engine
from modernbert.bench.report import BASELINE, OURS, OURS_INT8
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.kernels import native
from modernbert.model import Encoder


def entries(result):
    return {entry.engine: entry for entry in result.entries}


@pytest.fixture(scope="module")
def report():
    return bench_inference("tiny", "fp32", threads=1, rounds=2)


@pytest.mark.slow
@pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")
def test_int8_is_measured_with_bf16_and_has_no_roofline():
    [result] = bench_inference("tiny", "bf16", threads=1, rounds=1, workloads=("one",)).results
    found = entries(result)
    assert list(found) == [OURS, OURS_INT8, BASELINE]
    assert found[OURS].error < found[BASELINE].error
    assert found[OURS].roofline_fraction > 0
    assert found[OURS_INT8].roofline_fraction is None


def test_every_work_has_both_contestants_with_the_same_output(report):
    assert [(result.workload, result.documents, result.tokens) for result in report.results] == [
        ("ragged", 4, 194),
        ("one", 1, 70),
    ]
    for result in report.results:
        found = entries(result)
        assert list(found) == [OURS, BASELINE]
        assert found[BASELINE].error == 0
        assert 0 < found[OURS].error < 1e-5
        assert all(entry.ranked for entry in result.entries)


def test_ratios_and_shares_follow_from_the_speeds(report):
    for result in report.results:
        base = entries(result)[BASELINE].tokens_per_second.median
        for entry in result.entries:
            speed = entry.tokens_per_second
            assert 0 < speed.slowest <= speed.median <= speed.fastest
            assert entry.ratio == pytest.approx(speed.median / base)
            floor_seconds = result.flops / result.matrix_flops_per_second.median
            assert entry.roofline_fraction == pytest.approx(floor_seconds * speed.median / result.tokens)


def test_the_machine_is_described(report):
    assert report.threads == 1
    assert {"processor", "cores", "features", "native kernels", "torch", "transformers"} <= report.machine.keys()


def run_beside(monkeypatch, *more, dtype="fp32"):
    """Measure one workload with more engines beside ours."""
    monkeypatch.setattr(
        inference, "our_engines", lambda setting: [*our_engines(setting), *(make(setting) for make in more)]
    )
    [result] = bench_inference("tiny", dtype, 1, 1, workloads=("ragged",)).results
    return entries(result)


def counted(engine, calls):
    def prepare(batch):
        run = engine.prepare(batch)

        def counting():
            calls.append(engine.name)
            return run()

        return counting

    return Engine(engine.name, engine.computes, prepare, engine.means)


def with_other_weights(setting, change):
    """The same encoder after a change of its configuration."""
    encoder = Encoder(setting.config.model_copy(update=change)).eval()
    encoder.load_state_dict(setting.encoder.state_dict())
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"local_attention": 30}, {"layer_types": ("full_attention",) * 4}, {"local_rope_theta": 160_000.0}],
    ids=["a window that ends a token early", "no windows", "the wrong angles"],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_one_that_computes_something_else_is_listed_and_not_timed(change, dtype, monkeypatch):
    calls = []

    def liar(setting):
        encoder = with_other_weights(setting, change)
        encoder = encoder.bfloat16() if dtype == "bf16" else encoder
        return counted(packed_engine("liar", encoder, dtype), calls)

    found = run_beside(monkeypatch, liar, dtype=dtype)
    assert found["liar"].error > 2 * found[BASELINE].error
    assert not found["liar"].ranked
    assert found["liar"].ratio is found["liar"].peak_bytes is None
    assert calls == ["liar"]  # once, for the comparison with the reference
    assert found[OURS].ranked


def test_one_wrong_document_among_many_is_detected(monkeypatch):
    def liar(setting):
        def encode(tokens, sequences):
            hidden = setting.encoder(tokens, sequences)
            begin, end = sequences.cu_seqlens[1:3]  # the second document, of 7 tokens among 194
            hidden[begin:end] *= 1.01
            return hidden

        return packed_engine("liar", encode, "fp32")

    found = run_beside(monkeypatch, liar)
    assert found["liar"].error == pytest.approx(0.01, rel=1e-2)
    assert not found["liar"].ranked


def test_an_output_that_is_not_finite_is_not_ranked(monkeypatch):
    def broken(setting):
        return packed_engine("broken", lambda tokens, sequences: setting.encoder(tokens, sequences) * math.nan, "fp32")

    found = run_beside(monkeypatch, broken)
    assert (found["broken"].error, found["broken"].failure) == (None, "its output is not finite")
    assert not found["broken"].ranked


def test_means_are_compared_with_means(monkeypatch):
    def pooling(setting):
        [ours] = our_engines(setting)

        def prepare(batch):
            run = ours.prepare(batch)
            lengths = torch.tensor(batch.lengths)[:, None]
            return lambda: run().sum(1) / lengths  # zeros on padding

        return Engine("means", "fp32", prepare, means=True)

    found = run_beside(monkeypatch, pooling)
    assert found["means"].error < 1e-5
    assert found["means"].ranked


def test_a_peer_that_fails_or_is_missing_leaves_the_others_measured(monkeypatch):
    def fails(setting):
        raise OSError("no such engine\nand more")

    def fails_later(setting):
        def prepare(batch):
            raise RuntimeError("out of shapes")

        return Engine("later", "fp32", prepare)

    known = (
        Peer("now", ("torch",), fails),
        Peer("later", ("torch",), fails_later),
        Peer("absent", ("torch", "no_such_engine"), fails),
    )
    monkeypatch.setattr(inference, "choose_peers", lambda names: known)
    report = bench_inference("tiny", "fp32", 1, 1, workloads=("one",), peers=("all",))
    assert report.missing == {
        "now": "failed: no such engine",
        "absent": f"no_such_engine missing: {install_command('peers')}",
    }
    found = entries(report.results[0])
    assert found["later"].failure == "out of shapes"
    assert found[OURS].ranked
    assert found[BASELINE].ranked


def test_a_failure_of_the_package_is_not_hidden(monkeypatch):
    def broken(setting):
        def encode(tokens, sequences):
            raise AssertionError("a bug of ours")

        return packed_engine("broken", encode, "fp32")

    with pytest.raises(AssertionError, match="a bug of ours"):
        run_beside(monkeypatch, broken)


def test_a_model_folder_and_published_sets_are_measured(tmp_path, monkeypatch):
    torch.manual_seed(1)
    Encoder(models.PRESETS["tiny"]).save_pretrained(tmp_path / "mine")
    monkeypatch.setattr(workloads, "BATCH_TOKENS", 1024)  # two batches
    report = bench_inference(str(tmp_path / "mine"), "fp32", 1, 1, workloads=("512 variable",), published_documents=3)
    assert report.model == "mine: 4 layers, 64 wide, vocabulary 512"
    [result] = report.results
    assert (result.documents, result.of_documents) == (3, 8192)
    assert all(entry.ranked for entry in result.entries)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bases"}, r"no preset or model folder 'bases'; choose mini, base, large.*config\.json"),
        ({"dtype": "fp8"}, "There is no dtype 'fp8'; choose bf16 or fp32"),
        ({"threads": 0}, "cannot use 0 threads"),
        ({"rounds": 0}, "cannot run 0 rounds"),
        ({"workloads": ("2 x 2",)}, "There is no workload '2 x 2'; the workloads are: ragged; one"),
        ({"peers": ("jax",)}, "There is no peer 'jax'; choose all, or any of: transformers, transformers-compiled"),
        ({"published_documents": 0}, "8,192 documents"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, message):
    values = {"model": "tiny", "dtype": "fp32", "threads": 1, "rounds": 1} | options
    with pytest.raises(ConfigError, match=message):
        bench_inference(**values)
