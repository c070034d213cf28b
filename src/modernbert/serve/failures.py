"""Errors of requests: an HTTP status, a type, and one sentence.

The types, statuses and prefixes of the sentences are those of text-embeddings-inference (router/src/lib.rs,
router/src/http/server.rs, core/src/lib.rs), so that its clients understand them.
"""

from typing import ClassVar


class RequestError(Exception):
    """A request that gets an error response. Subclasses set what differs from their base class."""

    status: ClassVar[int] = 424
    kind: ClassVar[str] = "Backend"
    label: ClassVar[str] = "inference"  # in the metric te_request_failure
    prefix: ClassVar[str] = ""

    def __init_subclass__(
        cls, *, status: int | None = None, kind: str | None = None, label: str | None = None, prefix: str | None = None
    ) -> None:
        super().__init_subclass__()
        for name, value in (("status", status), ("kind", kind), ("label", label), ("prefix", prefix)):
            if value is not None:
                setattr(cls, name, value)

    def __init__(self, message: str) -> None:
        self.message = f"{self.prefix}{message}"
        super().__init__(self.message)


class ComputationError(RequestError, prefix="Backend error: "):
    """The model could not compute this request."""


class NotServedError(RequestError, label="model_type"):
    """No served model has the kind that the route needs."""


class UnknownModelError(RequestError, status=404, kind="NotFound", label="model_unknown"):
    """The request names a model that is not served, or not under this route."""


class InvalidRequestError(
    RequestError, status=413, kind="Validation", label="validation", prefix="Input validation error: "
):
    """The request cannot be computed: a text is too long, there are too many texts, or a prompt is unknown."""


class BatchSizeError(InvalidRequestError, label="batch_size", prefix=""):
    """The request has more texts than the server accepts."""


class BodySizeError(InvalidRequestError, label="payload", prefix=""):
    """The body has more bytes than the server accepts."""


class MalformedBodyError(RequestError, status=422, kind="Validation", label="validation"):
    """The body does not have the form that the route expects."""


class NotJsonError(MalformedBodyError, status=400):
    """The body is not JSON."""


class EmptyInputError(RequestError, status=400, kind="Empty", label="validation", prefix="Input validation error: "):
    """The request has no text."""


class TokenizerError(RequestError, status=422, kind="Tokenizer", label="tokenization", prefix="tokenizer error "):
    """The tokenizer does not accept a text, or ids."""


class OverloadedError(RequestError, status=429, kind="Overloaded", label="overloaded"):
    """The queue is full."""

    def __init__(self, message: str = "Model is overloaded") -> None:
        super().__init__(message)


class UnhealthyError(RequestError, status=503, kind="Unhealthy", label="unhealthy"):
    """The model is paused after several failures in a row, or the server is stopping."""


class UnauthorizedError(RequestError, status=401, kind="Unauthorized", label="unauthorized"):
    """The API key is missing or wrong."""


class InternalError(RequestError, status=500, label="internal"):
    """A bug of this server."""
