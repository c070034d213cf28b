"""Cohere's embed and rerank. Jina's and infinity's rerank have the same fields and use the same routes."""

import base64
import time
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from modernbert.model.retrieval_settings import DOCUMENT_PROMPTS, Role
from modernbert.serve.failures import EmptyInputError, InvalidRequestError
from modernbert.serve.models import Kind
from modernbert.serve.routes.answering import WatchedRoute, json_answer, select
from modernbert.serve.routes.schemas import CohereEmbedBody, RankBody
from modernbert.serve.scoring import scores_of, vectors
from modernbert.serve.texts import Side, Text, count_characters

embedding = APIRouter(route_class=WatchedRoute, tags=["embed"])
scoring = APIRouter(route_class=WatchedRoute, tags=["score"])

INT8_RANGE = 8.0  # in standard deviations of a component of a random unit vector; few components are clipped


def quantized(vectors: np.ndarray[Any, np.dtype[np.float32]], kind: str) -> Any:
    """Vectors of unit length in one of Cohere's types.

    A number of `int8` is `round(x * sqrt(dimensions) * 127 / 8)`, clipped, the same for all texts, so that products of
    vectors keep their order; `uint8` is that plus 128. `ubinary` has one bit for each number, 1 where it is positive,
    the first one in the highest bit of a byte; `binary` is that minus 128.
    """
    if kind == "float":
        return vectors
    if kind == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    if kind in ("int8", "uint8"):
        scale = np.sqrt(vectors.shape[1]) * 127 / INT8_RANGE
        rounded = np.clip(np.rint(vectors * scale), -128, 127).astype(np.int16)
        return rounded.astype(np.int8) if kind == "int8" else (rounded + 128).astype(np.uint8)
    bits = np.packbits(vectors > 0, axis=1)
    return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)


@embedding.post("/v2/embed")
@embedding.post("/v1/embed", include_in_schema=False)
async def embed(request: Request, body: CohereEmbedBody) -> Response:
    """A vector of unit length for each text, in each of the requested types."""
    server, model = select(request, body, [Kind.EMBEDDER], "an embedding model")
    texts: list[Text] = list(body.texts)
    with server.request(model, len(texts), False, count_characters(texts)) as usage:
        engine = model.engine
        engine.check_dimensions(body.output_dimension)
        name = _prompt_name_of(body.input_type, model.prompts)
        roles: tuple[Role, ...] = ("query", "document")
        prompt = engine.role_prompt(name) if name in roles else engine.prompt(name)
        truncate = server.settings.auto_truncate if body.truncate is None else body.truncate != "NONE"
        side: Side = "left" if body.truncate == "START" else "right"
        rows = await server.run(usage, lambda: engine.encode(texts, truncate, side, prompt))
        found = vectors(rows, normalize=True, dimensions=body.output_dimension)
        typed = body.embedding_types or (["float"] if request.url.path.startswith("/v2") else [])
        embeddings = {kind: quantized(found, kind) for kind in typed}
    answer: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "embeddings": embeddings or found,
        "texts": body.texts,
        "meta": _meta(request, {"input_tokens": usage.tokens}),
        "response_type": "embeddings_by_type" if embeddings else "embeddings_floats",
    }
    return json_answer(answer, usage.headers())


@scoring.post("/v2/rerank")
@scoring.post("/v1/rerank")
async def rerank(request: Request, body: RankBody) -> Response:
    """The documents in order of relevance to the query, best first."""
    kinds = [Kind.RERANKER, Kind.MULTI_VECTOR]
    server, model = select(request, body, kinds, "a re-ranker model")
    if not body.documents:
        raise EmptyInputError("`documents` cannot be empty")
    if body.top_n is not None and body.top_n < 1:
        raise InvalidRequestError(f"`top_n` must be at least 1. Given: {body.top_n}")
    documents = [document if isinstance(document, str) else document.text for document in body.documents]
    characters = len(body.query) * len(documents) + sum(map(len, documents))
    with server.request(model, len(documents), False, characters) as usage:
        truncate = server.settings.auto_truncate
        scores = await scores_of(server, usage, [body.query], documents, truncate, raw=body.raw_scores)
        results: list[dict[str, Any]] = []
        for index in np.argsort(-scores, kind="stable")[: body.top_n].tolist():
            results.append({"index": index, "relevance_score": scores[index]})
            if body.return_documents:
                results[-1]["document"] = {"text": documents[index]}
    answer = {
        "id": str(uuid.uuid4()),
        "object": "rerank",
        "model": model.name,
        "results": results,
        "usage": {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens},
        "meta": _meta(request, {"search_units": 1}),
        "created": int(time.time()),
    }
    return json_answer(answer, usage.headers())


def _meta(request: Request, billed: dict[str, int]) -> dict[str, Any]:
    version = "2" if request.url.path.startswith("/v2") else "1"
    return {"api_version": {"version": version}, "billed_units": billed}


def _prompt_name_of(input_type: str | None, prompts: dict[str, str]) -> Role | str | None:
    """The role or the prompt that Cohere's `input_type` means: search_query, search_document, clustering ...

    Raises:
        InvalidRequestError: it means nothing to this model.
    """
    if input_type is None:
        return None
    name = input_type.removeprefix("search_")
    if name == "query" or name in DOCUMENT_PROMPTS:
        return "query" if name == "query" else "document"
    if name in prompts or name in ("classification", "clustering"):
        return name if name in prompts else None
    raise InvalidRequestError(
        f"`input_type` {input_type[:100]!r} is not search_query, search_document, classification or clustering"
    )
