"""The benchmarks of CUDA devices, run on a CPU in tiny sizes (`--device dry`)."""

import json

import pytest
import torch
from typer.testing import CliRunner

from modernbert.bench import cuda, cuda_inference, cuda_training
from modernbert.bench.attention import bench_attention
from modernbert.bench.cuda import Target, linear_shapes, model_products, required_target, select_target
from modernbert.bench.cuda_inference import CudaEngine, bench_cuda_inference, bench_cuda_scaling, our_engine
from modernbert.bench.cuda_training import WITHOUT_OPTIMIZER, bench_cuda_training, make_sample
from modernbert.bench.loop import bench_loop
from modernbert.bench.report import BASELINE, OURS, compare_reports, read_report
from modernbert.bench.workloads import Workload
from modernbert.cli import app
from modernbert.errors import ConfigError, DataError
from modernbert.model import MaskedLM

DRY = Target(torch.device("cpu"), dry=True)


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(
        cuda_inference, "DRY_WORKLOADS", (Workload("3 documents", (24, 5, 17)), Workload("alone", (9,)))
    )
    monkeypatch.setattr(cuda_training, "DRY_WORKLOADS", (Workload("3 x 16", (16,) * 3),))


def entries(result):
    return {entry.engine: entry for entry in result.entries}


def test_the_cpu_is_measured_unless_a_device_is_named(monkeypatch):
    monkeypatch.setattr(cuda.torch.cuda, "is_available", lambda: False)
    assert select_target("cpu") is select_target("auto") is None
    with pytest.raises(ConfigError, match="no CUDA device"):
        select_target("cuda")
    with pytest.raises(ConfigError, match="no benchmark for the device 'mps'; choose cpu, cuda or auto"):
        select_target("mps")
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        required_target("auto")


def test_the_products_alone_are_those_of_all_linear_layers():
    config = cuda.model_config("tiny")
    run, flops = model_products(config, 4096, torch.float32, DRY)
    run()
    assert flops == 2 * 4096 * config.num_hidden_layers * sum(
        inner * columns for inner, columns in linear_shapes(config)
    )
    _, short = model_products(config, 128, torch.float32, DRY)
    assert short == flops / 2  # 128 tokens are multiplied 16 times, so that a round is long enough to be timed


def time_is_told(caplog):
    """Whether the first message with a time came before the first result."""
    messages = [record.getMessage() for record in caplog.records]
    times = [index for index, message in enumerate(messages) if message.startswith("time left: about ")]
    return bool(times) and not any("tokens/s" in message for message in messages[: times[0]])


def test_inference_is_reported_with_device_ceilings_and_profile_after_every_workload(caplog):
    caplog.set_level("INFO", "modernbert.bench")
    seen = []
    report = bench_cuda_inference("tiny", "fp32", 1, DRY, profiled=True, on_result=seen.append)
    assert time_is_told(caplog)
    assert [len(one.results) for one in seen] == [1, 2]
    assert seen[-1] == report
    assert report.device == report.machine["device"] == "CPU, dry run"
    assert report.ceilings.copy_bytes_per_second > 0
    assert {product.columns for product in report.ceilings.shapes} >= {192, 64}
    assert report.profiles.keys() == {"3 documents", "alone"}
    for result in report.results:
        found = entries(result)
        assert list(found) == [OURS, BASELINE]
        assert found[BASELINE].error == 0
        assert 0 < found[OURS].error < 1e-4
        assert all(entry.ranked and entry.roofline_fraction > 0 for entry in result.entries)


def test_one_that_computes_something_else_is_not_timed(monkeypatch):
    def wrong(setting):
        ours = our_engine(setting)

        def prepare(batch):
            run = ours.prepare(batch)
            return lambda: run() * torch.where(torch.arange(sum(batch.lengths)) < 24, 1.0, 1.01)[:, None]

        return CudaEngine(OURS, setting.dtype, prepare, packed=True)

    monkeypatch.setattr(cuda_inference, "our_engine", wrong)
    [result] = bench_cuda_inference("tiny", "fp32", 1, DRY, ("3 documents",)).results
    assert entries(result)[OURS].error == pytest.approx(0.01, rel=1e-2)  # of the second document; the first is correct
    assert not entries(result)[OURS].ranked
    assert entries(result)[BASELINE].ranked


def test_memory_that_runs_out_is_a_result_and_another_failure_of_ours_is_not(monkeypatch):
    def failing(error):
        def prepare(batch):
            raise error

        return lambda setting: CudaEngine(OURS, setting.dtype, prepare, packed=True)

    monkeypatch.setattr(cuda_inference, "our_engine", failing(torch.OutOfMemoryError("out of memory\nand more")))
    [result] = bench_cuda_inference("tiny", "fp32", 1, DRY, ("alone",)).results
    assert entries(result)[OURS].failure == "out of memory"
    assert entries(result)[BASELINE].ranked
    monkeypatch.setattr(cuda_inference, "our_engine", failing(AssertionError("a bug of ours")))
    with pytest.raises(AssertionError, match="a bug of ours"):
        bench_cuda_inference("tiny", "fp32", 1, DRY, ("alone",))


def test_a_peer_that_is_missing_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(cuda_inference, "find_spec", lambda name: None if name == "packed_encoders" else object())
    report = bench_cuda_inference("tiny", "fp32", 1, DRY, ("alone",), peers=("packed-encoders",))
    assert report.missing == {"packed-encoders": "packed_encoders missing: pip install 'packed-encoders==0.2.*'"}
    with pytest.raises(ConfigError, match="no peer 'openvino' on CUDA; choose all, or any of: transformers, transf"):
        bench_cuda_inference("tiny", "fp32", 1, DRY, peers=("openvino",))


@pytest.mark.slow
def test_training_is_timed_with_and_without_the_optimizer_and_optionally_with_transformers(monkeypatch):
    both = (Workload("3 x 16", (16,) * 3), Workload("2 x 16, beside transformers", (16,) * 2))
    monkeypatch.setattr(cuda_training, "DRY_WORKLOADS", both)
    first, second = bench_cuda_training("tiny", "fp32", 1, DRY).results
    assert list(entries(first)) == [OURS, WITHOUT_OPTIMIZER]
    assert list(entries(second)) == [OURS, WITHOUT_OPTIMIZER, BASELINE]
    assert all(entry.ranked and 0 < entry.error < 1e-4 for entry in first.entries)
    assert entries(first)[OURS].ratio is None
    assert entries(second)[OURS].ratio > 0


def test_wrong_gradients_are_not_timed(monkeypatch, caplog):
    caplog.set_level("INFO", "modernbert.bench")
    right = MaskedLM.loss_at
    monkeypatch.setattr(MaskedLM, "loss_at", lambda *arguments: 1.01 * right(*arguments))
    [result] = bench_cuda_training("tiny", "fp32", 1, DRY).results
    assert entries(result)[OURS].error == pytest.approx(0.01, rel=1e-2)
    assert not any(entry.ranked for entry in result.entries)
    assert time_is_told(caplog)


def test_what_is_predicted_is_the_same_for_both_models():
    sample = make_sample(Workload("3 x 16", (16,) * 3), 512, torch.device("cpu"), documents=2)
    labels = sample.labels.flatten()
    assert sample.sequences.lengths == (16, 16)
    assert torch.equal((labels != -100).nonzero().squeeze(1), sample.rows)
    assert torch.equal(labels[sample.rows], sample.targets)
    assert torch.equal(sample.ids.flatten(), sample.tokens)


def test_every_length_is_scaled_and_the_time_is_told(caplog):
    caplog.set_level("INFO", "modernbert.bench")
    points = bench_cuda_scaling("tiny", "fp32", 1, DRY, (16, 32)).points
    assert [(point.tokens, point.engine) for point in points] == [
        (16, OURS), (16, BASELINE), (32, OURS), (32, BASELINE),
    ]  # fmt: skip
    assert all(0 < point.cost.lowest <= point.cost.median <= point.cost.highest for point in points)
    assert time_is_told(caplog)


@pytest.mark.slow
def test_attention_is_compared_with_fp32_and_timed_with_and_without_a_window():
    report = bench_attention(DRY, (16, 200), tokens=400)
    assert [(time.length, time.window) for time in report.times] == [(16, None), (16, 64), (200, None), (200, 64)]
    assert all(0 < time.error < 0.02 and time.forward_flops_per_second > 0 for time in report.times)
    visible = 2 * (200 * 129 - 64 * 65)  # pairs of two sequences of 200 tokens in windows of 64 to each side
    last = report.times[-1]
    assert last.forward_flops_per_second * last.forward_seconds == pytest.approx(4 * visible * 12 * 64)
    with pytest.raises(ConfigError, match="between 1 and the 400 tokens"):
        bench_attention(DRY, (401,), tokens=400)


@pytest.mark.slow
def test_a_loop_report_compares_a_run_with_its_bare_step():
    report = bench_loop("tiny", "cpu", None, 1.0, steps=12)
    assert report.bare_tokens_per_second.median > 0
    assert report.ratio == report.loop_tokens_per_second.median / report.bare_tokens_per_second.median
    with pytest.raises(ConfigError, match="no preset 'bases' to train; choose base"):
        bench_loop("bases", "cpu", None, 1.0)
    with pytest.raises(ConfigError, match="at least 12 steps"):
        bench_loop("tiny", "cpu", None, 1.0, steps=1)


def test_the_commands_accept_a_device_and_cpu_and_gpu_reports_are_not_compared(tmp_path):
    options = ("--model", "tiny", "--dtype", "fp32", "--rounds", 1, "--workload", "alone")
    done = bench("inference", *options, "--device", "dry", "--profile", "--output", tmp_path / "gpu.json")
    assert done.exit_code == 0
    assert "Profile of alone" in done.stdout
    values = json.loads((tmp_path / "gpu.json").read_text())
    assert {"device", "device_bytes", "ceilings", "profiles"} <= values.keys()
    values["machine"].pop("device")
    (tmp_path / "cpu.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="differ in the device"):
        compare_reports(read_report(tmp_path / "cpu.json"), read_report(tmp_path / "gpu.json"), 0.1)


def test_a_profile_and_threads_are_refused_where_they_mean_nothing():
    with pytest.raises(ConfigError, match="add --device cuda"):
        bench("inference", "--model", "tiny", "--profile")
    with pytest.raises(ConfigError, match="leave it out on a CUDA device"):
        bench("scaling", "--model", "tiny", "--device", "dry", "--threads", 1)
