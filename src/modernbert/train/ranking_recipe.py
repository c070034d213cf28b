"""The recipe of a ranker: a frozen value read from TOML."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from modernbert.config import Config, Seed, check_directory, load, parse
from modernbert.errors import ConfigError
from modernbert.model.pooling import PoolingMode
from modernbert.model.retrieval_settings import (
    DenseSettings,
    Expansion,
    MultiVectorSettings,
    Projection,
    RerankSettings,
    RetrievalSettings,
    SparseSettings,
)
from modernbert.tasks.ranking.examples import RankingColumns
from modernbert.tasks.ranking.settings import RANKING_TASKS, RankingKind, RankingLoss
from modernbert.tasks.ranking.unlabelled import Unlabelled
from modernbert.text.records import Source, format_of
from modernbert.train.finetune_recipe import DEFAULT_MODEL, Machine, SeededRecipe, Training


class RankingData(Config):
    """Training data: files, the judgements of collections, or the documents of collections without judgements.

    `train` are files of pairs, triples or lists. Each folder in `collections` gives its judgements of `split`; each
    folder in `documents` gives pairs made from its texts as `unlabelled` describes.
    """

    train: Source | None = None  # files of pairs, triples or lists
    columns: RankingColumns = RankingColumns()
    collections: tuple[str, ...] = ()  # folders of collections whose judgements are learned
    split: str = "train"  # the split of these judgements
    documents: tuple[str, ...] = ()  # folders of collections whose documents are learned without judgements
    unlabelled: Unlabelled = Unlabelled()
    most_unlabelled: PositiveInt | None = None  # largest number of pairs from a folder in `documents`, chosen at random
    validation: str | None = None  # folder of a collection whose nDCG@10 selects the best model
    validation_split: str = "validation"  # the split of its judgements
    validation_depth: PositiveInt = 50  # rerank: number of documents of BM25 to rerank
    hard_negatives: int = Field(0, ge=0)  # number of negatives that BM25 adds to each pair without negatives
    negatives_from: PositiveInt = 5  # the first rank of BM25 to take them from
    random_negatives: int = Field(0, ge=0)  # number of random negatives of each such pair, after those of BM25
    one_source_per_batch: bool = False  # all examples of a batch come from the same file or collection

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train is None and not self.collections and not self.documents:
            raise ValueError("nothing to learn from: set train, collections or documents")
        return self


class RankingModelSettings(Config):
    """How texts become vectors or scores, for a model that starts from a plain encoder."""

    pooling: PoolingMode = "mean"  # embed: how the vectors of tokens become one
    normalize: bool = True  # embed: give vectors unit length
    whitening: float | None = Field(None, ge=0, le=1)  # embed: start with a whitening layer (0: centre only; 1: fully)
    query_prompt: str = ""  # text before each query
    document_prompt: str = ""  # text before each document
    dimensions: PositiveInt = 128  # multi-vector: length of the vector of a token
    query_length: PositiveInt = 32  # multi-vector: maximum number of tokens of a query
    document_length: PositiveInt | None = None  # multi-vector: maximum number of tokens; unset: as `max_length`
    expand_queries: bool = True  # multi-vector: fill queries with [MASK] up to `query_length`
    attend_to_expansion: bool = False  # multi-vector: whether other tokens attend to these [MASK]
    query_table: Literal["idf", "learned"] | None = (
        None  # sparse: look queries up, in a table of idf or one learned from it
    )
    active_entries: PositiveInt | None = (
        256  # sparse: number of weights above 0 in a document at the start of training, reached by a lower bias
    )
    skip_words: tuple[str, ...] = ()  # multi-vector: tokens of documents to leave out, such as punctuation


class RankingRecipe(SeededRecipe):
    """A whole training run of a ranker."""

    task: RankingKind  # the kind of ranker
    model: str  # a folder or hub id: an encoder, a masked language model, or a ranker of this kind to train further
    random_weights: bool = False  # reinitialize all weights, to compare with pretrained ones
    data: RankingData
    output: Path  # the folder of the result
    max_length: PositiveInt | None = None  # tokens; unset: what the model reads
    settings: RankingModelSettings = RankingModelSettings()
    loss: RankingLoss = RankingLoss()
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)  # one run each; the best model is kept
    skip_bad: bool = False  # leave out examples that are not valid, and count them
    training: Training = Training()
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_directory(self.output, "output")
        if self.training.batch_tokens is not None:
            raise ValueError("training.batch_tokens is set; rankers learn from batches of training.batch_examples")
        return self


def model_settings(recipe: RankingRecipe, hidden_size: int, max_length: int) -> RetrievalSettings:
    """The retrieval settings of a model that starts from a plain encoder."""
    chosen = recipe.settings
    prompts = {
        name: prompt
        for name, prompt in (("query", chosen.query_prompt), ("document", chosen.document_prompt))
        if prompt
    }
    if recipe.task == "embed":
        layer = Projection(in_features=hidden_size, out_features=hidden_size, bias=True, activation="Identity")
        return DenseSettings(
            prompts=prompts,
            max_length=max_length,
            pooling=(chosen.pooling,),
            projections=() if chosen.whitening is None else (layer,),
            normalize=chosen.normalize,
        )
    if recipe.task == "sparse":
        table: Literal["frozen", "trained"] = "trained" if chosen.query_table == "learned" else "frozen"
        return SparseSettings(prompts=prompts, max_length=max_length, query_table=table if chosen.query_table else None)
    if recipe.task == "rerank":
        return RerankSettings(prompts=prompts, max_length=max_length)
    projection = Projection(in_features=hidden_size, out_features=chosen.dimensions, bias=False, activation="Identity")
    expansion = Expansion(length=chosen.query_length, attend=chosen.attend_to_expansion)
    return MultiVectorSettings(
        prompts=prompts,
        max_length=max_length,
        projections=(projection,),
        query_length=chosen.query_length,
        document_length=chosen.document_length or max_length,
        expansion=expansion if chosen.expand_queries else None,
        skip_words=chosen.skip_words,
    )


def is_ranking(path: Path, overrides: Iterable[str] = ()) -> bool:
    """Whether a recipe, or the overrides for a file of examples, set the task of a ranker."""
    tasks = [one.partition("=")[2].strip().strip("\"'") for one in overrides if one.partition("=")[0].strip() == "task"]
    if not tasks and format_of(path) is None:
        try:
            tasks = [str(tomllib.loads(path.read_text(encoding="utf-8-sig")).get("task"))]
        except (OSError, ValueError, RecursionError):
            return False  # reading the recipe reports the error
    return bool(tasks) and tasks[-1] in RANKING_TASKS


def read_ranking_recipe(path: Path, overrides: Iterable[str] = ()) -> RankingRecipe:
    """A recipe; or the default recipe for a file of pairs, triples or lists, whose output folder is named after it.

    Raises:
        ConfigError: the file is missing or not a recipe, or an override is invalid.
    """
    if format_of(path) is None:
        return load(RankingRecipe, path, overrides)
    if not path.exists():
        raise ConfigError(f"There is no file {path}: give the path of a recipe, or of pairs of texts.")
    name = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    values = {
        "task": "embed",
        "model": DEFAULT_MODEL,
        "output": str(Path("output") / name.stem),
        "data": {"train": str(path)},
    }
    return parse(RankingRecipe, values, str(path), overrides)
