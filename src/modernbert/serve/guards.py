"""Middleware that checks the size of the body and the API key before a route gets the request."""

import hmac
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modernbert.serve.failures import BodySizeError, RequestError, UnauthorizedError
from modernbert.serve.routes.answering import error_answer

OnFailure = Callable[[RequestError], None]

PUBLIC = frozenset({"/", "/health", "/ping", "/metrics", "/docs", "/openapi.json", "/api-doc/openapi.json"})


class KeyGuard:
    """Refuses requests without the right `Authorization: Bearer KEY`, except those for PUBLIC paths."""

    def __init__(self, app: ASGIApp, api_key: str, on_failure: OnFailure) -> None:
        self.app = app
        self.expected = f"Bearer {api_key}".encode()
        self.on_failure = on_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["path"] in PUBLIC and scope["method"] in ("GET", "HEAD")):
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if hmac.compare_digest(given, self.expected):
            await self.app(scope, receive, send)
            return
        error = UnauthorizedError("Unauthorized: send the API key as `Authorization: Bearer KEY`")
        self.on_failure(error)
        await error_answer(scope["path"], error)(scope, receive, send)


class BodyGuard:
    """Reads a body of at most `limit` bytes, and refuses a longer one as early as possible."""

    def __init__(self, app: ASGIApp, limit: int, on_failure: OnFailure) -> None:
        self.app = app
        self.limit = limit
        self.on_failure = on_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        too_large = declared.isdigit() and (len(declared) > 18 or int(declared) > self.limit)
        chunks: list[bytes] = []
        size, more = 0, True
        while more and not too_large:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more, too_large = message.get("more_body", False), size > self.limit
        if too_large:
            error = BodySizeError(f"the body has more than {self.limit} bytes")
            self.on_failure(error)
            await error_answer(scope["path"], error)(scope, receive, send)
            return
        body: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            message, body = body, None
            return message if message is not None else await receive()

        await self.app(scope, replay, send)
