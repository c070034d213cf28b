"""A server under overload, with disconnected clients, malformed requests, failing models and signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from modernbert.errors import CheckpointError, ConfigError
from modernbert.serve import serve
from modernbert.serve.items import ItemFailed
from served import Numbering, listening, numbering, serving, until


class Gate:
    """Blocks every batch until it is opened."""

    def __init__(self):
        self.open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, items):
        self.reached.set()
        assert self.open.wait(30)


def size_of_queue(address):
    [line] = [one for one in httpx.get(f"{address}/metrics").text.splitlines() if one.startswith("te_queue_size{")]
    return float(line.split()[-1])


def requests_of(address):
    """The number of requests that the server has started, without /metrics and /health."""
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith("te_request_count{"))


def test_requests_that_came_while_a_batch_ran_are_the_next_batch(tokenizer):
    gate = Gate()
    engine = Numbering(gate)
    with listening([numbering(tokenizer, engine)]) as address, ThreadPoolExecutor(8) as threads:
        first = threads.submit(httpx.post, f"{address}/embed", json={"inputs": "a"})
        assert gate.reached.wait(20)
        others = [
            threads.submit(httpx.post, f"{address}/embed", json={"inputs": ["b" * length, "c"], "normalize": False})
            for length in range(2, 7)
        ]
        until(lambda: size_of_queue(address) == 10)
        gate.open.set()
        assert first.result().status_code == 200
        assert [one.result().json() for one in others] == [[[length, 1.0], [1.0, 1.0]] for length in range(2, 7)]
    assert [len(batch) for batch in engine.batches] == [1, 10]


def test_a_disconnected_client_has_its_texts_removed_from_the_queue(tokenizer):
    gate = Gate()
    engine = Numbering(gate)
    with listening([numbering(tokenizer, engine)]) as address, ThreadPoolExecutor(1) as threads:
        first = threads.submit(httpx.post, f"{address}/embed", json={"inputs": "a"})
        assert gate.reached.wait(20)
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"inputs": ["leaving"] * 5})
        with socket.create_connection((host, int(port))) as leaving:
            head = f"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            leaving.sendall(f"{head}\r\n\r\n{body}".encode())
            until(lambda: size_of_queue(address) == 5)
        until(lambda: size_of_queue(address) == 0)
        gate.open.set()
        assert first.result().status_code == 200
    assert engine.batches == [[1]]


@pytest.mark.parametrize("limits", [{"max_concurrent_requests": 2}, {"max_queue_tokens": 3}])
def test_a_full_queue_answers_429_and_loses_nothing(tokenizer, limits):
    gate = Gate()
    with listening([numbering(tokenizer, Numbering(gate))], **limits) as address, ThreadPoolExecutor(2) as threads:
        first = threads.submit(httpx.post, f"{address}/embed", json={"inputs": "a"})
        assert gate.reached.wait(20)
        second = threads.submit(httpx.post, f"{address}/embed", json={"inputs": "bbb"})
        until(lambda: size_of_queue(address) == 1)
        refused = httpx.post(f"{address}/embed", json={"inputs": "c"})
        assert (refused.status_code, refused.json()) == (
            429,
            {"error": "Model is overloaded", "error_type": "Overloaded"},
        )
        openai = httpx.post(f"{address}/v1/embeddings", json={"input": "c"})
        assert openai.json() == {"message": "Model is overloaded", "code": 429, "type": "Overloaded"}
        gate.open.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
        assert httpx.post(f"{address}/embed", json={"inputs": "c"}).status_code == 200


def test_a_body_above_the_limit_is_refused_before_it_is_read(tokenizer):
    with listening([numbering(tokenizer, Numbering())], payload_limit=100) as address:
        declared = httpx.post(f"{address}/embed", json={"inputs": "a" * 100})
        streamed = httpx.post(f"{address}/embed", content=iter([b'{"inputs":"', *[b"a" * 30] * 9, b'"}']))
        for answer in (declared, streamed):
            assert answer.status_code == 413
            assert answer.json() == {"error": "the body has more than 100 bytes", "error_type": "Validation"}
        assert httpx.post(f"{address}/embed", json={"inputs": "a" * 50}).status_code == 200


def test_an_api_key_is_required_of_all_but_the_page_and_probes(tokenizer):
    with serving([numbering(tokenizer, Numbering())], api_key="secret") as client:
        for path in ("/", "/health", "/metrics", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "secret"}):
            answer = client.post("/embed", json={"inputs": "a"}, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error_type"] == "Unauthorized"
        assert client.get("/info").status_code == 401
        assert client.post("/", json={"inputs": "a"}).status_code == 401
        assert client.post("/v1/embeddings", json={"input": "a"}).json().keys() == {"message", "code", "type"}
        assert client.post("/embed", json={"inputs": "a"}, headers={"authorization": "Bearer secret"}).is_success


def test_scripts_of_other_pages_may_call_only_where_they_are_named(tokenizer):
    asks = {"origin": "https://one.example", "access-control-request-method": "POST"}
    with serving([numbering(tokenizer, Numbering())]) as client:
        assert "access-control-allow-origin" not in client.options("/embed", headers=asks).headers
    with serving(
        [numbering(tokenizer, Numbering())], cors_allow_origin=("https://one.example",), api_key="k"
    ) as client:
        assert client.options("/embed", headers=asks).headers["access-control-allow-origin"] == "https://one.example"
        other = client.options("/embed", headers=asks | {"origin": "https://two.example"})
        assert "access-control-allow-origin" not in other.headers


class Broken(Numbering):
    def run(self, items):
        raise MemoryError("no room for this batch")


def test_a_failing_model_returns_errors_and_other_models_continue(tokenizer):
    models = [numbering(tokenizer, Broken(), "broken"), numbering(tokenizer, Numbering(), "sound")]
    with serving(models) as client:
        answers = [client.post("/embed", json={"inputs": "a", "model": "broken"}) for _ in range(4)]
        assert [one.status_code for one in answers] == [424, 424, 424, 503]
        assert answers[0].json() == {"error": "Backend error: no room for this batch", "error_type": "Backend"}
        assert answers[3].json()["error_type"] == "Unhealthy"
        assert client.post("/embed", json={"inputs": "a", "model": "sound"}).status_code == 200
        assert client.get("/health").status_code == 200
    with serving(models[:1]) as client:
        for _ in range(3):
            client.post("/embed", json={"inputs": "a"})
        assert client.get("/health").status_code == 503
        assert client.get("/health").json() == {"error": "unhealthy", "error_type": "Unhealthy"}


def test_numbers_that_are_not_finite_are_an_error_for_their_request_alone(tokenizer):
    class Picky(Numbering):
        def run(self, items):
            good = super().run(items)
            return [ItemFailed("NaN") if len(item.ids) == 3 else one for item, one in zip(items, good, strict=True)]

    with serving([numbering(tokenizer, Picky())]) as client:
        assert client.post("/embed", json={"inputs": "abc"}).status_code == 424
        assert client.post("/embed", json={"inputs": "ab"}).status_code == 200


_opened: list[str] = []
_watching = threading.Event()


def _note(event: str, arguments: tuple) -> None:
    if _watching.is_set() and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "import"):
        _opened.append(repr(arguments[:1]))


def test_no_value_of_a_request_reaches_the_file_system(client):
    sys.addaudithook(_note)
    marker = "zqx-marker"
    hostile = [f"/etc/{marker}", f"../../{marker}", f"file:///{marker}", f"C:\\{marker}", f"{marker}\0"]
    bodies = [
        {"inputs": "a", "input": "a", "texts": ["a"], "query": "a", "documents": ["a"], "queries": "a", "ids": [5]}
        | {field: text for field in ("model", "prompt_name", "input_type", "user", "task") if field in fields}
        for text in hostile
        for fields in (["model"], ["prompt_name", "input_type"], ["user"], ["task"])
    ]
    _watching.set()
    try:
        paths = list(client.get("/openapi.json").json()["paths"])
        for body in bodies:
            for path in paths:
                assert client.post(path, json=body).status_code < 500
        for text in hostile[:-1]:
            assert client.get(f"/{text}").status_code == 404
            assert client.get("/info", params={"model": text}).status_code == 404
        assert client.get(f"/..%2f..%2f{marker}").status_code == 404
    finally:
        _watching.clear()
    assert not [one for one in _opened if marker in one]


def test_sigterm_finishes_accepted_requests_and_exits_with_0(folders):
    command = [sys.executable, "-m", "modernbert", "serve", folders["embedder"], "--port", "0", "--device", "cpu"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        address = server.stdout.readline().split()[-1]
        with ThreadPoolExecutor(6) as threads:
            texts = {"inputs": ["for index in range(10): print(index)"] * 100}
            asked = [threads.submit(httpx.post, f"{address}/embed", json=texts, timeout=120) for _ in range(6)]
            until(lambda: requests_of(address) == 6)
            server.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        errors = server.communicate(timeout=60)[1]
        assert server.returncode == 0, errors
        assert [len(one.json()) for one in answers] == [100] * 6
        assert "Traceback" not in errors
        assert "requests in progress are finished" in errors


def test_what_cannot_be_served_is_one_sentence(folders, tmp_path):
    folder = folders["embedder"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot be listened on .*; choose another --host or --port"):
            serve([folder], port=taken.getsockname()[1], device="cpu")
    for models, options, error, message in (
        ([str(tmp_path)], {}, CheckpointError, "it has no config.json"),
        ([folder, folder], {}, ConfigError, "Two models are called 'embedder'"),
        ([folder], {"served_model_names": ["a", "b"]}, ConfigError, "There are 2 names for 1 models"),
        ([folder], {"max_batch_tokens": 0}, ConfigError, "max_batch_tokens"),
    ):
        with pytest.raises(error, match=message):
            serve(models, device="cpu", **options)


def test_waiting_requests_do_not_hold_up_health_and_metrics(tokenizer):
    gate = Gate()
    with listening([numbering(tokenizer, Numbering(gate))]) as address, ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(httpx.post, f"{address}/embed", json={"inputs": "a"}, timeout=60) for _ in range(20)]
        assert gate.reached.wait(20)
        began = time.monotonic()
        assert httpx.get(f"{address}/health").status_code == 200
        assert time.monotonic() - began < 5
        gate.open.set()
        assert {one.result().status_code for one in asked} == {200}
