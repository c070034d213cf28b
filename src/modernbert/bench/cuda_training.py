"""Masked-LM training steps on a CUDA device with and without the optimizer, one workload compared with transformers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modernbert.bench.cuda import (
    CudaReport,
    Target,
    cuda_machine,
    device_peak,
    free_memory,
    measure_ceilings,
    model_products,
)
from modernbert.bench.inference import first_line
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import transformers_model
from modernbert.bench.profiling import Profile, profile_passes
from modernbert.bench.remaining import RemainingTime, probe
from modernbert.bench.report import BASELINE, OURS, Entry, Result, agreeing, log_result, make_result
from modernbert.bench.roofline import MATRICES, training_flops
from modernbert.bench.timing import alternate, check_rounds, relative_error
from modernbert.bench.workloads import Workload, choose
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.packed import IGNORED, Sequences
from modernbert.runtime import Precision, autocast
from modernbert.train.optimizer import StableAdamW, parameter_groups

logger = logging.getLogger(__name__)

BESIDE_TRANSFORMERS = Workload("32 x 1024, beside transformers", (1024,) * 32)
WORKLOADS = (Workload("96 x 1024", (1024,) * 96), Workload("12 x 8192", (8192,) * 12), BESIDE_TRANSFORMERS)
LARGE_WORKLOADS = (Workload("56 x 1024", (1024,) * 56),)
DRY_WORKLOADS = (Workload("4 x 64", (64,) * 4), Workload("2 x 64, beside transformers", (64,) * 2))
WITHOUT_OPTIMIZER = f"{OURS} without optimizer"
_MASKED = 0.3
_EXTRA_STEPS = 2  # that allocate, and that measure the memory, beside the rounds
_COMPARED_TOKENS = 4096  # only the first documents are compared, at least one


@dataclass(frozen=True)
class _Sample:
    """Documents of equal length on the device, packed for this package and as a matrix for transformers."""

    tokens: Tensor  # (tokens,)
    sequences: Sequences
    rows: Tensor  # (predicted,) the tokens that are predicted
    targets: Tensor  # (predicted,) their ids
    ids: Tensor  # (documents, length)
    labels: Tensor  # (documents, length), -100 for tokens that are not predicted


@dataclass(frozen=True)
class _TrainedModel:
    """A model, its loss on a sample, and its optimizer."""

    model: nn.Module
    loss: Callable[[_Sample], Tensor]
    optimizer: torch.optim.Optimizer

    def backward(self, sample: _Sample, precision: Precision) -> None:
        with autocast(sample.tokens.device, precision):
            loss = self.loss(sample)
        loss.backward()

    def step(self, sample: _Sample, precision: Precision) -> None:
        self.backward(sample, precision)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step_without_optimizer(self, sample: _Sample, precision: Precision) -> None:
        self.backward(sample, precision)
        self.optimizer.zero_grad()


def bench_cuda_training(
    model: str,
    dtype: str,
    rounds: int,
    target: Target,
    workloads: Sequence[str] = (),
    *,
    profiled: bool = False,
    on_result: Callable[[CudaReport], None] = lambda report: None,
) -> CudaReport:
    """Measure training steps of a preset with random weights, or of a model folder, after a comparison of gradients.

    The gradients of the first documents are compared with those of transformers in fp32. transformers is timed only on
    the workload with "transformers" in its name, since it decodes every token and needs much memory for that.
    `on_result` receives the report after each workload.

    Raises:
        ConfigError: transformers is missing, or the model, dtype or workload is unknown.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen = choose(_workloads(model, target), workloads)
    ours = make_model(MaskedLM, model, target.device).train()
    theirs = transformers_model(ours, target.device).train()
    trained_models = {OURS: _our_model(ours), BASELINE: _their_model(theirs)}
    report = CudaReport(
        benchmark="training",
        model=describe(model, ours.config),
        dtype=precision,
        threads=torch.get_num_threads(),
        rounds=rounds,
        machine=cuda_machine(target, ("transformers",)),
        missing={},
        results=(),
        device=target.name,
        device_bytes=target.memory_bytes,
        ceilings=measure_ceilings(ours.config, max(workload.tokens for workload in chosen), target),
        profiles={},
    )
    remaining = _remaining_time(trained_models[BASELINE], ours.config, chosen, precision, rounds, target)
    for workload in chosen:
        free_memory(target)
        result, profile = _measure(trained_models, workload, precision, rounds, target, profiled)
        log_result(result)
        remaining.finish(workload.name)
        profiles = report.profiles if profile is None else report.profiles | {workload.name: profile}
        report = replace(report, results=(*report.results, result), profiles=profiles)
        on_result(report)
    return report


def _remaining_time(
    trained: _TrainedModel,
    config: EncoderConfig,
    workloads: Sequence[Workload],
    precision: Precision,
    rounds: int,
    target: Target,
) -> RemainingTime:
    """Log the time of the workloads at the speed of this model on one document."""
    length = workloads[0].lengths[0]
    sample = make_sample(workloads[0], config.vocab_size, target.device, documents=1)

    def run() -> None:
        trained.step_without_optimizer(sample, precision)
        target.wait()

    operations = {
        one.name: (3 if "transformers" in one.name else 2)
        * (rounds + _EXTRA_STEPS)
        * training_flops(config, one.lengths, max(1, round(_MASKED * one.tokens)))
        for one in workloads
    }
    return RemainingTime(operations, probe(run, training_flops(config, [length], len(sample.rows))))


def _workloads(model: str, target: Target) -> tuple[Workload, ...]:
    if target.dry:
        return DRY_WORKLOADS
    return LARGE_WORKLOADS if model == "large" else WORKLOADS


def _our_model(model: MaskedLM) -> _TrainedModel:
    def loss(sample: _Sample) -> Tensor:
        return model.loss_at(sample.tokens, sample.sequences, sample.rows, sample.targets) / len(sample.rows)

    return _TrainedModel(model, loss, StableAdamW(parameter_groups(model, 1e-5), lr=1e-5, peak_lr=1e-5))


def _their_model(model: Any) -> _TrainedModel:
    return _TrainedModel(
        model,
        lambda sample: model(sample.ids, labels=sample.labels).loss,
        torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True),
    )


def make_sample(workload: Workload, vocab_size: int, device: torch.device, documents: int | None = None) -> _Sample:
    """The first documents of a workload, or all of them, with a fixed 30 % of their tokens masked."""
    [batch] = workload.batches(vocab_size, at_once=workload.tokens)
    assert batch.full, "padding would slow down transformers only"
    masked = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(0)) < _MASKED
    masked[:, 0] = True  # at least one
    ids, masked = batch.ids[:documents], masked[:documents]
    tokens = ids.flatten()
    rows = masked.flatten().nonzero().squeeze(1)
    return _Sample(
        tokens.to(device),
        Sequences.from_lengths(batch.lengths[:documents], device),
        rows.to(device),
        tokens[rows].to(device),
        ids.to(device),
        ids.masked_fill(~masked, IGNORED).to(device),
    )


def _measure(
    trained_models: Mapping[str, _TrainedModel],
    workload: Workload,
    precision: Precision,
    rounds: int,
    target: Target,
    profiled: bool,
) -> tuple[Result, Profile | None]:
    logger.info("%s: %s tokens", workload.name, f"{workload.tokens:,}")
    ours, theirs = trained_models[OURS], trained_models[BASELINE]
    model = ours.model
    assert isinstance(model, MaskedLM)
    theirs.model.load_state_dict(model.state_dict())
    config, device = model.config, target.device
    first = make_sample(workload, config.vocab_size, device, max(1, _COMPARED_TOKENS // workload.lengths[0]))
    errors = _errors(trained_models, first, precision)
    agreed = agreeing(errors)
    sample = make_sample(workload, config.vocab_size, device)
    steps = {
        OURS: lambda: ours.step(sample, precision),
        WITHOUT_OPTIMIZER: lambda: ours.step_without_optimizer(sample, precision),
    }
    if "transformers" in workload.name:
        steps[BASELINE] = lambda: theirs.step(sample, precision)
    entries: list[Entry] = []
    timed: dict[str, Callable[[], None]] = {}
    for name, step in steps.items():
        of = BASELINE if name == BASELINE else OURS
        entry = Entry(name, precision, errors[of])
        if of in agreed:
            try:
                step()  # allocates the optimizer's state, which does not count as memory of a step
                entry = replace(entry, peak_bytes=device_peak(step, target))
                timed[name] = step
            except torch.OutOfMemoryError as error:
                entry = replace(entry, failure=first_line(error))
                for trained_model in trained_models.values():
                    trained_model.optimizer.zero_grad()
        entries.append(entry)
        free_memory(target)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    products, flops = model_products(config, workload.tokens, dtype, target)
    products()
    seconds = alternate(timed | {MATRICES: products}, rounds, workload.name, target.wait)
    workload = replace(workload, repeats=1)
    operations = training_flops(config, workload.lengths, len(sample.rows))
    result = make_result(workload, operations, tuple(entries), seconds, flops)
    profile = profile_passes(timed[OURS], device) if profiled and OURS in timed else None
    return result, profile


def _errors(trained_models: Mapping[str, _TrainedModel], sample: _Sample, precision: Precision) -> dict[str, float]:
    """The largest relative error of a parameter's gradient against transformers in fp32, for each model."""
    expected = _gradients(trained_models[BASELINE], sample, "fp32")
    errors = {}
    for name, trained_model in trained_models.items():
        found = _gradients(trained_model, sample, precision)
        assert found.keys() == expected.keys()
        errors[name] = max(relative_error(found[key], expected_tensor) for key, expected_tensor in expected.items())
    return errors


def _gradients(trained_model: _TrainedModel, sample: _Sample, precision: Precision) -> dict[str, Tensor]:
    """The gradients of the loss by parameter; those of the model are cleared afterwards."""
    trained_model.optimizer.zero_grad()
    trained_model.backward(sample, precision)
    named = trained_model.model.named_parameters()
    found = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    trained_model.optimizer.zero_grad()
    return found
