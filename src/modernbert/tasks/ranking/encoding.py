"""Examples of rankers as token ids."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from modernbert.model.retrieval_settings import (
    DOCUMENT_PROMPTS,
    MultiVectorSettings,
    RerankSettings,
    RetrievalSettings,
    SparseSettings,
)
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.tasks.ranking.objective import RankingItem
from modernbert.tasks.retrieval_texts import RetrievalTokenizer


def encode_ranking(
    examples: Sequence[RankingExample], tokenizer: Tokenizer, settings: RetrievalSettings, max_length: int
) -> list[RankingItem]:
    """Items in the order of the examples, with the prompts and lengths of a model's settings.

    Every relevant document that any example with the same query names is known to be relevant in all of them.
    """
    texts = RetrievalTokenizer(tokenizer, settings, max_length)
    relevant: dict[str, set[str]] = {}
    for example in examples:
        known = relevant.setdefault(example.query, set(example.relevant))
        known.update(example.relevant)
        if example.scores is None:
            known.add(example.documents[0])
    documents = [document for example in examples for document in example.documents]
    if isinstance(settings, RerankSettings):
        pairs = [(example.query, document) for example in examples for document in example.documents]
        ids = iter(texts.encode_pairs(pairs, prompt_of(settings, "query")).ids)
        queries, own = [np.empty(0, np.int32)] * len(examples), [0] * len(examples)
    else:
        asked = [example.query for example in examples]
        prompt = prompt_of(settings, "query")
        if isinstance(settings, MultiVectorSettings):
            encoded = texts.encode_queries(asked, prompt, settings)
            queries, own = encoded.ids, encoded.own
            length = settings.document_length
        else:
            if isinstance(settings, SparseSettings) and settings.query_table is not None:
                queries = texts.encode_unframed(asked, prompt, settings.query_length).ids
            else:
                queries = texts.encode(asked, prompt).ids
            length = None
            own = [len(one) for one in queries]
        ids = iter(texts.encode(documents, prompt_of(settings, "document"), length).ids)
    return [
        RankingItem(
            query=query,
            documents=tuple(next(ids) for _ in example.documents),
            scores=example.scores,
            own=count,
            name=example.query,
            document_names=example.documents,
            relevant=frozenset(relevant[example.query]),
        )
        for example, query, count in zip(examples, queries, own, strict=True)
    ]


def prompt_of(settings: RetrievalSettings, role: str) -> str:
    """The prompt of queries or documents, as the predictors choose it."""
    names = ("query",) if role == "query" else DOCUMENT_PROMPTS
    found = [name for name in (*names, settings.default_prompt_name) if name in settings.prompts]
    return settings.prompts[found[0]] if found and found[0] is not None else ""
