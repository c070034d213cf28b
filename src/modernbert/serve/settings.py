"""The settings of a server: address, limits and access."""

from pydantic import Field

from modernbert.config import Config


class ServeSettings(Config):
    """Limits have the names and the defaults of text-embeddings-inference (TEI), unless a comment names another one."""

    host: str = "127.0.0.1"
    port: int = Field(3000, ge=0, le=65535)
    api_key: str | None = None
    cors_allow_origin: tuple[str, ...] = ()  # web pages that may call the server from a browser; TEI: any
    payload_limit: int = Field(2_000_000, ge=1)  # bytes of a body
    max_client_batch_size: int = Field(1024, ge=1)  # texts of a request; TEI: 32, less than clients send by default
    max_concurrent_requests: int = Field(512, ge=1)
    max_batch_tokens: int = Field(2048, ge=16)  # packed tokens of a batch; TEI: 16,384 padded tokens
    max_queue_tokens: int = Field(262_144, ge=1)  # in the queue of each model
    patience: float = Field(0.5, ge=0)  # seconds during which short texts overtake a long one
    auto_truncate: bool = True
    tokenization_workers: int = Field(2, ge=1)
    shutdown_seconds: int = Field(60, ge=0)  # time limit for requests in progress after SIGTERM
