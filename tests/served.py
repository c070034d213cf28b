"""Servers inside the test's own process, and an engine without weights for them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from starlette.testclient import TestClient

from modernbert.serve.app import create_app
from modernbert.serve.computing import Server
from modernbert.serve.items import Item
from modernbert.serve.models import Kind, ServedModel
from modernbert.serve.settings import ServeSettings


@contextmanager
def serving(models: list[ServedModel], **settings: Any) -> Iterator[TestClient]:
    """A client of a server of these models, which is started and stopped."""
    server = Server.of(models, ServeSettings(**settings))
    with TestClient(create_app(server)) as client:
        yield client


class Numbering:
    """An embedder without weights: the vector of a text is (its length, 1). It calls `before` before each batch."""

    dimensions = 2

    def __init__(self, before: Callable[[list[Item]], None] = lambda items: None) -> None:
        self.before = before
        self.batches: list[list[int]] = []

    def prompt(self, name: str | None) -> str:
        return ""

    def check_dimensions(self, dimensions: int | None) -> None: ...

    def encode(self, texts, truncate, side, prompt) -> list[Item]:
        return [Item(np.full(max(1, len(text)), len(text), dtype=np.int32)) for text in texts]

    def run(self, items):
        self.before(items)
        self.batches.append([len(item.ids) for item in items])
        return [np.array([item.ids[0], 1], dtype=np.float32) for item in items]


def numbering(tokenizer, engine: Any, name: str = "numbers") -> ServedModel:
    return ServedModel(name, Kind.EMBEDDER, engine, tokenizer, 64, "source", "float32", pooling="mean")


@contextmanager
def listening(models: list[ServedModel], **settings: Any) -> Iterator[str]:
    """The address of a server on a free port of this machine, which runs in a thread."""
    found = ServeSettings(**settings)
    config = uvicorn.Config(create_app(Server.of(models, found)), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until the condition holds, and fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
