"""The settings in the folder of a retrieval model: one frozen class for each of the four kinds."""

from typing import Literal

from pydantic import Field

from modernbert.config import Config
from modernbert.model.pooling import PoolingMode

Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
Role = Literal["query", "document"]

DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # names under which a folder may keep the prompt of documents


class Projection(Config):
    """A linear layer after the encoder (`Dense` in sentence-transformers)."""

    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    bias: bool = True
    activation: Activation = "Tanh"
    residual: bool = False


class RetrievalSettings(Config):
    """The settings of all kinds: prompts by name, and the length of texts.

    `max_length` is the maximum number of tokens of a text, with [CLS], [SEP] and the prompt; None is the limit of the
    model.
    """

    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt_name: str | None = None
    max_length: int | None = Field(None, gt=0)
    lower_case: bool = False


class DenseSettings(RetrievalSettings):
    """One vector for a text: pooling, then projections, then optional normalization."""

    pooling: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    projections: tuple[Projection, ...] = ()
    normalize: bool = False
    similarity: Similarity = "cosine"
    truncate_dim: int | None = Field(None, gt=0)


class RerankSettings(RetrievalSettings):
    """A score for a pair of texts. `activation` is applied to the logits; None is a sigmoid if there is one score."""

    activation: Activation | None = None


class Expansion(Config):
    """Query expansion with [MASK] (or `token`) to `length` tokens; with `fixed`, longer queries are truncated.

    With `attend` false, expansion tokens attend to the query, and no token attends to them. Late interaction scores
    their vectors.
    """

    length: int = Field(32, gt=0)
    fixed: bool = True
    attend: bool = False
    token: str | None = None


class MultiVectorSettings(RetrievalSettings):
    """A vector for each token, except the tokens of `skip_words` for the roles in `skip_roles`.

    `query_length` and `document_length` are the maximum numbers of tokens; None is `max_length`. With `normalize`,
    vectors have unit length.
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

    With `query_table`, queries are not encoded: the weight of each token comes from a table, which is "trained" or
    "frozen" in training. `query_length` is the maximum number of query tokens; None is `max_length`.
    """

    pooling: Literal["max", "sum"] = "max"
    activation: Literal["relu", "log1p_relu"] = "relu"
    similarity: Similarity = "dot"
    query_table: Literal["frozen", "trained"] | None = None
    query_length: int | None = Field(None, gt=0)
