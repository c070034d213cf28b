"""Routes about the server: models and limits, health, metrics, and a page to try it."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from modernbert import __version__
from modernbert.serve import metrics as exposition
from modernbert.serve.failures import UnhealthyError
from modernbert.serve.models import Kind, ServedModel
from modernbert.serve.routes.answering import json_answer, server_of
from modernbert.serve.settings import ServeSettings

public = APIRouter(tags=["about"])
guarded = APIRouter(tags=["about"])


@public.get("/health")
@public.get("/ping", include_in_schema=False)
async def health(request: Request) -> Response:
    """200 with an empty body while at least one model works, otherwise 503."""
    server = server_of(request)
    if not any(server.dispatcher.healthy(model.name) for model in server.catalogue.models):
        raise UnhealthyError("unhealthy")
    return Response()


@public.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(server_of(request).metrics.render(), media_type=exposition.CONTENT_TYPE)


@public.get("/", response_class=HTMLResponse)
async def page() -> Response:
    """A page to try the served models."""
    return _page("page.html")


@public.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs() -> Response:
    """A page of all routes, made from the OpenAPI document; it loads nothing from other servers."""
    return _page("docs.html")


@guarded.get("/info")
async def info(request: Request, model: str | None = Query(None, max_length=500)) -> Response:
    """The named or first model, and the limits; `models` lists all models."""
    server = server_of(request)
    catalogue, settings = server.catalogue, server.settings
    chosen = catalogue.select(list(Kind), model, "a model") if model else catalogue.models[0]
    return json_answer(
        _described(chosen, settings) | {"models": [_described(one, settings) for one in catalogue.models]}
    )


def _described(model: ServedModel, settings: ServeSettings) -> dict[str, Any]:
    return {
        "model_id": model.source,
        "model_sha": model.revision,
        "model_dtype": model.dtype,
        "served_model_name": model.name,
        "model_type": model.model_type,
        "kind": model.kind,
        "prompts": list(model.prompts),
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": model.max_length,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_client_batch_size,
        "max_queue_tokens": settings.max_queue_tokens,
        "payload_limit": settings.payload_limit,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": settings.tokenization_workers,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def _page(name: str) -> Response:
    """A static page of this package."""
    html = files("modernbert.serve").joinpath(name).read_bytes()
    allowed = "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    headers = {
        "Content-Security-Policy": f"default-src 'none'; base-uri 'none'; frame-ancestors 'none'; {allowed}",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(html, headers=headers)
