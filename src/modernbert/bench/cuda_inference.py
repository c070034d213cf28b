"""Encoder inference on a CUDA device, compared with other engines: same weights and documents, engines take turns.

Every engine starts with a padded or packed batch in the memory of the host. It is timed until the hidden states are on
the device.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modernbert.bench.cuda import (
    SHORT_TOKENS,
    CudaReport,
    Target,
    cuda_machine,
    device_peak,
    free_memory,
    measure_ceilings,
    model_products,
)
from modernbert.bench.inference import EXTRA_PASSES, first_line
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import transformers_model
from modernbert.bench.profiling import Profile, profile_passes
from modernbert.bench.remaining import RemainingTime, probe
from modernbert.bench.report import BASELINE, OURS, Entry, Result, agreeing, log_result, make_result
from modernbert.bench.roofline import MATRICES, encoder_flops
from modernbert.bench.scaling import Cost, Point, ScalingReport
from modernbert.bench.timing import alternate, check_rounds, relative_error
from modernbert.bench.workloads import PaddedBatch, Workload, choose, published, ragged
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.model import Encoder, EncoderConfig
from modernbert.model.optimized import optimize_for_inference
from modernbert.packed import Sequences
from modernbert.runtime import Precision

logger = logging.getLogger(__name__)

WORKLOADS = (
    Workload("64 x 512", (512,) * 64, repeats=4),
    Workload("64 documents, mean 256, longest 512", ragged(64, 256, 512), repeats=8),
    Workload("8 x 8192", (8192,) * 8, repeats=1),
    Workload("1 x 128", (128,), repeats=16),
)
DRY_WORKLOADS = (Workload("4 x 32", (32,) * 4), Workload("4 documents, mean 24, longest 32", ragged(4, 24, 32)))
SCALING_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
TRANSFORMERS_COMPILED = "transformers compiled"
PACKED_ENCODERS = "packed-encoders"
_BATCH_TOKENS = 65_536  # padding included
_COMPARED_TOKENS = 8192  # only the first documents are compared (at least one), as fp32 needs much memory


@dataclass(frozen=True)
class CudaEngine:
    """One way to encode documents on a GPU. `prepare` returns the function to time for a batch.

    That function returns hidden states on the device: (tokens, hidden) if `packed`, otherwise padded.
    """

    name: str
    dtype: Precision
    prepare: Callable[[PaddedBatch], Callable[[], Tensor]]
    packed: bool = False


@dataclass(frozen=True)
class CudaEngineInputs:
    """The inputs of an engine: the encoder in fp32 on the device, the precision and the device."""

    encoder: Encoder
    dtype: Precision
    target: Target


def our_engine(setting: CudaEngineInputs) -> CudaEngine:
    """The encoder of this package as predictors run it: in this precision, optimized for inference."""
    holder = nn.Module()
    encoder = copy.deepcopy(setting.encoder).to(setting.target.device, _dtype(setting.dtype)).eval()
    holder.add_module("model", encoder)
    optimize_for_inference(holder)
    ready = holder.get_submodule("model")
    device = setting.target.device

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        tokens = _pinned(batch.ids[batch.real], setting.target)
        lengths = batch.lengths

        def run() -> Tensor:
            return ready(tokens.to(device, non_blocking=True), Sequences.from_lengths(lengths, device))

        return run

    return CudaEngine(OURS, setting.dtype, prepare, packed=True)


def sdpa_engine(setting: CudaEngineInputs, dtype: Precision) -> CudaEngine:
    """transformers with SDPA, not compiled. In fp32 it is the reference for all outputs."""
    model = _transformers_on_device(setting, dtype)
    return CudaEngine(BASELINE, dtype, lambda batch: _padded(model, batch, setting.target))


def compiled_engine(setting: CudaEngineInputs) -> CudaEngine:
    """transformers with each layer compiled, for one shape, or for any shape if the documents differ in length.

    Layers share their graphs, so that compilation needs seconds instead of minutes. Only fusion across layers is lost.
    """
    torch._dynamo.config.recompile_limit = 64  # three kinds of layers, for each shape
    one_shape, any_shape = (_transformers_on_device(setting, setting.dtype) for _ in range(2))
    for model, dynamic in ((one_shape, False), (any_shape, True)):
        for layer in model.layers:
            layer.compile(dynamic=dynamic)
    return CudaEngine(
        TRANSFORMERS_COMPILED,
        setting.dtype,
        lambda batch: _padded(one_shape if batch.full else any_shape, batch, setting.target),
    )


def packed_encoders_engine(setting: CudaEngineInputs) -> CudaEngine:
    """transformers patched by the package packed-encoders with its default settings, which use no CUDA graphs."""
    import packed_encoders

    model = _transformers_on_device(setting, setting.dtype)
    packed_encoders.pack(model)
    return CudaEngine(PACKED_ENCODERS, setting.dtype, lambda batch: _padded(model, batch, setting.target))


@dataclass(frozen=True)
class CudaPeer:
    """An engine that --peer can name, the modules that it needs, and how to install them."""

    name: str
    modules: tuple[str, ...]
    remedy: str
    make: Callable[[CudaEngineInputs], CudaEngine]

    @property
    def unsupported_reason(self) -> str | None:
        absent = [module for module in self.modules if find_spec(module) is None]
        return f"{' and '.join(absent)} missing: {self.remedy}" if absent else None


PEERS = (
    CudaPeer("transformers-compiled", ("transformers",), install_command("bench"), compiled_engine),
    CudaPeer(
        PACKED_ENCODERS, ("cutlass", "packed_encoders"), "pip install 'packed-encoders==0.2.*'", packed_encoders_engine
    ),
)


def choose_cuda_peers(names: Sequence[str]) -> tuple[CudaPeer, ...]:
    """The peers with these names; `all` selects all of them. transformers is always measured.

    Raises:
        ConfigError: there is no such peer on CUDA.
    """
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name not in (*known, "transformers", "all"):
            raise ConfigError(
                f"There is no peer {name!r} on CUDA; choose all, or any of: transformers, {', '.join(known)}."
            )
    return PEERS if "all" in names else tuple(peer for peer in PEERS if peer.name in names)


def bench_cuda_inference(
    model: str,
    dtype: str,
    rounds: int,
    target: Target,
    workloads: Sequence[str] = (),
    peers: Sequence[str] = (),
    published_documents: int | None = None,
    *,
    profiled: bool = False,
    on_result: Callable[[CudaReport], None] = lambda report: None,
) -> CudaReport:
    """Measure a preset with random weights, or a model folder. `on_result` receives the report after each workload.

    Raises:
        ConfigError: an option has an invalid value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen_peers = choose_cuda_peers(peers)
    known: tuple[Workload, ...] = DRY_WORKLOADS if target.dry else WORKLOADS
    if published_documents is not None:
        known += published(published_documents)
    chosen = choose(known, workloads)
    encoder = make_model(Encoder, model, target.device)
    setting = CudaEngineInputs(encoder, precision, target)
    reference = sdpa_engine(setting, "fp32")
    engines = [our_engine(setting), sdpa_engine(setting, precision)]
    others, missing = _make_peers(chosen_peers, setting)
    packages = ("transformers", *(peer.modules[-1] for peer in chosen_peers if peer.name not in missing))
    report = CudaReport(
        benchmark="inference",
        model=describe(model, encoder.config),
        dtype=precision,
        threads=torch.get_num_threads(),
        rounds=rounds,
        machine=cuda_machine(target, tuple(dict.fromkeys(packages))),
        missing=missing,
        results=(),
        device=target.name,
        device_bytes=target.memory_bytes,
        ceilings=measure_ceilings(encoder.config, max(workload.tokens for workload in chosen), target),
        profiles={},
    )
    with torch.inference_mode():
        remaining = _remaining_time(encoder.config, chosen, engines[-1], len(engines) + len(others), rounds, target)
        for workload in chosen:
            free_memory(target)
            result, profile = _measure(encoder.config, reference, engines, others, workload, rounds, target, profiled)
            log_result(result)
            remaining.finish(workload.name)
            profiles = report.profiles if profile is None else report.profiles | {workload.name: profile}
            report = replace(report, results=(*report.results, result), profiles=profiles)
            on_result(report)
    return report


def bench_cuda_scaling(
    model: str, dtype: str, rounds: int, target: Target, lengths: Sequence[int] = ()
) -> ScalingReport:
    """Encode one sequence at a time with this package and transformers, for each length. `threads` are on the host.

    Raises:
        ConfigError: an option has an invalid value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    if min(lengths, default=1) < 1:
        raise ConfigError("A sequence needs at least one token; give lengths of 1 or more.")
    encoder = make_model(Encoder, model, target.device)
    setting = CudaEngineInputs(encoder, precision, target)
    reference = sdpa_engine(setting, "fp32")
    engines = [our_engine(setting), sdpa_engine(setting, precision)]
    points: list[Point] = []
    chosen = [
        Workload(f"{length:,} tokens", (length,), repeats=None if target.dry else max(1, min(16, 8192 // length)))
        for length in dict.fromkeys(lengths or SCALING_LENGTHS)
    ]
    with torch.inference_mode():
        remaining = _remaining_time(encoder.config, chosen, engines[-1], len(engines), rounds, target)
        for workload in chosen:
            result, _ = _measure(encoder.config, reference, engines, [], workload, rounds, target, profiled=False)
            remaining.finish(workload.name)
            points += [_point(entry, workload.tokens) for entry in result.entries]
    return ScalingReport(
        describe(model, encoder.config), precision, rounds, cuda_machine(target, ("transformers",)), tuple(points)
    )


def _remaining_time(
    config: EncoderConfig, workloads: Sequence[Workload], engine: CudaEngine, engines: int, rounds: int, target: Target
) -> RemainingTime:
    """Log what the workloads will take at the speed of one of the engines. A few tokens take as long as 2,048."""
    sample = Workload("probe", (16,) * 4 if target.dry else (512,) * 16)
    [batch] = sample.batches(config.vocab_size)
    encode = engine.prepare(batch)

    def run() -> None:
        encode()
        target.wait()

    passes = engines * (rounds + EXTRA_PASSES)
    operations = {
        one.name: passes * one.passes * encoder_flops(config, one.lengths) * max(1.0, SHORT_TOKENS / one.tokens)
        for one in workloads
    }
    return RemainingTime(operations, probe(run, encoder_flops(config, sample.lengths)))


def _point(entry: Entry, length: int) -> Point:
    speed = entry.tokens_per_second
    cost = Cost(1e6 / speed.median, 1e6 / speed.fastest, 1e6 / speed.slowest) if speed else None
    return Point(entry.engine, torch.get_num_threads(), length, entry.error, cost)


def _make_peers(peers: Sequence[CudaPeer], setting: CudaEngineInputs) -> tuple[list[CudaEngine], dict[str, str]]:
    made, missing = [], {}
    for peer in peers:
        if reason := peer.unsupported_reason:
            missing[peer.name] = reason
            continue
        logger.info("preparing %s", peer.name)
        try:
            made.append(peer.make(setting))
        except Exception as error:  # other packages may raise anything; the remaining engines are still measured
            missing[peer.name] = f"failed: {first_line(error)}"
    return made, missing


def _measure(
    config: EncoderConfig,
    reference: CudaEngine,
    engines: Sequence[CudaEngine],
    others: Sequence[CudaEngine],
    workload: Workload,
    rounds: int,
    target: Target,
    profiled: bool,
) -> tuple[Result, Profile | None]:
    """Measure one workload. A failure of an engine is recorded in the report, as it may run out of GPU memory."""
    logger.info("%s: %s tokens", workload.name, f"{workload.tokens:,}")
    batches = workload.batches(config.vocab_size, at_once=_BATCH_TOKENS)
    first = _first_documents(batches[0])
    expected = reference.prepare(first)().float()[first.real.to(target.device)]
    entries, ready, single = [], {}, {}
    for engine in (*engines, *others):
        try:
            runs = [engine.prepare(batch) for batch in batches]
            entry = _compare(engine, runs, batches[0], expected, len(first.lengths), target)
            ready[engine.name] = _round_of(runs, workload, target)
            single[engine.name] = _round_of(runs, replace(workload, repeats=1), target)
        except Exception as error:
            if engine in engines and not isinstance(error, torch.OutOfMemoryError):
                raise
            entry = Entry(engine.name, engine.dtype, error=None, failure=first_line(error))
            free_memory(target)
        entries.append(entry)
    del expected
    agreed = agreeing({entry.engine: entry.error for entry in entries})
    timed = {name: run for name, run in ready.items() if name in agreed}
    entries = [replace(entry, peak_bytes=entry.peak_bytes if entry.engine in agreed else None) for entry in entries]
    dtype = torch.bfloat16 if engines[0].dtype == "bf16" else torch.float32
    products, flops = model_products(config, min(workload.tokens, _BATCH_TOKENS), dtype, target)
    for run in (*timed.values(), products):
        run()
    seconds = alternate(timed | {MATRICES: products}, rounds, workload.name, target.wait)
    result = make_result(workload, encoder_flops(config, workload.lengths), tuple(entries), seconds, flops)
    profile = profile_passes(single[OURS], target.device) if profiled and OURS in timed else None
    return result, profile


def _compare(
    engine: CudaEngine,
    runs: Sequence[Callable[[], Tensor]],
    batch: PaddedBatch,
    expected: Tensor,
    documents: int,
    target: Target,
) -> Entry:
    """Run the first batch: the error of its first documents against the expected ones, and its peak memory."""
    held: list[Tensor] = []

    def first_calls() -> None:  # the first call compiles, the second may capture a graph
        held[:] = [runs[0]()]
        held[:] = [runs[0]()]

    peak = device_peak(first_calls, target)
    lengths = batch.lengths[:documents]
    [output] = held
    if not engine.packed:
        output = output[:documents][batch.real[:documents].to(output.device)]
    rows = output[: sum(lengths)].float()
    pairs = zip(rows.split(lengths), expected.split(lengths), strict=True)
    errors = [relative_error(actual, expected_tensor) for actual, expected_tensor in pairs]
    if not bool(torch.isfinite(rows).all()):
        return Entry(engine.name, engine.dtype, error=None, failure="its output is not finite")
    return Entry(engine.name, engine.dtype, error=max(errors), peak_bytes=peak)


def _first_documents(batch: PaddedBatch) -> PaddedBatch:
    """The first documents, with at most `_COMPARED_TOKENS` tokens, but at least one document."""
    total, count = 0, 0
    for length in batch.lengths:
        if count and total + length > _COMPARED_TOKENS:
            break
        total, count = total + length, count + 1
    lengths = batch.lengths[:count]
    return PaddedBatch(lengths, batch.ids[:count, : max(lengths)], only_batch=True)


def _round_of(runs: Sequence[Callable[[], Tensor]], workload: Workload, target: Target) -> Callable[[], None]:
    """A function that encodes all batches `passes` times. For a single document it waits after each pass."""
    alone = len(workload.lengths) == 1

    def run() -> None:
        for _ in range(workload.passes):
            for encode in runs:
                encode()
            if alone:
                target.wait()

    return run


def _transformers_on_device(setting: CudaEngineInputs, dtype: Precision) -> Any:
    return transformers_model(setting.encoder, setting.target.device).to(_dtype(dtype))


def _padded(model: Callable[..., Any], batch: PaddedBatch, target: Target) -> Callable[[], Tensor]:
    ids = _pinned(batch.ids, target)
    mask = None if batch.full else _pinned(batch.mask, target)

    def run() -> Tensor:
        there = target.device
        on_device = None if mask is None else mask.to(there, non_blocking=True)
        hidden: Tensor = model(ids.to(there, non_blocking=True), attention_mask=on_device).last_hidden_state
        return hidden

    return run


def _pinned(tensor: Tensor, target: Target) -> Tensor:
    return tensor.contiguous().pin_memory() if target.device.type == "cuda" else tensor.contiguous()


def _dtype(precision: Literal["bf16", "fp32"]) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32
