"""What goes wrong with a request, as an HTTP status, a type and one sentence.

The types, their statuses and the beginning of the sentences are those of text-embeddings-inference
(router/src/lib.rs, router/src/http/server.rs, core/src/lib.rs), whose clients know them.
"""

from typing import ClassVar


class RequestError(Exception):
    """A request that gets an error instead of an answer."""

    status: ClassVar[int] = 424
    kind: ClassVar[str] = "Backend"
    label: ClassVar[str] = "inference"  # of the metric te_request_failure
    prefix: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(f"{self.prefix}{message}")
        self.message = f"{self.prefix}{message}"


class ComputationError(RequestError):
    """The model could not compute this request."""

    prefix = "Backend error: "


class NotServedError(RequestError):
    """No model of the kind that a route needs is served."""

    label = "model_type"


class UnknownModelError(RequestError):
    """The request names a model that is not served, or not under this route."""

    status = 404
    kind = "NotFound"
    label = "model_unknown"


class InvalidRequestError(RequestError):
    """What the request asks for cannot be done: a text that is too long, too many texts, an unknown prompt."""

    status = 413
    kind = "Validation"
    label = "validation"
    prefix = "Input validation error: "


class BatchSizeError(InvalidRequestError):
    """More texts in one request than the server takes."""

    label = "batch_size"
    prefix = ""


class MalformedBodyError(RequestError):
    """A body of another shape than the route reads."""

    status = 422
    kind = "Validation"
    label = "validation"


class NotJsonError(MalformedBodyError):
    """A body that is not JSON."""

    status = 400


class EmptyInputError(RequestError):
    """There is nothing to compute."""

    status = 400
    kind = "Empty"
    label = "validation"
    prefix = "Input validation error: "


class TokenizerError(RequestError):
    """A text, or ids, that the tokenizer does not take."""

    status = 422
    kind = "Tokenizer"
    label = "tokenization"
    prefix = "tokenizer error "


class OverloadedError(RequestError):
    """The queue is full."""

    status = 429
    kind = "Overloaded"
    label = "overloaded"

    def __init__(self, message: str = "Model is overloaded") -> None:
        super().__init__(message)


class UnhealthyError(RequestError):
    """The model failed several times in a row and is given a pause, or the server is stopping."""

    status = 503
    kind = "Unhealthy"
    label = "unhealthy"


class UnauthorizedError(RequestError):
    """The API key is missing or wrong."""

    status = 401
    kind = "Unauthorized"
    label = "unauthorized"


class BodySizeError(InvalidRequestError):
    """A body of more bytes than the server takes."""

    label = "payload"
    prefix = ""


class InternalError(RequestError):
    """A mistake of this server."""

    status = 500
    label = "internal"
