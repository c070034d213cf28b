"""How a server is run: its address, its limits, and who may call it."""

from pydantic import Field

from modernbert.config import Config


class ServeSettings(Config):
    """Limits carry the names and, unless a comment says otherwise, the defaults of text-embeddings-inference."""

    host: str = "127.0.0.1"
    port: int = Field(3000, ge=0, le=65535)
    api_key: str | None = None
    cors_allow_origin: tuple[str, ...] = ()  # no other page's scripts may call it unless named; there: any
    payload_limit: int = Field(2_000_000, ge=1)  # bytes of a body
    max_client_batch_size: int = Field(1024, ge=1)  # texts of a request; there 32, less than clients send by default
    max_concurrent_requests: int = Field(512, ge=1)
    max_batch_tokens: int = Field(2048, ge=16)  # packed tokens of a batch; there 16,384, padded
    max_queue_tokens: int = Field(262_144, ge=1)  # that may wait for each model
    patience: float = Field(0.5, ge=0)  # seconds that short texts pass a long one
    auto_truncate: bool = True
    tokenization_workers: int = Field(2, ge=1)
    shutdown_seconds: int = Field(60, ge=0)  # that requests have to finish after SIGTERM
