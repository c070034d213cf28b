"""Encoder inference compared with other engines: same weights and documents, engines take turns in one process."""

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import Engine, Peer, Setting, baseline, choose_peers, our_engines
from modernbert.bench.remaining import RemainingTime, probe
from modernbert.bench.report import Entry, Report, Result, agreeing, log_result, make_result
from modernbert.bench.roofline import MATRICES, encoder_flops, matrix_products
from modernbert.bench.timing import alternate, check_rounds, machine, peak_memory, relative_error, use_threads
from modernbert.bench.workloads import PaddedBatch, Workload, choose, published, ragged
from modernbert.model import Encoder, EncoderConfig

logger = logging.getLogger(__name__)

WORKLOADS = (
    Workload("8 x 512", (512,) * 8),
    Workload("16 documents, mean 267, longest 512", ragged(16, 267, 512)),
    Workload("1 x 8192", (8192,)),
    Workload("1 x 128", (128,)),
    Workload("1 x 16", (16,)),
)


EXTRA_PASSES = 2  # comparison and warm-up, in addition to the rounds
_PROBE_TOKENS = 128


def bench_inference(
    model: str,
    dtype: str,
    threads: int | None,
    rounds: int,
    workloads: Sequence[str] = (),
    peers: Sequence[str] = (),
    published_documents: int | None = None,
    on_result: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Compare a preset with random weights, or a model folder, with transformers and the named peers.

    With `published_documents`, the first documents of each of the paper's four sets are workloads too. On each
    workload, the outputs of the first batch are compared with those of transformers in fp32; an engine with a too large
    error is not timed. `on_result` receives the report after each workload.

    Raises:
        ConfigError: an option has an invalid value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen_peers = choose_peers(peers)
    known = WORKLOADS + (published(published_documents) if published_documents is not None else ())
    chosen = choose(known, workloads)
    threads = use_threads(threads)
    encoder = make_model(Encoder, model)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        setting = Setting(encoder, precision, threads, Path(scratch))
        reference = baseline(setting, "fp32")
        engines = [*our_engines(setting), baseline(setting, precision)]
        others, missing = _make_peers(chosen_peers, setting)
        packages = ("transformers", *(peer.package for peer in chosen_peers if peer.name not in missing))
        report = Report(
            benchmark="inference",
            model=describe(model, encoder.config),
            dtype=precision,
            threads=threads,
            rounds=rounds,
            machine=machine(packages),
            missing=missing,
            results=(),
        )
        with torch.inference_mode():
            passes = (len(engines) + len(others)) * (rounds + EXTRA_PASSES)
            remaining = RemainingTime(
                {one.name: passes * one.passes * encoder_flops(encoder.config, one.lengths) for one in chosen},
                probe_engine(engines[-1], encoder.config),
            )
            for workload in chosen:
                result = _measure(encoder, reference, engines, others, workload, rounds)
                log_result(result)
                remaining.finish(workload.name)
                report = replace(report, results=(*report.results, result))
                on_result(report)
    return report


def probe_engine(engine: Engine, config: EncoderConfig) -> float:
    """Operations per second of an engine on one short document."""
    workload = Workload("probe", (_PROBE_TOKENS,))
    [batch] = workload.batches(config.vocab_size)
    return probe(engine.prepare(batch), encoder_flops(config, workload.lengths))


def _make_peers(peers: Sequence[Peer], setting: Setting) -> tuple[list[Engine], dict[str, str]]:
    made, missing = [], {}
    for peer in peers:
        if peer.unsupported_reason:
            missing[peer.name] = peer.unsupported_reason
            continue
        logger.info("preparing %s", peer.name)
        try:
            made.append(peer.make(setting))
        except Exception as error:  # other packages may raise anything; the remaining engines are still measured
            missing[peer.name] = f"failed: {first_line(error)}"
    return made, missing


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def _measure(
    encoder: Encoder,
    reference: Engine,
    engines: Sequence[Engine],
    others: Sequence[Engine],
    workload: Workload,
    rounds: int,
) -> Result:
    """Measure one workload. An error of a peer is recorded in the report; other errors are raised."""
    logger.info("%s: %s tokens", workload.name, f"{workload.tokens:,}")
    batches = workload.batches(encoder.config.vocab_size)
    expected = reference.prepare(batches[0])()[batches[0].real]
    entries = [compare_outputs(engine, batches[0], expected) for engine in engines]
    for engine in others:
        try:
            entries.append(compare_outputs(engine, batches[0], expected))
        except Exception as error:  # as above
            entries.append(Entry(engine.name, engine.computes, error=None, failure=first_line(error)))
    agreed = agreeing({entry.engine: entry.error for entry in entries})
    timed = [engine for engine in (*engines, *others) if engine.name in agreed]
    runs = {engine.name: round_of(engine, batches, workload.passes) for engine in timed}
    peaks = {engine.name: _warm_up(runs[engine.name], engine) for engine in timed}
    entries = [replace(entry, peak_bytes=peaks.get(entry.engine)) for entry in entries]
    products = matrix_products(torch.bfloat16 if engines[0].computes == "bf16" else torch.float32)
    products()
    seconds = alternate(runs | {MATRICES: products}, rounds, workload.name)
    return make_result(workload, encoder_flops(encoder.config, workload.lengths), tuple(entries), seconds)


def compare_outputs(engine: Engine, batch: PaddedBatch, expected: Tensor) -> Entry:
    """The entry of an engine with the largest error of a document: one wrong document is not averaged away."""
    output = engine.prepare(batch)()
    documents = expected.split(batch.lengths)
    if engine.means:
        pairs = [(mean, rows.mean(0)) for mean, rows in zip(output, documents, strict=True)]
    else:
        pairs = list(zip(output[batch.real].split(batch.lengths), documents, strict=True))
    errors = [relative_error(actual, expected_tensor) for actual, expected_tensor in pairs]
    if not all(map(math.isfinite, errors)):
        return Entry(engine.name, engine.computes, error=None, failure="its output is not finite")
    return Entry(engine.name, engine.computes, error=max(errors))


def round_of(engine: Engine, batches: Sequence[PaddedBatch], times: int) -> Callable[[], None]:
    """The function that is timed: it encodes all batches, one after the other, `times` times."""
    ready = [engine.prepare(batch) for batch in batches] * times

    def run() -> None:
        for encode in ready:
            encode()

    return run


def _warm_up(run: Callable[[], None], engine: Engine) -> int | None:
    """Run a round without timing it; returns its peak memory."""
    if engine.keeps_memory:
        run()
        return None
    engine.release_memory()
    return peak_memory(run)
