"""One process of several that fails says why, and the others end with its sentence instead of waiting for it."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed
from torch.distributed.distributed_c10d import Store

from modernbert.errors import ModernBertError, ProcessError

_KEY = "failure"
_POLL_SECONDS = 0.25
_GRACE_SECONDS = 5.0  # in which a process that is told may end by itself, with everything tidied up
# What NCCL says when another process is at fault. Its other errors are of this process: memory, driver, versions.
_REMOTE = re.compile(
    r"ncclRemoteError|remote process exited|[Cc]onnection (closed|reset)|collective operation timeout"
    r"|ommunicator was aborted"
)
_GLOO = re.compile(r"Connection (closed|reset) by peer|gloo/transport/")


class Peers:
    """What the processes of a run tell each other of failures, through the store that they met in."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store = store
        self._rank = rank
        self._size = size

    @contextmanager
    def told(self) -> Iterator[None]:
        """While entered, a failure here is told to the others, and one elsewhere ends this process within seconds.

        Raises:
            ProcessError: another process failed, with its sentence, or ended without one.
        """
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), name="peers", daemon=True)
        watcher.start()
        try:
            yield
        except RuntimeError as error:
            if not lost_a_peer(error):
                self._tell(error)
                raise
            raise ProcessError(self._sentence(self._failure(), error)) from None
        except BaseException as error:
            if not isinstance(error, ProcessError | GeneratorExit):
                self._tell(error)
            raise
        finally:
            over.set()

    def _tell(self, error: BaseException) -> None:
        said = str(error) if isinstance(error, ModernBertError) else f"{type(error).__name__}: {error}".rstrip(": ")
        try:
            if not self._store.check([_KEY]):
                self._store.set(_KEY, f"{self._rank} {said}")
                time.sleep(4 * _POLL_SECONDS)  # the store may be in this process: the others read it first
        except RuntimeError:  # it is gone with the process that held it, which has failed first
            return

    def _failure(self) -> str | None:
        """The number and the sentence of the process that failed first."""
        try:
            return self._store.get(_KEY).decode(errors="replace") if self._store.check([_KEY]) else None
        except RuntimeError:
            return None

    def _sentence(self, failure: str | None, error: Exception | None = None) -> str:
        again = (
            "give the same command again, which goes on from the newest checkpoint; torchrun --max-restarts does so."
        )
        if failure is None:
            reason = f" ({str(error).splitlines()[0]})" if str(error or "") else ""
            return f"Process {self._rank} of {self._size} stops because another one has ended{reason}; {again}"
        rank, _, said = failure.partition(" ")
        return f"Process {self._rank} of {self._size} stops because process {rank} has failed: {said}"

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_POLL_SECONDS):
            failure = self._failure()
            if failure is None or failure.startswith(f"{self._rank} "):
                continue
            if over.wait(_GRACE_SECONDS):
                return
            sys.stderr.write(f"modernbert: {self._sentence(failure)}\n")  # a collective cannot be interrupted
            sys.stderr.flush()
            os._exit(2)


def lost_a_peer(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone, and not that this one is at fault."""
    if isinstance(error, distributed.DistNetworkError | distributed.DistStoreError):
        return True
    pattern = _REMOTE if isinstance(error, distributed.DistBackendError) else _GLOO
    return bool(pattern.search(str(error)) or _GLOO.search(str(error)))
