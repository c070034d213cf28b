"""Load test of servers over loopback: throughput, latency, errors and memory at increasing request rates.

The load is open-loop: requests are sent at random times that are fixed in advance, without waiting for responses.
Latency counts from the scheduled time of a request, so that a slow server cannot improve its latency by slowing down
the client.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from modernbert.bench.loopback import Answers, Body, closed_loop, is_up, open_loop
from modernbert.bench.remaining import log_remaining
from modernbert.bench.timing import machine
from modernbert.errors import BackendError, DataError
from modernbert.model.folder import find_folder, read_config
from modernbert.text.documents import read_texts
from modernbert.text.framing import encode_texts
from modernbert.text.tokenizer import load_tokenizer

OURS, BASELINE = "modernbert serve", "sentence-transformers behind FastAPI"
SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)  # request rates, as shares of the saturation of each server
ServedPrecision = Literal["", "float32", "bfloat16", "int8"]  # as in the file, or another one
_OPTIONS: dict[ServedPrecision, str] = {
    "": "", "float32": " --dtype float32", "bfloat16": " --dtype bfloat16", "int8": " --dtype float32 --int8"
}  # fmt: skip
CONCURRENCY = 48  # clients of the closed loop that finds the saturation
_START_SECONDS = 180
_WARM_UP_REQUESTS = 8  # warm-up requests


@dataclass(frozen=True)
class Load:
    """The result of one request rate. `requests_per_second` counts sent requests; tokens are those of responses."""

    share: float | None  # of the saturation; None for the closed loop
    requests_per_second: float
    sent: int
    answered: int
    errors: int  # rejected or failed
    tokens_per_second: float
    tokens_per_cpu_second: float  # of the server's processes; comparable even if other programs use the machine
    p50_ms: float
    p95_ms: float
    p99_ms: float
    peak_mebibytes: float


@dataclass(frozen=True)
class ServerResult:
    """One server at saturation, at shares of it, and at half the saturation of the slowest server."""

    server: str
    command: str
    idle_mebibytes: float
    saturation: Load
    loads: tuple[Load, ...]
    same_rate: Load | None


@dataclass(frozen=True)
class ServingReport:
    """The results of all servers on one machine."""

    model: str
    texts: int
    tokens_of_texts: tuple[int, int, int]  # shortest, median, longest
    threads: int
    seconds: float
    machine: dict[str, str]
    servers: tuple[ServerResult, ...]
    missing: dict[str, str]  # servers that could not be measured, with the reason


@dataclass(frozen=True)
class SoakReport:
    """A server at saturation for a longer time: lost requests, and the growth of its memory."""

    server: str
    seconds: float
    sent: int
    answered: int
    errors: int
    lost: int  # neither answered nor rejected
    tokens_per_second: float
    first_mebibytes: float
    last_mebibytes: float
    mebibytes_per_minute: float  # slope of a least-squares line through the last three quarters


def texts_for(model: str, files: Sequence[str], count: int, max_length: int | None) -> tuple[list[str], list[int]]:
    """Paragraphs of files, and the number of tokens of each after truncation.

    Raises:
        DataError: the files have no text.
    """
    tokenizer = load_tokenizer(model)
    paragraphs: list[str] = []
    for text in read_texts(files):
        paragraphs += [part for part in text.split("\n") if len(part) >= 20]
        if len(paragraphs) >= count:
            break
    if not paragraphs:
        raise DataError("There is no text of at least 20 characters in these files.")
    limit = max_length or read_config(find_folder(model)).max_position_embeddings
    ids = encode_texts(tokenizer, paragraphs[:count], max_length=limit).ids
    return paragraphs[:count], [len(one) for one in ids]


def our_command(model: str, precision: ServedPrecision = "") -> str:
    """The command of `modernbert serve` with limits for a load test; {port} is a placeholder."""
    options = "--max-concurrent-requests 100000 --max-queue-tokens 100000000" + _OPTIONS[precision]
    return f"{shlex.quote(sys.executable)} -m modernbert serve {shlex.quote(model)} --port {{port}} {options}"


def baseline_command(model: str) -> str:
    """The command of a minimal server: a FastAPI route that calls SentenceTransformer.encode."""
    return f"{shlex.quote(sys.executable)} -m modernbert.bench.serving_baseline {shlex.quote(model)} {{port}}"


def bench_serving(
    model: str,
    files: Sequence[str],
    commands: dict[str, str],
    *,
    seconds: float = 10.0,
    threads: int = 1,
    count: int = 2000,
    max_length: int | None = None,
    shares: Sequence[float] = SHARES,
) -> ServingReport:
    """Load one server after the other with the same texts, one text per request.

    Raises:
        BackendError: a server does not start.
        DataError: the files have no text.
    """
    texts, lengths = texts_for(model, files, count, max_length)
    log_remaining(len(commands) * seconds * (1 + len(shares) + (len(commands) > 1)))
    bodies = [Body(json.dumps({"input": text}).encode(), tokens) for text, tokens in zip(texts, lengths, strict=True)]
    results: list[ServerResult] = []
    missing: dict[str, str] = {}
    for name, command in commands.items():
        try:
            results.append(_measure_server(name, command, bodies, seconds, threads, shares))
        except BackendError as error:
            if not results:  # without the first server there is nothing to compare
                raise
            missing[name] = str(error)
    slowest = min(result.saturation.requests_per_second for result in results)
    if len(results) > 1:
        for index, result in enumerate(results):
            with _started(result.command, threads) as (port, process):
                asyncio.run(open_loop(port, bodies, [0.0] * _WARM_UP_REQUESTS))
                load = asyncio.run(_measure_rate(port, bodies, slowest / 2, seconds, process.pid, None))
            results[index] = ServerResult(
                result.server, result.command, result.idle_mebibytes, result.saturation, result.loads, load
            )
    sizes = sorted(lengths)
    spread = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    return ServingReport(model, len(texts), spread, threads, seconds, machine(()), tuple(results), missing)


def _measure_server(
    name: str, command: str, bodies: Sequence[Body], seconds: float, threads: int, shares: Sequence[float]
) -> ServerResult:
    """Measure one server at saturation and at shares of it.

    Raises:
        BackendError: it does not start, or does not answer.
    """
    with _started(command, threads) as (port, process):
        idle = _mebibytes(process.pid)
        asyncio.run(open_loop(port, bodies, [0.0] * _WARM_UP_REQUESTS))
        top = asyncio.run(_measure_saturation(port, bodies, seconds, process.pid))
        rate = top.answered / seconds
        if not rate:
            raise BackendError(f"{name} answered no request in {seconds:g} s; give more --seconds.")
        loads = tuple(
            asyncio.run(_measure_rate(port, bodies, rate * share, seconds, process.pid, share)) for share in shares
        )
    return ServerResult(name, command, idle, top, loads, None)


def soak(
    model: str, files: Sequence[str], name: str, command: str, *, seconds: float = 600.0, threads: int = 1
) -> SoakReport:
    """Keep one server at saturation, and record its memory.

    Raises:
        BackendError: the server does not start.
        DataError: the files have no text.
    """
    texts, lengths = texts_for(model, files, 2000, None)
    bodies = [Body(json.dumps({"input": text}).encode(), tokens) for text, tokens in zip(texts, lengths, strict=True)]
    with _started(command, threads) as (port, process):
        watch = _Memory(process.pid, every=min(1.0, seconds / 20))

        async def run() -> Answers:
            watching = asyncio.ensure_future(watch.run())
            answers = await closed_loop(port, bodies, CONCURRENCY, seconds)
            watching.cancel()
            return answers

        answers = asyncio.run(run())
    at, used = np.array(watch.at), np.array(watch.mebibytes)
    late = at >= at[0] + (at[-1] - at[0]) / 4
    slope = float(np.polyfit(at[late], used[late], 1)[0]) * 60
    return SoakReport(
        name,
        seconds,
        answers.sent,
        len(answers.seconds),
        answers.errors,
        answers.sent - len(answers.seconds) - answers.errors,
        answers.tokens / seconds,
        float(used[late][0]),
        float(used[-1]),
        slope,
    )


async def _measure_saturation(port: int, bodies: Sequence[Body], seconds: float, pid: int) -> Load:
    watch = _Memory(pid)
    watching = asyncio.ensure_future(watch.run())
    answers = await closed_loop(port, bodies, CONCURRENCY, seconds)
    watching.cancel()
    return _load(answers, None, len(answers.seconds) / seconds, seconds, watch)


async def _measure_rate(
    port: int, bodies: Sequence[Body], rate: float, seconds: float, pid: int, share: float | None
) -> Load:
    count = max(20, round(rate * seconds))
    gaps = np.random.Generator(np.random.PCG64(0)).exponential(1 / rate, count)
    watch = _Memory(pid)
    watching = asyncio.ensure_future(watch.run())
    answers = await open_loop(port, bodies, np.cumsum(gaps).tolist())
    watching.cancel()
    return _load(answers, share, rate, answers.took, watch)


def _load(answers: Answers, share: float | None, rate: float, seconds: float, watch: "_Memory") -> Load:
    p50, p95, p99 = np.percentile(answers.seconds or [np.nan], (50, 95, 99)) * 1000
    return Load(
        share,
        rate,
        answers.sent,
        len(answers.seconds),
        answers.errors,
        answers.tokens / seconds,
        answers.tokens / max(1e-9, _cpu_seconds(watch.pid) - watch.cpu_seconds),
        float(p50),
        float(p95),
        float(p99),
        max(watch.mebibytes, default=0.0),
    )


class _Memory:
    """Samples the resident memory of a process and its children."""

    def __init__(self, pid: int, every: float = 0.2) -> None:
        self.pid, self.every = pid, every
        self.cpu_seconds = _cpu_seconds(pid)
        self.at: list[float] = []
        self.mebibytes: list[float] = []

    async def run(self) -> None:
        while True:
            self.at.append(time.monotonic())
            self.mebibytes.append(_mebibytes(self.pid))
            await asyncio.sleep(self.every)


def _mebibytes(pid: int) -> float:
    """The resident memory of a process and its children; 0 without /proc."""
    total = 0.0
    for one in (pid, *_children(pid)):
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{one}/status").read_text(encoding="ascii")
            total += int(status.split("VmRSS:")[1].split()[0]) / 1024
    return total


def _cpu_seconds(pid: int) -> float:
    """The CPU time of a process and its children; 0 without /proc."""
    total = 0.0
    for one in (pid, *_children(pid)):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{one}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


@contextlib.contextmanager
def _started(command: str, threads: int) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Start a server on a free port, wait until it answers, and stop it afterwards."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    words = shlex.split(command.replace("{port}", str(port)))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    try:
        end = time.monotonic() + _START_SECONDS
        while not asyncio.run(is_up(port)):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                message = process.communicate()[1].decode(errors="replace").strip().splitlines()[-1:]
                raise BackendError(
                    f"The server does not start ({' '.join(message)}); try its command: {' '.join(words)}"
                )
            time.sleep(0.2)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
