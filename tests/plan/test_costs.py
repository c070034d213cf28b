"""Every estimate is compared with what torch counts or keeps."""

import functools
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from modernbert.kernels import native
from modernbert.model import EncoderConfig, MaskedLM, encoder
from modernbert.packed import Sequences
from modernbert.plan.costs import Setting, count_flops, count_parameters, estimate_memory
from modernbert.stream.lengths import PackingStatistics

TOKENS, LENGTH, RATIO = 4096, 128, 0.3
SHAPE = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def _without_native_kernels():
    """They keep less memory than the estimate for a GPU."""
    native.select("off")
    yield
    native.select("")


def rotated(qkv, rope):
    q, k, v = qkv.unbind(1)
    return (x.transpose(0, 1) for x in (rope(q), rope(k), v))


def dense(qkv, sequences, window, rope):
    """Global attention over one sequence, as two products that torch counts."""
    q, k, v = rotated(qkv, rope)
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).transpose(0, 1)


def like_flash(qkv, sequences, window, rope):
    """FlashAttention's own function on a CPU, which keeps what the one on CUDA keeps. One sequence; no window."""
    q, k, v = (x[None] for x in rotated(qkv, rope))
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0][0].transpose(0, 1)


def batch(config):
    torch.manual_seed(0)
    tokens = torch.randint(0, config.vocab_size, (TOKENS,))
    labels = torch.where(torch.rand(TOKENS) < RATIO, tokens, -100)
    return tokens, Sequences.from_lengths([LENGTH] * (TOKENS // LENGTH)), labels


def loss_of(model, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return model.loss(*batch(model.config))


def kept_bytes(model, precision):
    """Storage that the graph of one loss keeps alive, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(model, precision)
    return sum(kept.values())


def estimated_kept_bytes(config, setting):
    predicted = int((batch(config)[2] != -100).sum())
    memory = estimate_memory(config, setting, TOKENS, predicted / TOKENS, passes=1)
    gradient_of_decoder = 4 * config.vocab_size * (config.hidden_size + 1)
    return memory.activations + memory.copies + gradient_of_decoder


@pytest.mark.parametrize(
    ("config", "total"), [(EncoderConfig.base(), 149_655_232), (EncoderConfig.large(), 395_881_664)]
)
def test_the_published_models_have_the_published_parameters(config, total):
    assert count_parameters(config).total == total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_layers": 1},
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
        {"tie_word_embeddings": False, "decoder_bias": False},
    ],
)
def test_parameter_counts_equal_those_of_the_model(changes):
    config = EncoderConfig(**({**SHAPE, "num_hidden_layers": 5} | changes))
    with torch.device("meta"):
        model = MaskedLM(config)
    assert count_parameters(config).total == sum(parameter.numel() for parameter in model.parameters())


def test_operations_equal_those_that_torch_counts(monkeypatch):
    monkeypatch.setattr(encoder, "varlen_attention", dense)
    config = EncoderConfig(**SHAPE, num_hidden_layers=3, global_attn_every_n_layers=1)
    model = MaskedLM(config).train()
    count = 512
    tokens, labels = (x[:count] for x in batch(config)[::2])
    with FlopCounterMode(display=False) as counter:
        model.loss(tokens, Sequences.from_lengths([count]), labels).backward()
    rows = PackingStatistics(count, Fraction(count), chunks_per_token=0.0, keys={None: float(count)})
    counted = count_flops(config, rows, mask_ratio=int((labels != -100).sum()) / count)
    assert count * counted.total == pytest.approx(counter.get_total_flops(), rel=1e-12)


def test_special_tokens_never_reach_the_decoder():
    config = EncoderConfig(**SHAPE)
    windows = dict.fromkeys((None, 64), 10.0)
    few, many = (
        count_flops(config, PackingStatistics(128, Fraction(128), chunks, windows), 0.3) for chunks in (0.0, 0.1)
    )
    assert many.head == pytest.approx(0.8 * few.head)
    assert many.layers == few.layers


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("attention", ["blocked", "like flash"])
def test_activations_equal_those_that_autograd_keeps(precision, attention, monkeypatch):
    if attention == "like flash":
        monkeypatch.setattr(encoder, "varlen_attention", like_flash)
    config = EncoderConfig(**SHAPE, num_hidden_layers=5, attention_output_dropout=0.1)
    kept = kept_bytes(MaskedLM(config).train(), precision)
    assert estimated_kept_bytes(config, Setting(precision, on_cuda=False)) == pytest.approx(kept, rel=0.01)


def test_disabled_dropout_keeps_no_activations():
    config = EncoderConfig(**SHAPE, num_hidden_layers=2, attention_output_dropout=0.0)
    kept = kept_bytes(MaskedLM(config).train(), "fp32")
    assert estimated_kept_bytes(config, Setting("fp32", on_cuda=False)) == pytest.approx(kept, rel=0.01)


@pytest.mark.slow
def test_activations_of_compiled_layers_equal_those_of_torchs_partitioner():
    """In a process of its own, as dynamo cannot trace through the shape checks of a test run."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = "import test_costs; print(*test_costs.compiled_bytes())"
    made = subprocess.run(
        [sys.executable, "-c", command],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    estimated, kept = map(int, made.stdout.split())
    assert estimated == pytest.approx(kept, rel=0.01)


def compiled_bytes():
    """Estimated and kept bytes of a model whose layers are partitioned as inductor has them partitioned."""
    encoder.varlen_attention = like_flash
    native.select("off")
    config = EncoderConfig(**SHAPE, num_hidden_layers=3, attention_output_dropout=0.1)
    model = MaskedLM(config).train()
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend="aot_eager_decomp_partition")
    kept = kept_bytes(model, "bf16")
    return estimated_kept_bytes(config, Setting("bf16", compiled=True, on_cuda=False)), kept


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_memory_of_an_update_equals_the_estimate(precision, checkpointing):
    config = EncoderConfig(**SHAPE, num_hidden_layers=8, attention_output_dropout=0.1)
    model = MaskedLM(config).train()
    if checkpointing:
        for layer in model.model.layers:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    loss_of(model, precision).backward()  # from now on there are gradients
    with torch.profiler.profile(profile_memory=True) as profile:
        loss_of(model, precision).backward()
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    memory = estimate_memory(config, Setting(precision, 1, checkpointing, on_cuda=False), TOKENS, RATIO, passes=1)
    estimated = memory.total - memory.weights - memory.gradients - memory.optimizer
    assert estimated == pytest.approx(peak, rel=0.15 if checkpointing else 0.06)


def test_sharding_divides_the_memory_of_every_device():
    config = EncoderConfig.base()
    unsharded = estimate_memory(config, Setting("bf16"), 8192, RATIO, passes=1)
    parts = estimate_memory(config, Setting("bf16", shards=8), 8192, RATIO, passes=1)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(parts, name) == pytest.approx(getattr(unsharded, name) / 8, rel=1e-6)
    several = estimate_memory(config, Setting("bf16", shards=8), 8192, RATIO, passes=2)
    assert several.gradients == parts.gradients + unsharded.gradients


def test_checkpointing_keeps_less_and_recomputes_a_third_of_the_layers():
    config = EncoderConfig.base()
    kept, again = (estimate_memory(config, Setting("bf16", 1, flag), 65_536, RATIO, 1) for flag in (False, True))
    assert again.activations < kept.activations / 4
    assert again.total < kept.total / 2
    flops = count_flops(config, PackingStatistics(1024, Fraction(1024), 0.0, {None: 600.0, 64: 120.0}), RATIO)
    assert flops.recomputed == (flops.layers + flops.attention) / 3
