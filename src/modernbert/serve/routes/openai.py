"""OpenAI's embeddings and list of models; vLLM's scores and vectors of tokens."""

import base64
import time
import uuid

from fastapi import APIRouter, Request, Response

from modernbert.serve.failures import EmptyInputError, InvalidRequestError
from modernbert.serve.models import Kind
from modernbert.serve.routes.answering import WatchedRoute, json_answer, select, server_of
from modernbert.serve.routes.schemas import OpenAIBody, PoolingBody, ScoreBody, listed
from modernbert.serve.scoring import scores_of, vectors
from modernbert.serve.texts import count_characters

embedding = APIRouter(route_class=WatchedRoute, tags=["embed"])
scoring = APIRouter(route_class=WatchedRoute, tags=["score"])
token_embedding = APIRouter(route_class=WatchedRoute, tags=["embed"])
about = APIRouter(route_class=WatchedRoute, tags=["about"])


@embedding.post("/v1/embeddings")
@embedding.post("/embeddings", include_in_schema=False)
async def embeddings(request: Request, body: OpenAIBody) -> Response:
    """A vector of unit length for each text, as numbers or as base64 of little-endian float32."""
    server, model = select(request, body, [Kind.EMBEDDER], "an embedding model")
    texts, single = listed(body.input)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        engine, truncate = model.engine, server.settings.auto_truncate
        engine.check_dimensions(body.dimensions)
        rows = await server.run(usage, lambda: engine.encode(texts, truncate, "right", engine.prompt(None)))
        found = vectors(rows, normalize=True, dimensions=body.dimensions)
        as_text = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if as_text else row,
                "index": index,
            }
            for index, row in enumerate(found)
        ]
    used = {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens}
    return json_answer({"object": "list", "data": data, "model": model.name, "usage": used}, usage.headers())


@about.get("/v1/models")
async def models(request: Request) -> Response:
    """The names of the served models."""
    server = server_of(request)
    data = [
        {
            "id": model.name,
            "object": "model",
            "created": server.started_at,
            "owned_by": "modernbert",
            "kind": model.kind,
            "max_model_len": model.max_length,
        }
        for model in server.catalogue.models
    ]
    return json_answer({"object": "list", "data": data})


@scoring.post("/score")
@scoring.post("/v1/score", include_in_schema=False)
async def score(request: Request, body: ScoreBody) -> Response:
    """The relevance of documents to one query, or of each to its query: by reranker, MaxSim or cosine."""
    kinds = [Kind.RERANKER, Kind.MULTI_VECTOR, Kind.EMBEDDER]
    server, model = select(request, body, kinds, "a model that scores pairs")
    queries = _as_list(body.queries if body.queries is not None else body.text_1, "queries")
    documents = _as_list(body.documents if body.documents is not None else body.text_2, "documents")
    if len(queries) not in (1, len(documents)):
        raise InvalidRequestError(
            f"there are {len(queries)} queries for {len(documents)} documents; give one, or one for each"
        )
    characters = sum(map(len, queries)) + sum(map(len, documents))
    with server.request(model, len(documents), False, characters) as usage:
        scores = await scores_of(server, usage, queries, documents, server.settings.auto_truncate)
    answer = {
        "id": f"score-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model.name,
        "data": [{"index": index, "object": "score", "score": one} for index, one in enumerate(scores)],
        "usage": {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens},
    }
    return json_answer(answer, usage.headers())


@token_embedding.post("/pooling")
async def pooling(request: Request, body: PoolingBody) -> Response:
    """A vector for each token; a multi-vector model returns the vectors that MaxSim uses."""
    kinds = [Kind.MULTI_VECTOR, Kind.EMBEDDER]
    server, model = select(request, body, kinds, "a model with vectors of tokens")
    texts, single = listed(body.input)
    name = "query" if body.is_query and model.kind is Kind.MULTI_VECTOR else None
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        engine, truncate = model.engine, server.settings.auto_truncate
        rows = await server.run(usage, lambda: engine.encode_tokens(texts, truncate, "right", name))
    answer = {
        "id": f"pool-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model.name,
        "data": [{"index": index, "object": "pooling", "data": row} for index, row in enumerate(rows)],
        "usage": {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens},
    }
    return json_answer(answer, usage.headers())


def _as_list(texts: str | list[str] | None, name: str) -> list[str]:
    found = [texts] if isinstance(texts, str) else texts
    if not found:
        raise EmptyInputError(f"`{name}` cannot be empty")
    return found
