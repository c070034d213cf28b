"""The routes of text-embeddings-inference (router/src/http/server.rs and types.rs)."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from modernbert.serve.failures import EmptyInputError, InvalidRequestError
from modernbert.serve.models import Kind, ServedModel
from modernbert.serve.routes.answering import WatchedRoute, json_answer, select
from modernbert.serve.routes.schemas import (
    DecodeBody,
    EmbedAllBody,
    EmbedBody,
    PredictBody,
    RerankBody,
    SimilarityBody,
    TokenizeBody,
    listed,
)
from modernbert.serve.scoring import scores_of, vectors
from modernbert.serve.texts import Text, count_characters, decode, tokens_of

embedding = APIRouter(route_class=WatchedRoute, tags=["embed"])
token_embedding = APIRouter(route_class=WatchedRoute, tags=["embed"])
sparse = APIRouter(route_class=WatchedRoute, tags=["embed"])
scoring = APIRouter(route_class=WatchedRoute, tags=["score"])
predicting = APIRouter(route_class=WatchedRoute, tags=["predict"])
tokenizing = APIRouter(route_class=WatchedRoute, tags=["tokens"])

RANKERS = (Kind.RERANKER, Kind.MULTI_VECTOR)
CLASSIFIERS = (Kind.CLASSIFIER, Kind.RERANKER)


@embedding.post("/embed")
async def embed(request: Request, body: EmbedBody) -> Response:
    """A vector for each text."""
    server, model = select(request, body, [Kind.EMBEDDER], "an embedding model")
    texts, single = listed(body.inputs)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        prompt = model.engine.prompt(body.prompt_name)
        truncate = server.truncates(body.truncate)
        engine, side = model.engine, body.truncation_direction
        engine.check_dimensions(body.dimensions)
        rows = await server.run(usage, lambda: engine.encode(texts, truncate, side, prompt))
        found = vectors(rows, body.normalize, body.dimensions)
    return json_answer(found, usage.headers())


@token_embedding.post("/embed_all")
async def embed_all(request: Request, body: EmbedAllBody) -> Response:
    """A vector for each token of each text, including [CLS] and [SEP]; a multi-vector model omits unscored tokens."""
    kinds = [Kind.EMBEDDER, Kind.MULTI_VECTOR]
    server, model = select(request, body, kinds, "an embedding model")
    texts, single = listed(body.inputs)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        truncate = server.truncates(body.truncate)
        engine, side, name = model.engine, body.truncation_direction, body.prompt_name
        rows = await server.run(usage, lambda: engine.encode_tokens(texts, truncate, side, name))
    return json_answer(rows, usage.headers())


@sparse.post("/embed_sparse")
async def embed_sparse(request: Request, body: EmbedAllBody) -> Response:
    """The weights above 0 of each text, by token of the vocabulary."""
    server, model = select(request, body, [Kind.SPARSE], "a sparse embedding model")
    texts, single = listed(body.inputs)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        truncate = server.truncates(body.truncate)
        engine, side, name = model.engine, body.truncation_direction, body.prompt_name
        rows = await server.run(usage, lambda: engine.encode_named(texts, truncate, side, name))
        found = [
            [{"index": index, "value": value} for index, value in zip(indices.tolist(), weights, strict=True)]
            for indices, weights in rows
        ]
    return json_answer(found, usage.headers())


@embedding.post("/similarity")
async def similarity(request: Request, body: SimilarityBody) -> Response:
    """The cosine similarity of each sentence to the source sentence."""
    server, model = select(request, body, [Kind.EMBEDDER], "an embedding model")
    if not body.inputs.sentences:
        raise EmptyInputError("`inputs.sentences` cannot be empty")
    texts: list[Text] = [body.inputs.source_sentence, *body.inputs.sentences]
    with server.request(model, len(texts) - 1, False, count_characters(texts)) as usage:
        asked = body.parameters
        prompt = model.engine.prompt(asked.prompt_name if asked else None)
        truncate = server.truncates(asked.truncate if asked else None)
        engine, side = model.engine, asked.truncation_direction if asked else "right"
        rows = await server.run(usage, lambda: engine.encode(texts, truncate, side, prompt))
        found = vectors(rows, normalize=True)
    return json_answer(found[1:] @ found[0], usage.headers())


@scoring.post("/rerank")
async def rerank(request: Request, body: RerankBody) -> Response:
    """The texts in order of relevance to the query, best first."""
    server, model = select(request, body, RANKERS, "a re-ranker model")
    if not body.texts:
        raise EmptyInputError("`texts` cannot be empty")
    pairs: list[Text] = [(body.query, text) for text in body.texts]
    with server.request(model, len(pairs), False, count_characters(pairs)) as usage:
        truncate = server.truncates(body.truncate)
        scores = await scores_of(
            server, usage, [body.query], body.texts, truncate, body.truncation_direction, body.raw_scores
        )
        found: list[dict[str, Any]] = []
        for index in np.argsort(-scores, kind="stable").tolist():
            found.append({"index": index, "score": scores[index]})
            if body.return_text:
                found[-1]["text"] = body.texts[index]
    return json_answer(found, usage.headers())


@predicting.post("/predict")
async def predict(request: Request, body: PredictBody) -> Response:
    """The labels of a text or of a pair of texts, best first; for a list, the labels of each."""
    server, model = select(request, body, CLASSIFIERS, "a classifier model")
    texts, single = _sequences(body.inputs)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        truncate = server.truncates(body.truncate)
        engine, side = model.engine, body.truncation_direction
        rows = engine.decode(await server.run(usage, lambda: engine.encode(texts, truncate, side)), body.raw_scores)
        found = [[{"score": score, "label": label} for label, score in row] for row in rows]
    return json_answer(found[0] if single else found, usage.headers())


@tokenizing.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """The tokens of each text, with their character offsets."""
    server, model = select(request, body, list(Kind), "a model")
    texts, _ = listed(body.inputs)
    _check_batch(len(texts), server.settings.max_client_batch_size)
    prompt = _prompt(model, body.prompt_name)
    wanted = [prompt + str(text) for text in texts]
    found = await server.in_thread(lambda: [_tokens(model, text, body.add_special_tokens) for text in wanted])
    return json_answer(found)


@tokenizing.post("/decode")
async def decode_ids(request: Request, body: DecodeBody) -> Response:
    """The text of each list of ids."""
    server, model = select(request, body, list(Kind), "a model")
    single = bool(body.ids) and isinstance(body.ids[0], int)
    lists: list[Any] = [body.ids] if single else list(body.ids)
    if not lists:
        raise EmptyInputError("`ids` cannot be empty")
    _check_batch(len(lists), server.settings.max_client_batch_size)
    skip = body.skip_special_tokens
    found = await server.in_thread(lambda: [decode(model.tokenizer, ids, skip_special_tokens=skip) for ids in lists])
    return json_answer(found)


def _sequences(inputs: str | list[str] | list[list[str]]) -> tuple[list[Text], bool]:
    """Texts and pairs, and whether the input was a single one: a text, or a list of one or two texts."""
    if isinstance(inputs, str):
        return [inputs], True
    if inputs and isinstance(inputs[0], str):
        return [_sequence([str(one) for one in inputs])], True
    return [_sequence(list(one)) for one in inputs], False


def _sequence(parts: list[str]) -> Text:
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return parts[0], parts[1]
    raise InvalidRequestError(
        f"`inputs` must be a text, a pair of texts, or a list of these; one has {len(parts)} texts"
    )


def _check_batch(texts: int, most: int) -> None:
    if texts == 0:
        raise EmptyInputError("`inputs` cannot be empty")
    if texts > most:
        raise InvalidRequestError(f"batch size {texts} > maximum allowed batch size {most}")


def _prompt(model: ServedModel, name: str | None) -> str:
    if name is None:
        return ""
    if name not in model.prompts:
        raise InvalidRequestError(f"`prompt_name` {name[:100]!r} is not one of: {', '.join(model.prompts) or 'none'}")
    return model.prompts[name]


def _tokens(model: ServedModel, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
    encoding = tokens_of(model.tokenizer, text, add_special_tokens=add_special_tokens)
    found = []
    for index, token, (start, stop), special in zip(
        encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True
    ):
        place = (None, None) if special else (start, stop)
        shown = token if special else text[start:stop]
        found.append({"id": index, "text": shown, "special": bool(special), "start": place[0], "stop": place[1]})
    return found
