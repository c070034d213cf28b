"""Request bodies of text-embeddings-inference, OpenAI, Cohere, Jina, vLLM and this package.

Unknown fields, and fields of a protocol that have no effect here, are ignored. `model` selects one of several models;
the default is the first one with a suitable kind.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from modernbert.serve.texts import Side, Text

TokenIds = list[StrictInt]
Texts = StrictStr | list[StrictStr]
TextsOrIds = StrictStr | list[StrictStr] | TokenIds | list[StrictStr | TokenIds]
SidesField = Annotated[Side, BeforeValidator(lambda side: side.lower() if isinstance(side, str) else side)]


class Body(BaseModel):
    """Any body. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: StrictStr | None = None


class TruncatedBody(Body):
    """The default of `truncate` is the server's `auto_truncate`. If it is false, a text that is too long is refused."""

    truncate: StrictBool | None = None
    truncation_direction: SidesField = "right"


class EmbedBody(TruncatedBody):
    inputs: TextsOrIds
    prompt_name: StrictStr | None = None
    normalize: StrictBool = True
    dimensions: StrictInt | None = None


class EmbedAllBody(TruncatedBody):
    inputs: TextsOrIds
    prompt_name: StrictStr | None = None


class PredictBody(TruncatedBody):
    """`inputs`: a text, a pair of texts, or a list of lists of one text or two."""

    inputs: StrictStr | list[StrictStr] | list[list[StrictStr]]
    raw_scores: StrictBool = False


class RerankBody(TruncatedBody):
    query: StrictStr
    texts: list[StrictStr]
    raw_scores: StrictBool = False
    return_text: StrictBool = False


class SimilarityInputs(BaseModel):
    source_sentence: StrictStr
    sentences: list[StrictStr]


class SimilarityParameters(BaseModel):
    truncate: StrictBool | None = None
    truncation_direction: SidesField = "right"
    prompt_name: StrictStr | None = None


class SimilarityBody(Body):
    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeBody(Body):
    inputs: Texts
    add_special_tokens: StrictBool = True
    prompt_name: StrictStr | None = None


class DecodeBody(Body):
    ids: TokenIds | list[TokenIds]
    skip_special_tokens: StrictBool = True


class OpenAIBody(Body):
    input: TextsOrIds
    user: StrictStr | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = None


EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class CohereEmbedBody(Body):
    texts: list[StrictStr]
    input_type: StrictStr | None = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: StrictInt | None = None
    truncate: Literal["END", "START", "NONE"] | None = None


class Document(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: StrictStr


class RankBody(Body):
    """Cohere's, Jina's and infinity's rerank."""

    query: StrictStr
    documents: list[StrictStr | Document]
    top_n: StrictInt | None = None
    return_documents: StrictBool = False
    raw_scores: StrictBool = False
    max_tokens_per_doc: StrictInt | None = None


class ScoreBody(Body):
    """vLLM's: one query for all documents, or one for each. `text_1` and `text_2` are older names."""

    queries: Texts | None = None
    documents: Texts | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None


class PoolingBody(Body):
    """vLLM's: the vectors of tokens. `is_query` is an extension of this package."""

    input: Texts
    task: Literal["token_embed"] = "token_embed"
    is_query: StrictBool = False


class EntitiesBody(Body):
    inputs: Texts


class QuestionAndContext(BaseModel):
    question: StrictStr
    context: StrictStr


class AnswersBody(Body):
    inputs: QuestionAndContext | list[QuestionAndContext]
    top_k: int = Field(1, ge=1, le=20, strict=True)


class FillMaskBody(Body):
    inputs: Texts
    top_k: int = Field(5, ge=1, le=1000, strict=True)


def listed(inputs: str | list[str] | TokenIds | list[str | TokenIds]) -> tuple[list[Text], bool]:
    """The texts of an `inputs` field, and whether it was a single text."""
    if isinstance(inputs, str):
        return [inputs], True
    if inputs and all(isinstance(one, int) for one in inputs):
        return [inputs], True  # type: ignore[list-item]
    return list(inputs), False  # type: ignore[arg-type]
