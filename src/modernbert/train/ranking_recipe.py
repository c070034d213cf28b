"""What the training of a ranker is: a frozen value read from TOML."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

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
from modernbert.train.finetune_recipe import DEFAULT_MODEL, Machine, Training


class RankingData(Config):
    """What is learned from: files, the judgements of collections, or the documents of collections alone.

    `train` are files of pairs, triples or lists. Of each folder in `collections` the judgements of `split` are
    learned; of each in `documents` the texts alone, without any judgement, in pairs as `unlabelled` says.
    """

    train: Source | None = None
    columns: RankingColumns = RankingColumns()
    collections: tuple[str, ...] = ()
    split: str = "train"
    documents: tuple[str, ...] = ()
    unlabelled: Unlabelled = Unlabelled()
    most_unlabelled: PositiveInt | None = None  # of each folder: any so many of its pairs
    validation: str | None = None  # a collection whose nDCG@10 chooses the best model
    validation_split: str = "validation"
    validation_depth: PositiveInt = 50  # rerank: documents of BM25 that are put in order
    hard_negatives: int = Field(0, ge=0)  # of each judged or unlabelled pair: what BM25 ranks high
    negatives_from: PositiveInt = 5  # the first rank of BM25 that is taken
    one_source_per_batch: bool = False  # negatives of a batch then come from the same file or collection

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train is None and not self.collections and not self.documents:
            raise ValueError("nothing to learn from: set train, collections or documents")
        return self


class RankingModelSettings(Config):
    """How texts become vectors or scores. What is not set is the model's own, or the task's usual choice."""

    pooling: PoolingMode = "mean"  # embed
    normalize: bool = True  # embed
    query_prompt: str = ""
    document_prompt: str = ""
    dimensions: PositiveInt = 128  # multi-vector: of a vector for each token
    query_length: PositiveInt = 32  # multi-vector: queries are filled with [MASK] up to this
    document_length: PositiveInt | None = None  # multi-vector: what the model reads unless set
    expand_queries: bool = True  # multi-vector
    attend_to_expansion: bool = False  # multi-vector
    skip_words: tuple[str, ...] = ()  # multi-vector: tokens of documents that are left out, such as punctuation


class RankingRecipe(Config):
    """A whole training run of a ranker."""

    task: RankingKind
    model: str  # a folder or hub id: an encoder, a masked language model, or a ranker of this kind, which goes on
    random_weights: bool = False  # reinitialize all of them, to see what the model's own give
    data: RankingData
    output: Path
    max_length: PositiveInt | None = None  # tokens; what the model reads unless set
    settings: RankingModelSettings = RankingModelSettings()
    loss: RankingLoss = RankingLoss()
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    skip_bad: bool = False  # leave out examples that are wrong, and count them
    training: Training = Training()
    machine: Machine = Machine()

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, values: object) -> object:
        if isinstance(values, dict) and "seed" in values:
            if "seeds" in values:
                raise ValueError("set seed or seeds, not both")
            values = {key: value for key, value in values.items() if key != "seed"} | {"seeds": [values["seed"]]}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_directory(self.output, "output")
        if self.training.batch_tokens is not None:
            raise ValueError("training.batch_tokens is set; rankers learn from batches of training.batch_examples")
        return self


def model_settings(recipe: RankingRecipe, hidden_size: int, max_length: int) -> RetrievalSettings:
    """What the folder of a model says that begins from a plain encoder."""
    chosen = recipe.settings
    prompts = {
        name: prompt
        for name, prompt in (("query", chosen.query_prompt), ("document", chosen.document_prompt))
        if prompt
    }
    if recipe.task == "embed":
        return DenseSettings(
            prompts=prompts, max_length=max_length, pooling=(chosen.pooling,), normalize=chosen.normalize
        )
    if recipe.task == "sparse":
        return SparseSettings(prompts=prompts, max_length=max_length)
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
    """Whether a recipe, or the overrides of a file of examples, name the task of a ranker."""
    tasks = [one.partition("=")[2].strip().strip("\"'") for one in overrides if one.partition("=")[0].strip() == "task"]
    if not tasks and format_of(path) is None:
        try:
            tasks = [str(tomllib.loads(path.read_text(encoding="utf-8-sig")).get("task"))]
        except (OSError, ValueError, RecursionError):
            return False  # whoever reads it says what is wrong
    return bool(tasks) and tasks[-1] in RANKING_TASKS


def read_ranking_recipe(path: Path, overrides: Iterable[str] = ()) -> RankingRecipe:
    """A recipe; or pairs, triples or lists themselves, which are then learned into a folder named after them.

    Raises:
        ConfigError: the file is missing or no recipe, or an override does not fit.
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
