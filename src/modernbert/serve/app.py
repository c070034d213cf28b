"""The application: routes for the served models, error handlers and middleware."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from modernbert import __version__
from modernbert.serve.computing import Server
from modernbert.serve.failures import RequestError
from modernbert.serve.guards import BodyGuard, KeyGuard
from modernbert.serve.models import Kind
from modernbert.serve.routes import about, cohere, openai, tasks, tei
from modernbert.serve.routes.answering import WatchedRoute, on_failure, on_http_error, on_malformed

_EMBEDDERS = {Kind.EMBEDDER}
_WITH_TOKENS = {Kind.EMBEDDER, Kind.MULTI_VECTOR}
_RANKERS = {Kind.RERANKER, Kind.MULTI_VECTOR}
ROUTERS: tuple[tuple[APIRouter, set[Kind]], ...] = (  # with the kinds of models that each router supports
    (tei.embedding, _EMBEDDERS),
    (openai.embedding, _EMBEDDERS),
    (cohere.embedding, _EMBEDDERS),
    (tei.token_embedding, _WITH_TOKENS),
    (openai.token_embedding, _WITH_TOKENS),
    (tei.sparse, {Kind.SPARSE}),
    (tei.scoring, _RANKERS),
    (cohere.scoring, _RANKERS),
    (openai.scoring, {Kind.RERANKER, Kind.MULTI_VECTOR, Kind.EMBEDDER}),
    (tei.predicting, {Kind.CLASSIFIER, Kind.RERANKER}),
    (tasks.entities, {Kind.ENTITIES}),
    (tasks.answers, {Kind.ANSWERS}),
    (tasks.filling, {Kind.FILL_MASK}),
    (tei.tokenizing, set(Kind)),
    (openai.about, set(Kind)),
    (about.guarded, set(Kind)),
    (about.public, set(Kind)),
)
_ROOT_ROUTES: dict[Kind, Callable[..., Any]] = {  # the handler of POST /, as in text-embeddings-inference
    Kind.EMBEDDER: tei.embed,
    Kind.MULTI_VECTOR: tei.embed_all,
    Kind.SPARSE: tei.embed_sparse,
    Kind.RERANKER: tei.rerank,
    Kind.CLASSIFIER: tei.predict,
    Kind.ENTITIES: tasks.find_entities,
    Kind.ANSWERS: tasks.find_answers,
    Kind.FILL_MASK: tasks.fill_mask,
}


def create_app(server: Server) -> FastAPI:
    """An ASGI application. It starts the engine when it starts, and finishes accepted requests when it stops.

    A route that no served model supports returns 424, as text-embeddings-inference does, and is not in the OpenAPI
    document.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            server.close()

    app = FastAPI(
        title="modernbert serve",
        version=__version__,
        description="The protocols of text-embeddings-inference, OpenAI, Cohere, Jina and vLLM, for the models served.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
    )
    app.state.server = server
    for router, kinds in ROUTERS:
        app.include_router(router, include_in_schema=bool(kinds & server.catalogue.kinds))
    root = APIRouter(route_class=WatchedRoute)
    for path in ("/", "/invocations"):
        root.add_api_route(
            path, _ROOT_ROUTES[server.catalogue.models[0].kind], methods=["POST"], include_in_schema=False
        )
    app.include_router(root)
    app.add_exception_handler(RequestError, on_failure)
    app.add_exception_handler(RequestValidationError, on_malformed)
    app.add_exception_handler(HTTPException, on_http_error)
    settings = server.settings
    app.add_middleware(BodyGuard, limit=settings.payload_limit, on_failure=server.count_failure)
    if settings.api_key:
        app.add_middleware(KeyGuard, api_key=settings.api_key, on_failure=server.count_failure)
    if settings.cors_allow_origin:  # outermost: a browser sends its CORS preflight request without the key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_allow_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app
