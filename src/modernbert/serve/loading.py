"""From a model folder to a served model: its kind, and the engine of that kind."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modernbert.errors import CheckpointError, ConfigError
from modernbert.model.folder import find_folder, read_architecture, read_config, read_json
from modernbert.model.retrieval_modules import MODEL, read_modules
from modernbert.serve.heads import AnswersEngine, ClassifierEngine, EntitiesEngine, FillMaskEngine
from modernbert.serve.models import Kind, ServedModel
from modernbert.serve.retrieval import EmbedderEngine, MultiVectorEngine, RerankerEngine, SparseEngine
from modernbert.tasks.answer import QuestionAnswerer
from modernbert.tasks.classify import Classifier
from modernbert.tasks.embed import Embedder
from modernbert.tasks.fill_mask import FillMask
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.predictor import Predictor
from modernbert.tasks.rerank import Reranker
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.tasks.tokens import TokenClassifier

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BY_LIBRARY = {  # model_type of config_sentence_transformers.json
    "SentenceTransformer": Kind.EMBEDDER,
    "CrossEncoder": Kind.RERANKER,
    "MultiVectorEncoder": Kind.MULTI_VECTOR,
    "ColBERT": Kind.MULTI_VECTOR,
    "SparseEncoder": Kind.SPARSE,
}
_BY_ARCHITECTURE = {
    "ModernBertModel": Kind.EMBEDDER,
    "ModernBertForMaskedLM": Kind.FILL_MASK,
    "ModernBertForSequenceClassification": Kind.CLASSIFIER,
    "ModernBertForTokenClassification": Kind.ENTITIES,
    "ModernBertForQuestionAnswering": Kind.ANSWERS,
}
_LOADERS: dict[Kind, tuple[type[Predictor[Any]], type[Any]]] = {
    Kind.EMBEDDER: (Embedder, EmbedderEngine),
    Kind.RERANKER: (Reranker, RerankerEngine),
    Kind.MULTI_VECTOR: (MultiVectorEmbedder, MultiVectorEngine),
    Kind.SPARSE: (SparseEmbedder, SparseEngine),
    Kind.CLASSIFIER: (Classifier, ClassifierEngine),
    Kind.ENTITIES: (TokenClassifier, EntitiesEngine),
    Kind.ANSWERS: (QuestionAnswerer, AnswersEngine),
    Kind.FILL_MASK: (FillMask, FillMaskEngine),
}


def kind_of(folder: Path) -> Kind:
    """The kind of a model folder, by its files of sentence-transformers and PyLate, or else by its architecture.

    A classifier with one class that was not trained for regression is a reranker, as in text-embeddings-inference.

    Raises:
        CheckpointError: models of its architecture cannot be served.
    """
    described = read_json(folder / MODEL) if (folder / MODEL).is_file() else {}
    modules = {module.kind for module in read_modules(folder)}
    if (named := _BY_LIBRARY.get(str(described.get("model_type")))) is not None:
        return named
    if modules & {"SpladePooling"}:
        return Kind.SPARSE
    if modules & {"MultiVectorMask"} or "query_prefix" in described:
        return Kind.MULTI_VECTOR
    if modules & {"Pooling"}:
        return Kind.EMBEDDER
    architecture = read_architecture(folder)
    kind = _BY_ARCHITECTURE.get(architecture or "")
    if kind is None:
        raise CheckpointError(
            f"{folder} holds a {architecture or 'model without an architecture in config.json'}, which cannot be "
            f"served; supported are {', '.join(_BY_ARCHITECTURE)}."
        )
    if kind is Kind.CLASSIFIER:
        config = read_config(folder)
        if len(config.labels) == 1 and config.problem_type is None:
            return Kind.RERANKER
    return kind


def load(
    source: str,
    name: str | None = None,
    *,
    kind: Kind | None = None,
    device: str = "auto",
    max_length: int | None = None,
    dtype: str | None = None,
    int8: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> ServedModel:
    """Load a folder or a hub id, ready to run. The default name is the last part of the path.

    Raises:
        CheckpointError, ConfigError, DataError, BackendError: as in the predictor of this kind.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; choose {', '.join(DTYPES)}, or leave it out.")
    folder = find_folder(source, revision, token)
    kind = kind or kind_of(folder)
    predictor_class, engine_class = _LOADERS[kind]
    predictor = predictor_class.from_pretrained(
        folder, max_length=max_length, device=device, dtype=DTYPES[dtype] if dtype else None, int8=int8
    )
    parameter = next(predictor.model.parameters())
    settings = getattr(predictor.model, "settings", None)
    engine = engine_class(predictor)
    engine.run(engine.warmup_items())  # choose kernels now, and refuse a model that cannot run
    model = ServedModel(
        name=name or _name_of(source),
        kind=kind,
        engine=engine,
        tokenizer=predictor.tokenizer,
        max_length=predictor.max_length,
        source=source if not Path(source).exists() else _name_of(source),  # clients must not see local paths
        dtype="int8" if int8 else str(parameter.dtype).removeprefix("torch."),
        device=parameter.device.type,
        revision=revision,
        prompts=dict(getattr(settings, "prompts", {})),
        pooling="_".join(getattr(settings, "pooling", ())) or None if kind is Kind.EMBEDDER else None,
        labels=tuple(predictor.model.config.labels) if kind in (Kind.CLASSIFIER, Kind.RERANKER, Kind.ENTITIES) else (),
    )
    logger.info("%s: %s, %s, up to %d tokens.", model.name, kind, model.dtype, model.max_length)
    return model


def load_all(sources: Sequence[str], names: Sequence[str], **options: Any) -> list[ServedModel]:
    """Load several models; `names` are empty or one for each model, in order.

    Raises:
        ConfigError: the numbers of names and models differ.
    """
    if names and len(names) != len(sources):
        raise ConfigError(f"There are {len(names)} names for {len(sources)} models; give one for each, or none.")
    named: Sequence[str | None] = names or [None] * len(sources)
    return [load(source, name, **options) for source, name in zip(sources, named, strict=True)]


def _name_of(source: str) -> str:
    path = Path(source)
    return path.resolve().name if path.exists() else source
