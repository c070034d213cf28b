"""The recipe of a corpus: a frozen value read from TOML."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from modernbert.config import Config, check_directory
from modernbert.text import documents as reading

FilterName = Literal["gopher-quality", "gopher-repetition", "c4", "fineweb"]


class MinHash(Config):
    """Near duplicates by MinHash (Broder 1997) with locality sensitive hashing.

    Two documents whose sets of word n-grams have the Jaccard similarity s are found with probability
    1 - (1 - s^hashes_per_bucket)^buckets: with these defaults 0.92 at s = 0.8, 0.56 at 0.7 and 0.05 at 0.5.
    """

    ngram_words: PositiveInt = 5
    buckets: PositiveInt = 14
    hashes_per_bucket: PositiveInt = 8


class Source(Config):
    """Files that become one shard folder: paths, globs, folders, or `python:MODULE` of the standard library.

    Refused documents are counted by their first reason, in this order: unreadable, too short, language, filters as
    listed, duplicate.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*$")  # of the folder; a name must not begin with a dot
    paths: tuple[str, ...] = Field(min_length=1)
    kind: reading.Kind = "auto"
    pattern: str = "**/*"
    text_key: str = "text"
    min_characters: NonNegativeInt = 0
    limit_documents: PositiveInt | None = None  # of each task: each JSON lines or Parquet file is one
    language: str | None = (
        None  # keep documents of this language only, such as "en"; filters and MinHash then split its words
    )
    language_score: float = Field(0.65, ge=0, le=1)  # minimum probability of that language
    language_model: str = "py3langid"  # or "ft176", "glotlid", which datatrove downloads, or a fastText model file
    filters: tuple[FilterName, ...] = ()
    filter_options: dict[FilterName, dict[str, Any]] = Field(default_factory=dict)  # arguments of datatrove's classes
    deduplicate: Literal["exact", "minhash"] | None = None  # within this source
    minhash: MinHash = MinHash()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unused := sorted(self.filter_options.keys() - set(self.filters)):
            raise ValueError(f"filter_options names {unused[0]!r}, which is not in filters")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError("filters has a filter twice")
        return self


Executor = Literal["local", "slurm", "ray"]


class Slurm(Config):
    """The Slurm options of every task."""

    partition: str
    time: str = "24:00:00"
    cpus_per_task: PositiveInt = 1
    mem_per_cpu_gb: PositiveInt = 4
    qos: str | None = None
    env_command: str | None = None  # run before the task; unset: add the folder of this Python to the PATH
    sbatch_args: dict[str, str] = Field(default_factory=dict)


class Ray(Config):
    """The Ray cluster, and the resources of each task."""

    address: str | None = None  # unset: that in RAY_ADDRESS, otherwise a local Ray with `workers` workers
    cpus_per_task: PositiveFloat = 1
    memory_gb_per_task: PositiveFloat = 1


class CorpusRecipe(Config):
    """Sources, tokenizer, and the folder that will hold one shard folder for each source.

    The shards do not depend on the executor and the number of workers.
    """

    tokenizer: str
    output: Path
    sources: tuple[Source, ...] = Field(min_length=1)
    workers: PositiveInt = 2
    executor: Executor = "local"
    slurm: Slurm | None = None
    ray: Ray = Ray()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_directory(self.output, "output")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name")
        if self.executor == "slurm" and self.slurm is None:
            raise ValueError("the executor slurm needs a table [slurm] with a partition")
        return self
