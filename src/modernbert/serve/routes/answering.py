"""What all routes share: responses and errors as JSON, and the detection of disconnected clients."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from modernbert.serve.computing import Server
from modernbert.serve.failures import EmptyInputError, InternalError, MalformedBodyError, NotJsonError, RequestError
from modernbert.serve.models import Kind, ServedModel
from modernbert.serve.routes.schemas import Body

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499  # nginx logs this status for a disconnected client; nobody reads the response
_FLAT = ("/v1/", "/v2/", "/embeddings", "/score", "/pooling")  # OpenAI's form, as text-embeddings-inference writes it


def json_answer(value: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """JSON of plain values and of numpy arrays. Numbers have the digits of their precision."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, headers, "application/json")


def error_answer(path: str, error: RequestError, status: int | None = None) -> Response:
    """An error in the form of the protocol of the path."""
    status = status or error.status
    if path.startswith(_FLAT):
        return json_answer({"message": error.message, "code": status, "type": error.kind}, status=status)
    return json_answer({"error": error.message, "error_type": error.kind}, status=status)


def server_of(request: Request) -> Server:
    """The server of a request."""
    server: Server = request.app.state.server
    return server


def select(request: Request, body: Body, kinds: Sequence[Kind], what: str) -> tuple[Server, ServedModel]:
    """The server that a request came to, and its model of one of these kinds: that of the request, or the first.

    Raises:
        NotServedError: no model is of such a kind; `what` says what it would have to be.
        UnknownModelError: the request names another model.
    """
    server = server_of(request)
    return server, server.catalogue.select(kinds, body.model, what)


class WatchedRoute(APIRoute):
    """A route that is cancelled when its client disconnects, so that its texts are removed from the queue."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def watched(request: Request) -> Response:
            await request.body()  # the only message after the body is the end of the connection
            work = asyncio.ensure_future(handle(request))
            left = asyncio.ensure_future(request.receive())
            try:
                await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
                return work.result() if work.done() else Response(status_code=CLIENT_LEFT)
            except (RequestError, RequestValidationError, HTTPException):
                raise
            except Exception as error:
                logger.error("%s %s failed because of a bug of the server.", request.method, request.url.path,
                             exc_info=error)  # fmt: skip
                raise InternalError("Internal error") from None
            finally:
                work.cancel()
                left.cancel()

        return watched


async def on_failure(request: Request, error: Exception) -> Response:
    """A request that was refused or could not be computed."""
    assert isinstance(error, RequestError)
    server_of(request).count_failure(error)
    return error_answer(request.url.path, error)


async def on_malformed(request: Request, error: Exception) -> Response:
    """A body that is not JSON, or is JSON of another shape."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        where = found[0].get("ctx", {}).get("error", "")
        failure: RequestError = NotJsonError(f"Failed to parse the request body as JSON: {where}")
    elif not await request.body():
        failure = EmptyInputError("the request has no body")
    else:
        place = ".".join(str(part) for part in found[0]["loc"][1:2]) or "the body"
        failure = MalformedBodyError(
            f"Failed to deserialize the JSON body into the target type: {place}: {found[0]['msg'].lower()}"
        )
    server_of(request).count_failure(failure)
    return error_answer(request.url.path, failure)


async def on_http_error(request: Request, error: Exception) -> Response:
    """An unknown path or method."""
    assert isinstance(error, HTTPException)
    failure = MalformedBodyError(f"{request.method} {request.url.path[:200]}: {error.detail}")
    answer = error_answer(request.url.path, failure, error.status_code)
    answer.headers.update(error.headers or {})
    return answer
