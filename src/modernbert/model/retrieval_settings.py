"""What a folder of a retrieval model says beside its weights: one frozen value for each of the four kinds."""

from typing import Literal

from pydantic import Field

from modernbert.config import Config
from modernbert.model.pooling import PoolingMode

Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
Role = Literal["query", "document"]

DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # names under which a folder may keep the prompt of documents


class Projection(Config):
    """A linear layer behind the encoder (`Dense` in sentence-transformers)."""

    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    bias: bool = True
    activation: Activation = "Tanh"
    residual: bool = False


class RetrievalSettings(Config):
    """What all kinds have: prompts by name, and how much is read.

    `max_length` is the number of tokens read at once, with [CLS], [SEP] and the prompt; None is what the model reads.
    """

    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt_name: str | None = None
    max_length: int | None = Field(None, gt=0)
    lower_case: bool = False


class DenseSettings(RetrievalSettings):
    """One vector for a text: pooling, then projections, then perhaps unit length."""

    pooling: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    projections: tuple[Projection, ...] = ()
    normalize: bool = False
    similarity: Similarity = "cosine"
    truncate_dim: int | None = Field(None, gt=0)


class RerankSettings(RetrievalSettings):
    """A score for a pair of texts. `activation` is applied to it; None is a sigmoid where there is one score."""

    activation: Activation | None = None


class Expansion(Config):
    """Queries are filled with [MASK] (or `token`) up to `length` tokens; with `fixed` a longer one is cut to them.

    Unless they are attended to, these tokens see the query, and nothing sees them: late interaction scores them only.
    """

    length: int = Field(32, gt=0)
    fixed: bool = True
    attend: bool = False
    token: str | None = None


class MultiVectorSettings(RetrievalSettings):
    """A vector for each token. Tokens of `skip_words` are left out for the roles in `skip_roles`.

    `query_length` and `document_length` are the most tokens of each; None is `max_length`. Every vector has unit
    length with `normalize`.
    """

    projections: tuple[Projection, ...] = ()
    normalize: bool = True
    query_length: int | None = Field(None, gt=0)
    document_length: int | None = Field(None, gt=0)
    expansion: Expansion | None = None
    skip_words: tuple[str, ...] = ()
    skip_roles: tuple[Role, ...] = ("document",)


class SparseSettings(RetrievalSettings):
    """A weight for each token of the vocabulary (SPLADE, arXiv 2107.05720 and 2109.10086).

    With `query_table` no query is encoded: each token in it has the weight that it has in a table, which training
    changes where it is "trained". `query_length` is the most tokens that are looked up; None is `max_length`.
    """

    pooling: Literal["max", "sum"] = "max"
    activation: Literal["relu", "log1p_relu"] = "relu"
    similarity: Similarity = "dot"
    query_table: Literal["frozen", "trained"] | None = None
    query_length: int | None = Field(None, gt=0)
