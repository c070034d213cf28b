"""If one process of a run fails, the others end with its error message instead of waiting for it."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import distributed
from torch.distributed.distributed_c10d import Store

from modernbert.errors import ModernBertError, ProcessError

_KEY = "failure"
_POLL_SECONDS = 0.25
_GRACE_SECONDS = 5.0  # for the process to end by itself and clean up
_READING_SECONDS = 5.0  # for the others to read the message, before the process that may hold the store ends
# Messages of NCCL about another process. Its other errors are about this one: memory, driver, versions.
_REMOTE = re.compile(
    r"ncclRemoteError|remote process exited|[Cc]onnection (closed|reset)|collective operation timeout"
    r"|ommunicator was aborted"
)
_GLOO = re.compile(r"Connection (closed|reset) by peer|gloo/transport/")


class Peers:
    """Reports failures between the processes of a run, through their common store."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._known: str | None = None  # the failure, once it was read

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """In the block, a failure of this process is reported to the others, and theirs end this one within seconds.

        Raises:
            ProcessError: another process failed (with its message) or disappeared.
        """
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), name="peers", daemon=True)
        watcher.start()
        try:
            yield
        except RuntimeError as error:
            if not lost_a_peer(error):
                self._report(error)
                raise
            raise ProcessError(self._message(self._failure(), error)) from None
        except BaseException as error:
            if not isinstance(error, ProcessError | GeneratorExit):
                self._report(error)
            raise
        finally:
            over.set()

    def _report(self, error: BaseException) -> None:
        message = str(error) if isinstance(error, ModernBertError) else f"{type(error).__name__}: {error}".rstrip(": ")
        try:
            if not self._store.check([_KEY]):
                self._store.set(_KEY, f"{self._rank} {message}")
                self._wait_for_readers()
        except RuntimeError:  # the store ended with its process, which failed first
            return

    def _wait_for_readers(self) -> None:
        others = [_seen(rank) for rank in range(self._size) if rank != self._rank]
        deadline = time.monotonic() + _READING_SECONDS
        while not self._store.check(others) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _failure(self) -> str | None:
        """The rank and the message of the process that failed first; confirms to it that they were read."""
        with suppress(RuntimeError):  # the store ended with its process
            if self._known is None and self._store.check([_KEY]):
                self._known = self._store.get(_KEY).decode(errors="replace")
                self._store.set(_seen(self._rank), "")
        return self._known

    def _message(self, failure: str | None, error: Exception | None = None) -> str:
        remedy = (
            "give the same command again, which resumes from the newest checkpoint; torchrun --max-restarts does this."
        )
        if failure is None:
            reason = f" ({str(error).splitlines()[0]})" if str(error or "") else ""
            return f"Process {self._rank} of {self._size} stops because another one has ended{reason}; {remedy}"
        rank, _, message = failure.partition(" ")
        return f"Process {self._rank} of {self._size} stops because process {rank} has failed: {message}"

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_POLL_SECONDS):
            failure = self._failure()
            if failure is None or failure.startswith(f"{self._rank} "):
                continue
            if over.wait(_GRACE_SECONDS):
                return
            sys.stderr.write(f"modernbert: {self._message(failure)}\n")  # a collective cannot be interrupted
            sys.stderr.flush()
            os._exit(2)


def _seen(rank: int) -> str:
    return f"{_KEY}/seen/{rank}"


def lost_a_peer(error: RuntimeError) -> bool:
    """Whether an error means that another process has ended, and not that this one is at fault."""
    if isinstance(error, distributed.DistNetworkError | distributed.DistStoreError):
        return True
    pattern = _REMOTE if isinstance(error, distributed.DistBackendError) else _GLOO
    return bool(pattern.search(str(error)) or _GLOO.search(str(error)))
