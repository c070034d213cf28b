"""Run the application under uvicorn until a signal stops it."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from modernbert.errors import ConfigError
from modernbert.serve.app import create_app
from modernbert.serve.computing import Server

logger = logging.getLogger(__name__)

_LAST_CONNECTIONS_SECONDS = 0.25


class _Quiet(uvicorn.Server):
    """Stops at SIGTERM and SIGINT with exit status 0, after every request that was taken has its answer."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            logger.info("Stopping; %d requests are finished first.", len(self.server_state.tasks))
            self.handle_exit(number, frame)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Clients that connected before the signal but were not accepted yet would be reset with the listening socket.
        await asyncio.sleep(_LAST_CONNECTIONS_SECONDS)
        await super().shutdown(sockets)


def serve(server: Server, *, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was taken. `ready` is called with the address when it listens.

    Raises:
        ConfigError: the address is taken or is not one of this machine.
    """
    settings = server.settings
    listening = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(server),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_seconds or None,
        timeout_keep_alive=75,
        server_header=False,
        backlog=2048,
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{port}")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _Quiet(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
        return found
    except (OSError, OverflowError) as error:
        found.close()
        raise ConfigError(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port.") from None
