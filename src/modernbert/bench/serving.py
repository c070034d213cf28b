"""A server under load over loopback: throughput, latencies, errors and memory at rising rates.

The load is open-loop: requests are sent at times that were drawn before, whether or not earlier ones were answered, and
a latency counts from the time at which its request was due. So a server that falls behind cannot hide it by slowing
the sender down.
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

from modernbert.bench.loopback import Answers, Body, is_up, keep_asking, send_at
from modernbert.bench.timing import machine
from modernbert.errors import BackendError, DataError
from modernbert.model.folder import find_folder, read_config
from modernbert.text.documents import read_texts
from modernbert.text.framing import encode_texts
from modernbert.text.tokenizer import load_tokenizer

OURS, BASELINE = "modernbert serve", "sentence-transformers behind FastAPI"
SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)  # of a server's own saturation
ServedPrecision = Literal["", "float32", "bfloat16", "int8"]  # as in the file, or another one
_OPTIONS: dict[ServedPrecision, str] = {
    "": "", "float32": " --dtype float32", "bfloat16": " --dtype bfloat16", "int8": " --dtype float32 --int8"
}  # fmt: skip
CONCURRENCY = 48  # clients that ask again as soon as they are answered, to find the saturation
_START_SECONDS = 180
_WARM = 8  # requests that are answered before anything is measured


@dataclass(frozen=True)
class Load:
    """One rate. `requests_per_second` is what was offered; tokens count where they were answered."""

    share: float | None  # of the saturation; None where clients asked again as soon as they were answered
    requests_per_second: float
    sent: int
    answered: int
    errors: int  # refused or failed
    tokens_per_second: float
    tokens_per_cpu_second: float  # of the server's processes; what is left of it where the machine is busy otherwise
    p50_ms: float
    p95_ms: float
    p99_ms: float
    peak_mebibytes: float


@dataclass(frozen=True)
class ServerResult:
    """One server at its saturation, then at shares of it, and at half the saturation of the slowest server."""

    server: str
    command: str
    idle_mebibytes: float
    saturation: Load
    loads: tuple[Load, ...]
    same_rate: Load | None


@dataclass(frozen=True)
class ServingReport:
    model: str
    texts: int
    tokens_of_texts: tuple[int, int, int]  # shortest, median, longest
    threads: int
    seconds: float
    machine: dict[str, str]
    servers: tuple[ServerResult, ...]
    missing: dict[str, str]  # servers that could not be measured, and why


@dataclass(frozen=True)
class SoakReport:
    """A server at its saturation for a while: what was lost, and how its memory went."""

    server: str
    seconds: float
    sent: int
    answered: int
    errors: int
    lost: int  # neither answered nor refused
    tokens_per_second: float
    first_mebibytes: float
    last_mebibytes: float
    mebibytes_per_minute: float  # least squares over the last three quarters


def texts_for(model: str, files: Sequence[str], count: int, max_length: int | None) -> tuple[list[str], list[int]]:
    """Paragraphs of files, and how many tokens a server reads of each.

    Raises:
        DataError: there are none.
    """
    tokenizer = load_tokenizer(model)
    found: list[str] = []
    for text in read_texts(files):
        found += [part for part in text.split("\n") if len(part) >= 20]
        if len(found) >= count:
            break
    if not found:
        raise DataError("There is no text of at least 20 characters in these files.")
    most = max_length or read_config(find_folder(model)).max_position_embeddings
    ids = encode_texts(tokenizer, found[:count], max_length=most).ids
    return found[:count], [len(one) for one in ids]


def our_command(model: str, precision: ServedPrecision = "") -> str:
    """`modernbert serve` with the limits of a load test; {port} is filled in."""
    options = "--max-concurrent-requests 100000 --max-queue-tokens 100000000" + _OPTIONS[precision]
    return f"{shlex.quote(sys.executable)} -m modernbert serve {shlex.quote(model)} --port {{port}} {options}"


def baseline_command(model: str) -> str:
    """What a person writes in an afternoon: SentenceTransformer.encode behind a route of FastAPI."""
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
    """Load each server in turn, alone on the machine, with the same texts, one to a request.

    Raises:
        BackendError: a server does not start.
        DataError: there are no texts.
    """
    texts, lengths = texts_for(model, files, count, max_length)
    bodies = [Body(json.dumps({"input": text}).encode(), tokens) for text, tokens in zip(texts, lengths, strict=True)]
    results: list[ServerResult] = []
    missing: dict[str, str] = {}
    for name, command in commands.items():
        try:
            results.append(_measured(name, command, bodies, seconds, threads, shares))
        except BackendError as error:
            if not results:  # without ours there is nothing to compare
                raise
            missing[name] = str(error)
    slowest = min(result.saturation.requests_per_second for result in results)
    if len(results) > 1:
        for index, result in enumerate(results):
            with _started(result.command, threads) as (port, process):
                asyncio.run(send_at(port, bodies, [0.0] * _WARM))
                load = asyncio.run(_offer(port, bodies, slowest / 2, seconds, process.pid, None))
            results[index] = ServerResult(
                result.server, result.command, result.idle_mebibytes, result.saturation, result.loads, load
            )
    sizes = sorted(lengths)
    spread = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    return ServingReport(model, len(texts), spread, threads, seconds, machine(()), tuple(results), missing)


def _measured(
    name: str, command: str, bodies: Sequence[Body], seconds: float, threads: int, shares: Sequence[float]
) -> ServerResult:
    """A server at its saturation and at shares of it.

    Raises:
        BackendError: it does not start, or answers nothing.
    """
    with _started(command, threads) as (port, process):
        idle = _mebibytes(process.pid)
        asyncio.run(send_at(port, bodies, [0.0] * _WARM))
        top = asyncio.run(_saturate(port, bodies, seconds, process.pid))
        rate = top.answered / seconds
        if not rate:
            raise BackendError(f"{name} answered nothing in {seconds:g} s; give it more --seconds.")
        loads = tuple(asyncio.run(_offer(port, bodies, rate * share, seconds, process.pid, share)) for share in shares)
    return ServerResult(name, command, idle, top, loads, None)


def soak(
    model: str, files: Sequence[str], name: str, command: str, *, seconds: float = 600.0, threads: int = 1
) -> SoakReport:
    """Keep one server at its saturation, and watch its memory.

    Raises:
        BackendError: the server does not start.
        DataError: there are no texts.
    """
    texts, lengths = texts_for(model, files, 2000, None)
    bodies = [Body(json.dumps({"input": text}).encode(), tokens) for text, tokens in zip(texts, lengths, strict=True)]
    with _started(command, threads) as (port, process):
        watch = _Memory(process.pid, every=min(1.0, seconds / 20))

        async def run() -> Answers:
            watching = asyncio.ensure_future(watch.run())
            answers = await keep_asking(port, bodies, CONCURRENCY, seconds)
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


async def _saturate(port: int, bodies: Sequence[Body], seconds: float, pid: int) -> Load:
    watch = _Memory(pid)
    watching = asyncio.ensure_future(watch.run())
    answers = await keep_asking(port, bodies, CONCURRENCY, seconds)
    watching.cancel()
    return _load(answers, None, len(answers.seconds) / seconds, seconds, watch)


async def _offer(port: int, bodies: Sequence[Body], rate: float, seconds: float, pid: int, share: float | None) -> Load:
    count = max(20, round(rate * seconds))
    gaps = np.random.Generator(np.random.PCG64(0)).exponential(1 / rate, count)
    watch = _Memory(pid)
    watching = asyncio.ensure_future(watch.run())
    answers = await send_at(port, bodies, np.cumsum(gaps).tolist())
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
    """Samples what a process and its children hold of memory."""

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
    """The resident memory of a process and its children, where the system tells."""
    total = 0.0
    for one in (pid, *_children(pid)):
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{one}/status").read_text(encoding="ascii")
            total += int(status.split("VmRSS:")[1].split()[0]) / 1024
    return total


def _cpu_seconds(pid: int) -> float:
    """What a process and its children have computed so far, where the system tells."""
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
    """A server that answers on a free port, and is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = shlex.split(command.replace("{port}", str(port)))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    try:
        end = time.monotonic() + _START_SECONDS
        while not asyncio.run(is_up(port)):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                said = process.communicate()[1].decode(errors="replace").strip().splitlines()[-1:]
                raise BackendError(f"The server does not start ({' '.join(said)}); try its command: {' '.join(words)}")
            time.sleep(0.2)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
