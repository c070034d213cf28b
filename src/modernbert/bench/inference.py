"""Encoder inference beside others: same weights, same documents, one process, alternating."""

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from modernbert.bench.floor import MATRICES, encoder_flops, matrix_products
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import Contestant, Peer, Setting, baseline, choose_peers, our_contestants
from modernbert.bench.report import Entry, Report, Result, agreeing, make_result
from modernbert.bench.timing import alternate, check_rounds, machine, peak_memory, relative_error, use_threads
from modernbert.bench.works import PaddedBatch, Work, choose, published, ragged
from modernbert.model import Encoder

logger = logging.getLogger(__name__)

WORKS = (
    Work("8 x 512", (512,) * 8),
    Work("16 documents, mean 267, longest 512", ragged(16, 267, 512)),
    Work("1 x 8192", (8192,)),
    Work("1 x 128", (128,)),
    Work("1 x 16", (16,)),
)


def bench_inference(
    model: str,
    dtype: str,
    threads: int | None,
    rounds: int,
    works: Sequence[str] = (),
    peers: Sequence[str] = (),
    published_documents: int | None = None,
) -> Report:
    """Measure a preset with random weights, or a model folder, beside transformers and the peers named.

    With `published_documents` the four sets of the paper are works too, so many documents of each. On each work the
    outputs of the first batch are compared with transformers in fp32 before anything is timed, and who disagrees is
    not timed.

    Raises:
        ConfigError: an option has no such value, or transformers is missing.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen_peers = choose_peers(peers)
    known = WORKS + (published(published_documents) if published_documents is not None else ())
    chosen = choose(known, works)
    threads = use_threads(threads)
    encoder = make_model(Encoder, model)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        setting = Setting(encoder, precision, threads, Path(scratch))
        judge = baseline(setting, "fp32")
        contestants = [*our_contestants(setting), baseline(setting, precision)]
        others, missing = _make_peers(chosen_peers, setting)
        packages = ("transformers", *(peer.package for peer in chosen_peers if peer.name not in missing))
        with torch.inference_mode():
            results = tuple(_measure(encoder, judge, contestants, others, work, rounds) for work in chosen)
    return Report(
        benchmark="inference",
        model=describe(model, encoder.config),
        dtype=precision,
        threads=threads,
        rounds=rounds,
        machine=machine(packages),
        missing=missing,
        results=results,
    )


def _make_peers(peers: Sequence[Peer], setting: Setting) -> tuple[list[Contestant], dict[str, str]]:
    made, missing = [], {}
    for peer in peers:
        if peer.lacks:
            missing[peer.name] = peer.lacks
            continue
        logger.info("making %s ready", peer.name)
        try:
            made.append(peer.make(setting))
        except Exception as error:  # foreign code, which fails in its own ways: the others are measured all the same
            missing[peer.name] = f"failed: {first_line(error)}"
    return made, missing


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def _measure(
    encoder: Encoder,
    judge: Contestant,
    contestants: Sequence[Contestant],
    others: Sequence[Contestant],
    work: Work,
    rounds: int,
) -> Result:
    """One work. A failure of our own or of transformers ends the benchmark; one of the others is its result."""
    logger.info("%s: %s tokens", work.name, f"{work.tokens:,}")
    batches = work.batches(encoder.config.vocab_size)
    expected = judge.prepare(batches[0])()[batches[0].real]
    entries = [compare_outputs(contestant, batches[0], expected) for contestant in contestants]
    for contestant in others:
        try:
            entries.append(compare_outputs(contestant, batches[0], expected))
        except Exception as error:  # foreign code, as above
            entries.append(Entry(contestant.name, contestant.computes, error=None, failure=first_line(error)))
    agreed = agreeing({entry.contestant: entry.error for entry in entries})
    timed = [contestant for contestant in (*contestants, *others) if contestant.name in agreed]
    runs = {contestant.name: round_of(contestant, batches, work.passes) for contestant in timed}
    peaks = {contestant.name: _warm_up(runs[contestant.name], contestant) for contestant in timed}
    entries = [replace(entry, peak_bytes=peaks.get(entry.contestant)) for entry in entries]
    products = matrix_products(torch.bfloat16 if contestants[0].computes == "bf16" else torch.float32)
    products()
    seconds = alternate(runs | {MATRICES: products}, rounds, work.name)
    return make_result(work, encoder_flops(encoder.config, work.lengths), tuple(entries), seconds)


def compare_outputs(contestant: Contestant, batch: PaddedBatch, expected: Tensor) -> Entry:
    """How far the worst document is from what was expected: an error in one of many is not averaged away."""
    output = contestant.prepare(batch)()
    documents = expected.split(batch.lengths)
    if contestant.means:
        pairs = [(mean, rows.mean(0)) for mean, rows in zip(output, documents, strict=True)]
    else:
        pairs = list(zip(output[batch.real].split(batch.lengths), documents, strict=True))
    errors = [relative_error(actual, wanted) for actual, wanted in pairs]
    if not all(map(math.isfinite, errors)):
        return Entry(contestant.name, contestant.computes, error=None, failure="its output is not finite")
    return Entry(contestant.name, contestant.computes, error=max(errors))


def round_of(contestant: Contestant, batches: Sequence[PaddedBatch], times: int) -> Callable[[], None]:
    """What is timed: all batches of a work, one after the other, so many times."""
    ready = [contestant.prepare(batch) for batch in batches] * times

    def run() -> None:
        for encode in ready:
            encode()

    return run


def _warm_up(run: Callable[[], None], contestant: Contestant) -> int | None:
    """A round that does not count, but whose memory does."""
    if contestant.keeps_memory:
        run()
        return None
    contestant.release_memory()
    return peak_memory(run)
