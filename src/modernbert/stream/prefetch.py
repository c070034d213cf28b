"""Compute the next items of an iterable in a thread, while the current one is in use."""

import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """The items of an iterable in order, at most `ahead` of them computed in advance.

    The thread runs inside the `with` block. No other thread uses the iterable, so it need not be thread-safe.
    `next` raises an error of the iterable unchanged, after the items before it.
    """

    def __init__(self, items: Iterable[Item], ahead: int) -> None:
        self._ready: deque[Item] = deque()
        self._ahead = ahead
        self._changed = threading.Condition()
        self._exhausted = False  # the iterable has no further item
        self._closed = False  # the block has ended
        self._error: BaseException | None = None
        # A daemon, so that a process can end inside the block.
        self._thread = threading.Thread(target=self._make, args=(items,), name="prefetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._exhausted)
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def _make(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < self._ahead)
                    if self._closed:
                        return
                    self._ready.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # raised again in __next__
            self._error = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()
