"""Entities, answers and filled masks, in the forms of the pipelines of `transformers` and of `InferenceClient`."""

from typing import Any

from fastapi import APIRouter, Request, Response

from modernbert.serve.models import Kind
from modernbert.serve.routes.answering import WatchedRoute, json_answer, select
from modernbert.serve.routes.schemas import AnswersBody, EntitiesBody, FillMaskBody, listed
from modernbert.serve.texts import count_characters

entities = APIRouter(route_class=WatchedRoute, tags=["predict"])
answers = APIRouter(route_class=WatchedRoute, tags=["predict"])
filling = APIRouter(route_class=WatchedRoute, tags=["predict"])


@entities.post("/entities")
async def find_entities(request: Request, body: EntitiesBody) -> Response:
    """The labelled spans of a text of any length, with their character offsets; for a list, a list for each text."""
    server, model = select(request, body, [Kind.ENTITIES], "a model that finds entities")
    texts, single = listed(body.inputs)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        engine = model.engine
        encoded, items = await server.encode(usage, lambda: engine.encode(texts))
        logits = await server.compute(usage, items)
        rows = await server.in_thread(lambda: engine.decode(encoded, logits))
        found = [
            [
                {"entity_group": one.label, "score": one.score, "word": one.text, "start": one.begin, "end": one.end}
                for one in row
            ]
            for row in rows
        ]
    return json_answer(found[0] if single else found, usage.headers())


@answers.post("/answers")
async def find_answers(request: Request, body: AnswersBody) -> Response:
    """The part of a context of any length that answers a question, or an empty text if there is no answer.

    With `top_k` above 1, a list with the best answer first.
    """
    server, model = select(request, body, [Kind.ANSWERS], "a model that answers questions")
    single = not isinstance(body.inputs, list)
    asked = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    pairs = [(one.question, one.context) for one in asked]
    characters = sum(len(question) + len(context) for question, context in pairs)
    with server.request(model, len(pairs), single, characters) as usage:
        engine = model.engine
        encoded, items = await server.encode(usage, lambda: engine.encode(pairs))
        logits = await server.compute(usage, items)
        rows = await server.in_thread(lambda: engine.decode(encoded, logits, body.top_k))
        found: list[Any] = []
        for row in rows:
            replies = [
                {"answer": one.text, "score": one.probability, "start": one.begin, "end": one.end} for one in row
            ]
            found.append(replies if body.top_k > 1 else replies[0])
    return json_answer(found[0] if single else found, usage.headers())


@filling.post("/fill_mask")
async def fill_mask(request: Request, body: FillMaskBody) -> Response:
    """The words that fit the [MASK] of a text, best first; for several masks or texts, a list for each."""
    server, model = select(request, body, [Kind.FILL_MASK], "a masked language model")
    texts, single = listed(body.inputs)
    with server.request(model, len(texts), single, count_characters(texts)) as usage:
        engine = model.engine
        rows = await server.run(usage, lambda: engine.encode(texts, body.top_k))
        found = [_fillings(masks) for masks in rows]
    return json_answer(found[0] if single else found, usage.headers())


def _fillings(masks: list[list[Any]]) -> Any:
    found = [
        [
            {"score": one.probability, "token": one.token_id, "token_str": one.token, "sequence": one.text}
            for one in mask
        ]
        for mask in masks
    ]
    return found[0] if len(found) == 1 else found
