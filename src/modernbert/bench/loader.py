"""The data loader alone: packed and masked tokens per second on one core, and memory, on two synthetic corpora."""

import logging
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from modernbert.bench.remaining import log_remaining
from modernbert.bench.timing import process_memory
from modernbert.errors import ConfigError, DataError
from modernbert.progress import Progress
from modernbert.runtime import cpu_name
from modernbert.stream.loader import Loader
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import Vocabulary

logger = logging.getLogger(__name__)

LENGTHS = (1024, 8192)
_VOCABULARY, _ORDINARY = 50_368, 50_280  # all entries, and those that are not special tokens
_MEDIAN, _SIGMA, _LONGEST = 350, 1.1, 65_536  # tokens of a document: lognormal, about 640 on average
_SHARD_TOKENS = 500_000_000
_BATCH_TOKENS = 65_536
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Speed:
    """Tokens per second, including [CLS] and [SEP]: median of the rounds, and their range."""

    median: float
    slowest: float
    fastest: float


@dataclass(frozen=True)
class Result:
    """One corpus read with one maximum length, in a separate process.

    Anonymous memory was allocated by the process. Resident memory also includes pages of mapped files: code and the
    parts of the shards that were read. The system frees these pages when other programs need memory.
    """

    gigabytes: float
    documents: int
    max_length: int
    from_disk: Speed
    from_page_cache: Speed  # the same batches again
    first_batch_seconds: float  # includes opening the shards, splitting, and ordering the epoch
    anonymous_before_bytes: int  # after all imports, before the shards are opened
    anonymous_peak_bytes: int
    resident_peak_bytes: int


@dataclass(frozen=True)
class Report:
    """The results of both corpora on one machine."""

    machine: dict[str, str]
    tokens: int
    rounds: int
    results: tuple[Result, ...]


def bench_loader(gigabytes: float, folder: Path, tokens: int, rounds: int) -> Report:
    """Write a corpus of `gigabytes` and one of a hundredth of that, and read `tokens` of each `rounds` times.

    The shards are uint16 ids in a temporary folder inside `folder`, which is removed at the end.

    Raises:
        ConfigError: a number is too small, or the system is not Linux.
        DataError: `folder` does not exist or has too little space.
    """
    if gigabytes < 0.01 or tokens < 1 or rounds < 1:
        raise ConfigError("Give at least 0.01 gigabytes, 1 token and 1 round.")
    if not _STATUS.exists():
        raise ConfigError("The benchmark reads memory from /proc, which exists only on Linux; run it there.")
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give one with --folder.")
    needed, free = 1.05e9 * gigabytes, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free but {needed / 1e9:.1f} GB are needed; give another --folder, or "
            "fewer --gigabytes."
        )
    results, left = [], 2 * len(LENGTHS)
    with tempfile.TemporaryDirectory(prefix="loader-", dir=folder) as scratch:
        for size in (gigabytes / 100, gigabytes):
            corpus = Path(scratch) / f"{size:g}"
            write_corpus(corpus, size)
            for max_length in LENGTHS:
                logger.info("%g GB in packed sequences of %s tokens", size, f"{max_length:,}")
                # Each in a separate process, since the system records the peak memory of a process.
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    began = time.perf_counter()
                    results.append(process.submit(_measure, corpus, max_length, tokens, rounds).result())
                    left -= 1
                    if left:
                        log_remaining(left * (time.perf_counter() - began))
    versions = {"python": sys.version.partition(" ")[0], "numpy": np.__version__, "torch": torch.__version__}
    return Report({"processor": cpu_name(), "threads": "1", **versions}, tokens, rounds, tuple(results))


def write_corpus(folder: Path, gigabytes: float) -> None:
    """Write shards of random ids in documents about as long as web pages."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    ids = generator.integers(0, _ORDINARY, 1 << 24, dtype=np.uint16)
    left = int(gigabytes * 5e8)
    with Progress(total=2 * left, unit="B", unit_scale=True, desc="writing shards", leave=False) as bar:
        for number in range(-(-left // _SHARD_TOKENS)):
            size = min(left, _SHARD_TOKENS)
            lengths = (
                generator.lognormal(np.log(_MEDIAN), _SIGMA, 1000 + size // 400).clip(1, _LONGEST).astype(np.int64)
            )
            ends = lengths.cumsum()
            ends = ends[: np.searchsorted(ends, size)]
            ends[-1] = size
            ends.astype("<u8").tofile(folder / f"{number:05}.ds.index")
            with (folder / f"{number:05}.ds").open("wb") as file:
                for begin in range(0, size, len(ids)):
                    block = ids[: size - begin]
                    block.astype("<u2").tofile(file)
                    bar.update(block.nbytes)
            left -= size


def _measure(corpus: Path, max_length: int, tokens: int, rounds: int) -> Result:
    torch.set_num_threads(1)
    special = np.zeros(_VOCABULARY, dtype=np.bool_)
    special[_ORDINARY:] = True
    cls_id, sep_id, pad_id, mask_id = range(_ORDINARY, _ORDINARY + 4)
    vocabulary = Vocabulary(
        _VOCABULARY, cls_id, sep_id, pad_id, mask_id, special, byte_lengths=np.ones(_VOCABULARY, dtype=np.int32)
    )
    _evict_pages(corpus)
    before = process_memory("RssAnon")
    with _peak_of("RssAnon") as peak:
        began = time.perf_counter()
        shards = Shards.open(corpus)
        training = shards.split(0.005).train

        def loader() -> Loader:
            return Loader({"all": training}, {"all": 1.0}, vocabulary, max_length=max_length, mask_ratio=0.3, seed=0)

        rows = max(1, _BATCH_TOKENS // max_length)
        from_disk = loader()
        from_disk.next_batch(rows)
        first = time.perf_counter() - began
        cold = _speed(from_disk, rows, tokens, rounds)
        del from_disk
        from_page_cache = loader()
        from_page_cache.next_batch(rows)
        warm = _speed(from_page_cache, rows, tokens, rounds)
    return Result(
        gigabytes=shards.num_tokens * 2 / 1e9,
        documents=shards.num_documents,
        max_length=max_length,
        from_disk=cold,
        from_page_cache=warm,
        first_batch_seconds=first,
        anonymous_before_bytes=before,
        anonymous_peak_bytes=peak[0],
        resident_peak_bytes=process_memory("VmHWM"),
    )


def _speed(loader: Loader, rows: int, tokens: int, rounds: int) -> Speed:
    speeds = []
    for _ in range(rounds):
        count, began = 0, time.perf_counter()
        while count < tokens:
            count += loader.next_batch(rows).input_ids.numel()
        speeds.append(count / (time.perf_counter() - began))
    return Speed(statistics.median(speeds), min(speeds), max(speeds))


def _evict_pages(corpus: Path) -> None:
    """Make the system read the files from the disk again."""
    for path in corpus.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _peak_of(name: str) -> Iterator[list[int]]:
    """The highest value of a line of /proc/self/status during the block, sampled every five milliseconds."""
    found, done = [process_memory(name)], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], process_memory(name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
