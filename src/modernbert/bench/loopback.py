"""A small HTTP client for load tests: it sends prepared bodies over persistent connections and uses little CPU."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

PATH = "/embeddings"  # OpenAI's route without the version; text-embeddings-inference and infinity have it too
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Body:
    """The body of a request, and its number of tokens."""

    content: bytes
    tokens: int


@dataclass
class Answers:
    """The seconds of each response, and the number of requests that were rejected or failed."""

    sent: int = 0
    errors: int = 0
    tokens: int = 0
    took: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def note(self, status: int, body: Body, seconds: float) -> None:
        if status == 200:
            self.seconds.append(seconds)
            self.tokens += body.tokens
        else:
            self.errors += 1


class Connection:
    """A connection to a server on this machine, opened on first use and again after a failure."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: Body) -> int:
        """Send a request and read the response; returns its status, or 0 without a response."""
        try:
            return await asyncio.wait_for(self._post(body), _TIMEOUT_SECONDS)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError, IndexError):
            self.close()
            return 0

    async def _post(self, body: Body) -> int:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._open
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body.content)}\r\n\r\n".encode() + body.content)
        return await _read(reader)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


async def _read(reader: asyncio.StreamReader) -> int:
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    await reader.readexactly(int(fields[b"content-length"]) if b"content-length" in fields else 0)
    return int(lines[0].split()[1])


async def is_up(port: int) -> bool:
    """Whether /health of the server returns status 200."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await asyncio.wait_for(reader.readline(), 10)).split()[1:2] == [b"200"]
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


async def closed_loop(port: int, bodies: Sequence[Body], clients: int, seconds: float) -> Answers:
    """Each client sends its next request after the response to the previous one, for `seconds`.

    Only responses within that time are counted.
    """
    answers = Answers()
    began = time.perf_counter()
    upcoming = iter(range(1 << 60))

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() - began < seconds:
            body = bodies[next(upcoming) % len(bodies)]
            asked = time.perf_counter()
            answers.sent += 1
            status = await connection.post(body)
            ended = time.perf_counter()
            if ended - began <= seconds or status != 200:
                answers.note(status, body, ended - asked)
            else:
                answers.sent -= 1  # the response was too late to count
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    answers.took = time.perf_counter() - began
    return answers


async def open_loop(port: int, bodies: Sequence[Body], times: Sequence[float]) -> Answers:
    """Send one request at each of these times (seconds), without waiting for responses."""
    answers = Answers()
    idle: list[Connection] = []
    began = time.perf_counter()

    async def one(number: int, due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        body = bodies[number % len(bodies)]
        status = await connection.post(body)
        answers.note(status, body, time.perf_counter() - began - due)
        idle.append(connection)

    running = set()
    for number, due in enumerate(times):
        if (wait := due - (time.perf_counter() - began)) > 0:
            await asyncio.sleep(wait)
        answers.sent += 1
        running.add(asyncio.ensure_future(one(number, due)))
    await asyncio.gather(*running)
    answers.took = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return answers
