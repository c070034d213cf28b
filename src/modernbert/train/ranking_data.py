"""What a ranker is trained and validated on: the examples of a recipe, the loss that fits them, the collection."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from modernbert.errors import ConfigError, DataError
from modernbert.stream.batching import shuffled
from modernbert.tasks.embed import Embedder
from modernbert.tasks.ranking.examples import RankingExample, read_ranking, relevant_pairs
from modernbert.tasks.ranking.fusion import Scored
from modernbert.tasks.ranking.measures import evaluate_ranker
from modernbert.tasks.ranking.mining import with_bm25_negatives, with_random_negatives
from modernbert.tasks.ranking.objective import Guide, RankingItem
from modernbert.tasks.ranking.rankers import Bm25
from modernbert.tasks.ranking.settings import ResolvedLoss
from modernbert.tasks.ranking.unlabelled import unlabelled_pairs
from modernbert.text.collection import Collection, read_collection, read_documents
from modernbert.train.ranking_recipe import RankingData, RankingRecipe

RANKED_DOCUMENTS = 100  # of the validation collection, for each query


def read_examples(recipe: RankingRecipe) -> list[RankingExample]:
    """All examples of a recipe, those of files first.

    Raises:
        DataError: an example is invalid, or there are no examples.
    """
    data = recipe.data
    all_examples: list[RankingExample] = []

    def add(examples: Iterable[RankingExample], source: str) -> None:
        all_examples.extend(replace(one, source=source) for one in examples)

    if data.train is not None:
        examples = read_ranking(data.train, data.columns, skip_bad=recipe.skip_bad)
        add(_with_negatives_of_file(examples, data), "data.train")
    for path in data.collections:
        collection = read_collection(path, data.split, skip_bad=recipe.skip_bad)
        contents = [document.content for document in collection.documents.values()]
        add(_with_negatives(relevant_pairs(collection), contents, data), path)
    for path in data.documents:
        documents = list(read_documents(path, skip_bad=recipe.skip_bad).values())
        pairs = list(unlabelled_pairs(documents, data.unlabelled, 0, path))
        chosen = sorted(shuffled(len(pairs), 0, 0)[: data.most_unlabelled].tolist())
        contents = [document.content for document in documents]
        add(_with_negatives([pairs[index] for index in chosen], contents, data), path)
    if not all_examples:
        raise DataError("There are no examples to learn from; check data.train, data.collections and data.documents.")
    return all_examples


def _with_negatives_of_file(examples: list[RankingExample], data: RankingData) -> list[RankingExample]:
    """The examples of a file; pairs get negatives from the documents of the file.

    No negative is a document that any example of the file has as relevant to the query, or with a score above 0.
    """
    relevant: dict[str, set[str]] = {}
    for example in examples:
        scores = example.scores or (1.0, *([0.0] * (len(example.documents) - 1)))
        found = (text for text, score in zip(example.documents, scores, strict=True) if score > 0)
        relevant.setdefault(example.query, set()).update(example.relevant, found)
    contents = list({text: None for example in examples for text in example.documents})
    is_pair = [len(example.documents) == 1 and example.scores is None for example in examples]
    pairs = [
        replace(example, relevant=tuple(sorted(relevant[example.query])))
        for example, one in zip(examples, is_pair, strict=True)
        if one
    ]
    with_negatives = iter(_with_negatives(pairs, contents, data))
    return [next(with_negatives) if one else example for example, one in zip(examples, is_pair, strict=True)]


def _with_negatives(pairs: list[RankingExample], contents: list[str], data: RankingData) -> list[RankingExample]:
    """The pairs with the negatives that the recipe asks for, from `contents`."""
    if not pairs:
        return pairs
    if data.hard_negatives:
        pairs = with_bm25_negatives(pairs, contents, data.hard_negatives, data.negatives_from)
    return with_random_negatives(pairs, contents, data.random_negatives)


def resolved_loss(recipe: RankingRecipe, examples: Sequence[RankingExample]) -> ResolvedLoss:
    """The loss of a recipe for these examples.

    Raises:
        ConfigError: the loss needs scores that examples do not have, or several documents for each query.
    """
    scored = [example.scores is not None for example in examples]
    if any(scored) and not all(scored):
        lacking = examples[scored.index(False)]
        raise ConfigError(
            f"{lacking.origin} has no scores, but other examples have; give scores to all examples or to none."
        )
    try:
        loss = recipe.loss.of(recipe.task, all(scored))
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    lists = loss.name in ("margin-mse", "kl", "lambda") or (
        loss.name == "contrastive" and (recipe.task == "rerank" or not recipe.loss.in_batch)
    )
    short = next((example for example in examples if lists and len(example.documents) < 2), None)
    if short is not None:
        raise ConfigError(
            f"{short.origin} has one document, but the loss {loss.name!r} compares several; add negatives."
        )
    return loss


def guide_of(source: str, examples: Sequence[RankingExample]) -> Guide:
    """Scores of a batch by another embedder, which embeds all texts once."""
    embedder = Embedder.from_pretrained(source)
    queries = list({example.query: None for example in examples})
    documents = list({text: None for example in examples for text in example.documents})
    of_query = dict(zip(queries, torch.from_numpy(embedder.encode_query(queries)), strict=True))
    of_document = dict(zip(documents, torch.from_numpy(embedder.encode_document(documents)), strict=True))

    def scores(items: Sequence[RankingItem]) -> torch.Tensor:
        query_vectors = torch.stack([of_query[item.query_text] for item in items])
        return embedder.similarity(
            query_vectors, torch.stack([of_document[text] for item in items for text in item.document_texts])
        )

    return scores


def read_validation(recipe: RankingRecipe) -> tuple[Collection, list[Scored] | None] | None:
    """The collection that selects the best model; for a reranker, with the first documents of BM25."""
    data = recipe.data
    if data.validation is None:
        return None
    collection = read_collection(data.validation, data.validation_split, skip_bad=recipe.skip_bad)
    if recipe.task != "rerank":
        return collection, None
    return collection, evaluate_ranker(collection, Bm25(), RANKED_DOCUMENTS)[0]
