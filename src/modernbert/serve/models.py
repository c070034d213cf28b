"""The models of a server: what each can do, and which one a request means."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tokenizers import Tokenizer

from modernbert.errors import ConfigError
from modernbert.serve.failures import NotServedError, UnknownModelError


class Kind(StrEnum):
    """What a model folder is for."""

    EMBEDDER = "embedder"
    RERANKER = "reranker"
    CLASSIFIER = "classifier"
    ENTITIES = "entities"
    ANSWERS = "answers"
    FILL_MASK = "fill-mask"
    MULTI_VECTOR = "multi-vector"
    SPARSE = "sparse"


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A loaded model under the name by which requests ask for it."""

    name: str
    kind: Kind
    engine: Any  # the class of its kind, in heads.py or retrieval.py
    tokenizer: Tokenizer
    max_length: int
    source: str
    dtype: str
    device: str = "cpu"
    revision: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    pooling: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def model_type(self) -> dict[str, Any]:
        """`model_type` of `/info`: three of its forms are those of text-embeddings-inference."""
        numbered = {str(number): label for number, label in enumerate(self.labels)}
        names = {"id2label": numbered, "label2id": {label: int(number) for number, label in numbered.items()}}
        match self.kind:
            case Kind.EMBEDDER:
                return {"embedding": {"pooling": self.pooling}}
            case Kind.SPARSE:
                return {"embedding": {"pooling": "splade"}}
            case Kind.RERANKER | Kind.CLASSIFIER:
                return {str(self.kind): names}
            case Kind.ENTITIES:
                return {"entities": names}
            case kind:
                return {str(kind): {}}


class Catalogue:
    """All models of a server, in the order in which they were named."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        if not models:
            raise ConfigError("There is no model to serve; name at least one folder or hub id.")
        names = [model.name for model in models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"Two models are called {twice[0]!r}; give each its name with --served-model-name, in order."
            )
        self.models = tuple(models)

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(model.kind for model in self.models)

    def select(self, kinds: Sequence[Kind], name: str | None, what: str) -> ServedModel:
        """The model that is named, or the first of `kinds`, in the order of these.

        Raises:
            NotServedError: no model is of such a kind; `what` says what it would have to be.
            UnknownModelError: the name is not that of a model of such a kind.
        """
        fitting = [model for kind in kinds for model in self.models if model.kind is kind]
        if name:
            for model in fitting:
                if model.name == name:
                    return model
        if not fitting:
            raise NotServedError(f"model is not {what}")
        if not name:
            return fitting[0]
        known = ", ".join(model.name for model in fitting)
        raise UnknownModelError(f"The model `{name[:200]}` is not served as {what}; served are: {known}")
