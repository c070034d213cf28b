"""The models of a server: their kinds, and the selection of one for a request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tokenizers import Tokenizer

from modernbert.errors import ConfigError
from modernbert.serve.failures import NotServedError, UnknownModelError


class Kind(StrEnum):
    """The task of a model folder."""

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
    """A loaded model with its name in requests."""

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
        """`model_type` of `/info`. Embedders, rerankers and classifiers have the forms of text-embeddings-inference."""
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
    """All models of a server, in the order of the command line."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        if not models:
            raise ConfigError("There is no model to serve; name at least one folder or hub id.")
        names = [model.name for model in models]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"Two models are called {duplicates[0]!r}; give each its name with --served-model-name, in order."
            )
        self.models = tuple(models)

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(model.kind for model in self.models)

    def select(self, kinds: Sequence[Kind], name: str | None, description: str) -> ServedModel:
        """The model with this name, or the first model of the first of `kinds` that is served.

        Raises:
            NotServedError: no model has one of these kinds, which are named `description`.
            UnknownModelError: no model of these kinds has this name.
        """
        candidates = [model for kind in kinds for model in self.models if model.kind is kind]
        if name:
            for model in candidates:
                if model.name == name:
                    return model
        if not candidates:
            raise NotServedError(f"model is not {description}")
        if not name:
            return candidates[0]
        known = ", ".join(model.name for model in candidates)
        raise UnknownModelError(f"The model `{name[:200]}` is not served as {description}; served are: {known}")
