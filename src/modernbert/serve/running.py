"""Run the application with uvicorn until a signal stops it."""

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

_ACCEPT_SECONDS = 0.25


class _GracefulServer(uvicorn.Server):
    """Stops at SIGTERM and SIGINT with exit status 0, after all accepted requests are finished."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            logger.info("Stopping after %d requests in progress are finished.", len(self.server_state.tasks))
            self.handle_exit(number, frame)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing the listening socket at once would reset clients that connected before the signal.
        await asyncio.sleep(_ACCEPT_SECONDS)
        await super().shutdown(sockets)


def serve(server: Server, *, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT, then finish accepted requests. `ready` is called with the address of the server.

    Raises:
        ConfigError: the address is in use, or is not one of this machine.
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
    url_host = f"[{host}]" if ":" in host else host
    ready(f"http://{url_host}:{port}")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _GracefulServer(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    server_socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if sys.platform != "win32":
            server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server_socket.bind((host, port))
        server_socket.listen(2048)
        return server_socket
    except (OSError, OverflowError) as error:
        server_socket.close()
        raise ConfigError(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port.") from None
