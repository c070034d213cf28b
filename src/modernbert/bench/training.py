"""A masked-LM training step compared with transformers: same weights, documents and masks, with the optimizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import transformers_model
from modernbert.bench.remaining import RemainingTime, probe
from modernbert.bench.report import BASELINE, OURS, Entry, Report, Result, agreeing, log_result, make_result
from modernbert.bench.roofline import MATRICES, matrix_products, training_flops
from modernbert.bench.timing import alternate, check_rounds, machine, peak_memory, relative_error, use_threads
from modernbert.bench.workloads import Workload, choose, ragged
from modernbert.errors import ConfigError
from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.packed import IGNORED, Sequences, pack
from modernbert.runtime import Precision, autocast
from modernbert.train.optimizer import StableAdamW, parameter_groups

WORKLOADS = (
    Workload("16 documents, mean 256, padded to 512", ragged(16, 256, 512)),
    Workload("16 documents, mean 400, padded to 1024", ragged(16, 400, 1024)),
    Workload("8 x 512", (512,) * 8),
    Workload("4 x 1024", (1024,) * 4),
)


_MASKED = 0.3
_EXTRA_PASSES = 4  # gradients in fp32 and in the precision, warm-up, memory
_PROBE_TOKENS = 128


def bench_training(
    model: str,
    dtype: str,
    threads: int | None,
    rounds: int,
    workloads: Sequence[str] = (),
    on_result: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Measure training steps of a preset with random weights, or of a model folder, after a comparison of gradients.

    transformers trains on the padded batch with the same autocast and torch's fused AdamW, its fastest optimizer.
    `on_result` receives the report after each workload.

    Raises:
        ConfigError: transformers is missing, or the model, dtype or workload is unknown.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen = choose(WORKLOADS, workloads)
    threads = use_threads(threads)
    ours = make_model(MaskedLM, model).train()
    theirs = transformers_model(ours).train()
    report = Report(
        benchmark="training",
        model=describe(model, ours.config),
        dtype=precision,
        threads=threads,
        rounds=rounds,
        machine=machine(("transformers",)),
        missing={},
        results=(),
    )
    passes = 2 * (rounds + _EXTRA_PASSES)
    remaining = RemainingTime(
        {one.name: passes * one.passes * _flops(ours.config, one.lengths) for one in chosen},
        _probe(ours, precision),
    )
    for workload in chosen:
        result = _measure(ours, theirs, workload, precision, rounds)
        log_result(result)
        remaining.finish(workload.name)
        report = replace(report, results=(*report.results, result))
        on_result(report)
    return report


def _flops(config: EncoderConfig, lengths: Sequence[int]) -> float:
    return training_flops(config, lengths, max(1, round(_MASKED * sum(lengths))))


def _probe(model: MaskedLM, precision: Precision) -> float:
    """Operations per second of a forward and a backward pass over one short document."""
    ids = torch.arange(_PROBE_TOKENS) % model.config.vocab_size
    sequences = Sequences.from_lengths([_PROBE_TOKENS])
    labels = ids.masked_fill(torch.arange(_PROBE_TOKENS) >= _MASKED * _PROBE_TOKENS, IGNORED)

    def run() -> None:
        with autocast(torch.device("cpu"), precision):
            loss = model.loss(ids, sequences, labels)
        loss.backward()
        model.zero_grad()

    return probe(run, _flops(model.config, [_PROBE_TOKENS]))


def bench_logits(rows: int = 8192, hidden: int = 768, vocab: int = 50_368) -> dict[str, int]:
    """Peak bytes of decoder and cross-entropy, forward and backward in bf16 autocast: in chunks, and over all logits.

    Raises:
        ConfigError: this system does not record the peak memory of a process.
    """
    x, weight = torch.randn(rows, hidden), torch.randn(vocab, hidden)
    labels = torch.randint(vocab, (rows,))

    def peak(loss: Callable[[Tensor, Tensor], Tensor]) -> int:
        def step() -> None:
            with autocast(torch.device("cpu"), "bf16"):
                found = loss(x.requires_grad_(), weight.requires_grad_())
            found.backward()

        found = peak_memory(step)
        if found is None:
            raise ConfigError("This system does not record the peak memory of a process; measure on Linux.")
        return found

    return {
        OURS: peak(lambda x, weight: linear_cross_entropy(x, weight, None, labels)),
        "plain": peak(lambda x, weight: F.cross_entropy(F.linear(x, weight).float(), labels)),
    }


@dataclass(frozen=True)
class _TrainedModel:
    """A model, its loss on the workload, and its optimizer."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer

    def backward(self, precision: Precision) -> None:
        with autocast(torch.device("cpu"), precision):
            loss = self.loss()
        loss.backward()

    def step(self, precision: Precision) -> None:
        self.backward(precision)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _measure(ours: MaskedLM, theirs: Any, workload: Workload, precision: Precision, rounds: int) -> Result:
    [batch] = workload.batches(ours.config.vocab_size)
    mask = batch.mask
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.rand(batch.ids.shape, generator=generator) < _MASKED) & batch.real
    labels = batch.ids.masked_fill(~chosen, IGNORED)
    tokens, sequences = pack(batch.ids, mask)
    packed_labels, _ = pack(labels, mask)
    theirs.load_state_dict(ours.state_dict())
    engines = {
        OURS: _TrainedModel(
            ours,
            lambda: ours.loss(tokens, sequences, packed_labels),
            StableAdamW(parameter_groups(ours, 1e-5), lr=1e-5, peak_lr=1e-5),
        ),
        BASELINE: _TrainedModel(
            theirs,
            lambda: theirs(batch.ids, attention_mask=mask, labels=labels).loss,
            torch.optim.AdamW(theirs.parameters(), lr=1e-5, fused=True),
        ),
    }
    expected = _gradients(engines[BASELINE], "fp32")
    errors = {name: _largest_error(_gradients(one, precision), expected) for name, one in engines.items()}
    agreed = agreeing(errors)
    runs = {name: _round_of(one, precision, workload.passes) for name, one in engines.items() if name in agreed}
    peaks = {name: peak_memory(run) for name, run in runs.items()}  # the warm-up round
    entries = tuple(Entry(name, precision, errors[name], peak_bytes=peaks.get(name)) for name in engines)
    products = matrix_products(torch.bfloat16 if precision == "bf16" else torch.float32)
    products()
    seconds = alternate(runs | {MATRICES: products}, rounds, workload.name)
    return make_result(workload, training_flops(ours.config, workload.lengths, int(chosen.sum())), entries, seconds)


def _gradients(engine: _TrainedModel, precision: Precision) -> dict[str, Tensor]:
    """The gradients of the loss by parameter; those of the model are cleared afterwards."""
    engine.optimizer.zero_grad()
    engine.backward(precision)
    found = {
        name: parameter.grad.clone()
        for name, parameter in engine.model.named_parameters()
        if parameter.grad is not None
    }
    engine.optimizer.zero_grad()
    return found


def _largest_error(gradients: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error of a parameter's gradient."""
    assert gradients.keys() == expected.keys()
    return max(relative_error(gradients[name], expected_tensor) for name, expected_tensor in expected.items())


def _round_of(engine: _TrainedModel, precision: Precision, times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            engine.step(precision)

    return run
