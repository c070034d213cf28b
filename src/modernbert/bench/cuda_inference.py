"""Encoder inference on a CUDA device, beside transformers and others: same weights, same documents, alternating.

Every engine is given a batch on the host in the form it takes, ids padded or one after the other, and is timed until
its hidden states are on the device.
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
    CudaReport,
    Target,
    cuda_machine,
    device_peak,
    free_memory,
    measure_ceilings,
    model_products,
)
from modernbert.bench.floor import MATRICES, encoder_flops
from modernbert.bench.inference import first_line
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import transformers_model
from modernbert.bench.profiling import Profile, profile_passes
from modernbert.bench.report import BASELINE, OURS, Entry, Result, agreeing, make_result
from modernbert.bench.scaling import Cost, Point, ScalingReport
from modernbert.bench.timing import alternate, check_rounds, relative_error
from modernbert.bench.works import PaddedBatch, Work, choose, published, ragged
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.model import Encoder, EncoderConfig
from modernbert.model.optimized import optimize_for_inference
from modernbert.packed import Sequences
from modernbert.runtime import Precision

logger = logging.getLogger(__name__)

WORKLOADS = (
    Work("64 x 512", (512,) * 64, repeats=4),
    Work("64 documents, mean 256, longest 512", ragged(64, 256, 512), repeats=8),
    Work("8 x 8192", (8192,) * 8, repeats=1),
    Work("1 x 128", (128,), repeats=16),
)
DRY_WORKLOADS = (Work("4 x 32", (32,) * 4), Work("4 documents, mean 24, longest 32", ragged(4, 24, 32)))
SCALING_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
TRANSFORMERS_COMPILED = "transformers compiled"
PACKED_ENCODERS = "packed-encoders"
_BATCH_TOKENS = 65_536  # with padding
_COMPARED_TOKENS = 8192  # of the first documents, at least one: fp32 takes memory


@dataclass(frozen=True)
class Engine:
    """What is measured. `prepare` makes a batch on the host ready; the call that it returns is timed.

    That call returns hidden states on the device: (tokens, hidden) if it is `packed`, otherwise padded.
    """

    name: str
    dtype: Precision
    prepare: Callable[[PaddedBatch], Callable[[], Tensor]]
    packed: bool = False


@dataclass(frozen=True)
class CudaSetting:
    """What an engine is made of: the encoder in fp32 on the device, and how it runs."""

    encoder: Encoder
    dtype: Precision
    target: Target


def our_engine(setting: CudaSetting) -> Engine:
    """The encoder as predictors run it: in its precision on the device, made ready for inference."""
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

    return Engine(OURS, setting.dtype, prepare, packed=True)


def sdpa_engine(setting: CudaSetting, dtype: Precision) -> Engine:
    """transformers with SDPA, not compiled. In fp32 it is the reference for all others."""
    model = _transformers_on_device(setting, dtype)
    return Engine(BASELINE, dtype, lambda batch: _padded(model, batch, setting.target))


def compiled_engine(setting: CudaSetting) -> Engine:
    """Each layer of transformers compiled: for one shape, or for any where documents differ in length.

    The layers share their graphs, so that it takes seconds and not minutes; nothing is lost but fusion across layers.
    """
    torch._dynamo.config.recompile_limit = 64  # three kinds of layers, for each shape
    one_shape, any_shape = (_transformers_on_device(setting, setting.dtype) for _ in range(2))
    for model, dynamic in ((one_shape, False), (any_shape, True)):
        for layer in model.layers:
            layer.compile(dynamic=dynamic)
    return Engine(
        TRANSFORMERS_COMPILED,
        setting.dtype,
        lambda batch: _padded(one_shape if batch.full else any_shape, batch, setting.target),
    )


def packed_encoders_engine(setting: CudaSetting) -> Engine:
    """transformers patched by the package packed-encoders, as it chooses by itself: without graphs."""
    import packed_encoders

    model = _transformers_on_device(setting, setting.dtype)
    packed_encoders.pack(model)
    return Engine(PACKED_ENCODERS, setting.dtype, lambda batch: _padded(model, batch, setting.target))


@dataclass(frozen=True)
class CudaPeer:
    """An engine that is measured only if it is asked for, and the modules and the remedy if one is missing."""

    name: str
    modules: tuple[str, ...]
    remedy: str
    make: Callable[[CudaSetting], Engine]

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
    """Those of these names beside transformers, which is always measured; `all` is all.

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
    works: Sequence[str] = (),
    peers: Sequence[str] = (),
    published_documents: int | None = None,
    *,
    profiled: bool = False,
    on_result: Callable[[CudaReport], None] = lambda report: None,
) -> CudaReport:
    """Measure a preset with random weights, or a model folder. `on_result` is given the report after each workload.

    Raises:
        ConfigError: an option has no such value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen_peers = choose_cuda_peers(peers)
    known: tuple[Work, ...] = DRY_WORKLOADS if target.dry else WORKLOADS
    if published_documents is not None:
        known += published(published_documents)
    chosen = choose(known, works)
    encoder = make_model(Encoder, model, target.device)
    setting = CudaSetting(encoder, precision, target)
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
        ceilings=measure_ceilings(encoder.config, max(work.tokens for work in chosen), target),
        profiles={},
    )
    with torch.inference_mode():
        for work in chosen:
            free_memory(target)
            result, profile = _measure(encoder.config, reference, engines, others, work, rounds, target, profiled)
            profiles = report.profiles if profile is None else report.profiles | {work.name: profile}
            report = replace(report, results=(*report.results, result), profiles=profiles)
            on_result(report)
    return report


def bench_cuda_scaling(
    model: str, dtype: str, rounds: int, target: Target, lengths: Sequence[int] = ()
) -> ScalingReport:
    """Encode one sequence at a time beside transformers, for each length. `threads` of a point are those of the host.

    Raises:
        ConfigError: an option has no such value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    if min(lengths, default=1) < 1:
        raise ConfigError("A sequence needs a token; give lengths of 1 or more.")
    encoder = make_model(Encoder, model, target.device)
    setting = CudaSetting(encoder, precision, target)
    reference = sdpa_engine(setting, "fp32")
    engines = [our_engine(setting), sdpa_engine(setting, precision)]
    points: list[Point] = []
    with torch.inference_mode():
        for length in dict.fromkeys(lengths or SCALING_LENGTHS):
            work = Work(
                f"{length:,} tokens", (length,), repeats=None if target.dry else max(1, min(16, 8192 // length))
            )
            result, _ = _measure(encoder.config, reference, engines, [], work, rounds, target, profiled=False)
            points += [_point(entry, length) for entry in result.entries]
    return ScalingReport(
        describe(model, encoder.config), precision, rounds, cuda_machine(target, ("transformers",)), tuple(points)
    )


def _point(entry: Entry, length: int) -> Point:
    speed = entry.tokens_per_second
    cost = Cost(1e6 / speed.median, 1e6 / speed.fastest, 1e6 / speed.slowest) if speed else None
    return Point(entry.contestant, torch.get_num_threads(), length, entry.error, cost)


def _make_peers(peers: Sequence[CudaPeer], setting: CudaSetting) -> tuple[list[Engine], dict[str, str]]:
    made, missing = [], {}
    for peer in peers:
        if reason := peer.unsupported_reason:
            missing[peer.name] = reason
            continue
        logger.info("making %s ready", peer.name)
        try:
            made.append(peer.make(setting))
        except Exception as error:  # foreign code, which fails in its own ways: the others are measured all the same
            missing[peer.name] = f"failed: {first_line(error)}"
    return made, missing


def _measure(
    config: EncoderConfig,
    reference: Engine,
    engines: Sequence[Engine],
    others: Sequence[Engine],
    work: Work,
    rounds: int,
    target: Target,
    profiled: bool,
) -> tuple[Result, Profile | None]:
    """One workload. Another engine's failure is its result; ours or that of transformers too, as memory may run out."""
    logger.info("%s: %s tokens", work.name, f"{work.tokens:,}")
    batches = work.batches(config.vocab_size, at_once=_BATCH_TOKENS)
    first = _first_documents(batches[0])
    expected = reference.prepare(first)().float()[first.real.to(target.device)]
    entries, ready, single = [], {}, {}
    for engine in (*engines, *others):
        try:
            runs = [engine.prepare(batch) for batch in batches]
            entry = _compare(engine, runs, batches[0], expected, len(first.lengths), target)
            ready[engine.name] = _round_of(runs, work, target)
            single[engine.name] = _round_of(runs, replace(work, repeats=1), target)
        except Exception as error:
            if engine in engines and not isinstance(error, torch.OutOfMemoryError):
                raise
            entry = Entry(engine.name, engine.dtype, error=None, failure=first_line(error))
            free_memory(target)
        entries.append(entry)
    del expected
    agreed = agreeing({entry.contestant: entry.error for entry in entries})
    timed = {name: run for name, run in ready.items() if name in agreed}
    entries = [replace(entry, peak_bytes=entry.peak_bytes if entry.contestant in agreed else None) for entry in entries]
    dtype = torch.bfloat16 if engines[0].dtype == "bf16" else torch.float32
    products, flops = model_products(config, min(work.tokens, _BATCH_TOKENS), dtype, target)
    for run in (*timed.values(), products):
        run()
    seconds = alternate(timed | {MATRICES: products}, rounds, work.name, target.wait)
    result = make_result(work, encoder_flops(config, work.lengths), tuple(entries), seconds, flops)
    profile = profile_passes(single[OURS], target.device) if profiled and OURS in timed else None
    return result, profile


def _compare(
    engine: Engine,
    runs: Sequence[Callable[[], Tensor]],
    batch: PaddedBatch,
    expected: Tensor,
    documents: int,
    target: Target,
) -> Entry:
    """The first batch as it will be timed: its first documents against what was expected, and its peak of memory."""
    held: list[Tensor] = []

    def first_calls() -> None:  # two: the first one compiles, and may capture a graph for the second
        held[:] = [runs[0]()]
        held[:] = [runs[0]()]

    peak = device_peak(first_calls, target)
    lengths = batch.lengths[:documents]
    [output] = held
    if not engine.packed:
        output = output[:documents][batch.real[:documents].to(output.device)]
    rows = output[: sum(lengths)].float()
    pairs = zip(rows.split(lengths), expected.split(lengths), strict=True)
    errors = [relative_error(actual, wanted) for actual, wanted in pairs]
    if not bool(torch.isfinite(rows).all()):
        return Entry(engine.name, engine.dtype, error=None, failure="its output is not finite")
    return Entry(engine.name, engine.dtype, error=max(errors), peak_bytes=peak)


def _first_documents(batch: PaddedBatch) -> PaddedBatch:
    """So many that they have `_COMPARED_TOKENS` at most, or one."""
    total, count = 0, 0
    for length in batch.lengths:
        if count and total + length > _COMPARED_TOKENS:
            break
        total, count = total + length, count + 1
    lengths = batch.lengths[:count]
    return PaddedBatch(lengths, batch.ids[:count, : max(lengths)], alone=True)


def _round_of(runs: Sequence[Callable[[], Tensor]], work: Work, target: Target) -> Callable[[], None]:
    """All batches of a workload, one after the other, `passes` times. A single text is waited for each time."""
    alone = len(work.lengths) == 1

    def run() -> None:
        for _ in range(work.passes):
            for encode in runs:
                encode()
            if alone:
                target.wait()

    return run


def _transformers_on_device(setting: CudaSetting, dtype: Precision) -> Any:
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
