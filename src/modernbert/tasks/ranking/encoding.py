"""Convert examples of rankers to token ids."""

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

    All examples with the same query share their known relevant documents.
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
        queries, unexpanded_lengths = [np.empty(0, np.int32)] * len(examples), [0] * len(examples)
    else:
        query_texts = [example.query for example in examples]
        prompt = prompt_of(settings, "query")
        if isinstance(settings, MultiVectorSettings):
            encoded = texts.encode_queries(query_texts, prompt, settings)
            queries, unexpanded_lengths = encoded.ids, encoded.unexpanded_lengths
            length = settings.document_length
        else:
            if isinstance(settings, SparseSettings) and settings.query_table is not None:
                queries = texts.encode_unframed(query_texts, prompt, settings.query_length).ids
            else:
                queries = texts.encode(query_texts, prompt).ids
            length = None
            unexpanded_lengths = [len(one) for one in queries]
        ids = iter(texts.encode(documents, prompt_of(settings, "document"), length).ids)
    return [
        RankingItem(
            query=query,
            documents=tuple(next(ids) for _ in example.documents),
            scores=example.scores,
            unexpanded_length=count,
            query_text=example.query,
            document_texts=example.documents,
            relevant=frozenset(relevant[example.query]),
        )
        for example, query, count in zip(examples, queries, unexpanded_lengths, strict=True)
    ]


def prompt_of(settings: RetrievalSettings, role: str) -> str:
    """The prompt of queries or documents, as the predictors choose it."""
    names = ("query",) if role == "query" else DOCUMENT_PROMPTS
    present = [name for name in (*names, settings.default_prompt_name) if name in settings.prompts]
    return settings.prompts[present[0]] if present and present[0] is not None else ""
