"""The source of an export: a model folder, its kind of model, and the padded form."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from modernbert.errors import CheckpointError, ConfigError
from modernbert.export import padded
from modernbert.model import (
    Encoder,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassifier,
    TokenClassifier,
)
from modernbert.model.folder import Pretrained, find_folder, read_architecture, read_json
from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.model.retrieval_modules import MODEL, read_modules


@dataclass(frozen=True)
class Kind:
    """A kind of model: the class that loads it, its padded form, and the outputs that are compared.

    `by_token` is true if the packed model returns a row for each token, and false for a row for each text.
    """

    name: str
    model: type[Pretrained]
    padded: Callable[[Any], nn.Module]
    compared: tuple[str, ...]
    by_token: bool


KINDS = {
    kind.name: kind
    for kind in (
        Kind("encoder", Encoder, padded.PaddedHiddenStates, ("last_hidden_state",), True),
        Kind("fill-mask", MaskedLM, padded.PaddedMaskedLM, ("logits",), True),
        Kind("classifier", SequenceClassifier, padded.PaddedSequenceTask, ("logits",), False),
        Kind("tokens", TokenClassifier, padded.PaddedTokenTask, ("logits",), True),
        Kind("answers", QuestionAnswering, padded.PaddedAnswers, ("start_logits", "end_logits"), True),
        Kind("choices", MultipleChoice, padded.PaddedSequenceTask, ("logits",), False),
        Kind("embedder", DenseEncoder, padded.PaddedEmbedder, ("sentence_embedding",), False),
        Kind("reranker", CrossEncoder, padded.PaddedSequenceTask, ("logits",), False),
        Kind("multi-vector", MultiVectorEncoder, padded.PaddedTokenVectors, ("token_embeddings",), True),
        Kind("sparse", SparseEncoder, padded.PaddedWordWeights, ("sentence_embedding",), False),
    )
}
_BY_LIBRARY = {  # model_type in config_sentence_transformers.json
    "SentenceTransformer": "embedder",
    "CrossEncoder": "reranker",
    "SparseEncoder": "sparse",
    "MultiVectorEncoder": "multi-vector",
    "ColBERT": "multi-vector",
}
_BY_ARCHITECTURE = {kind.model.architecture: kind.name for kind in list(KINDS.values())[:6]}


@dataclass(frozen=True, eq=False)
class Source:
    """A loaded model in fp32 and eval mode, and its folder."""

    folder: Path
    name: str
    kind: Kind
    model: Any  # of `kind.model`

    @property
    def outputs(self) -> tuple[str, ...]:
        outputs: tuple[str, ...] = self.padded().outputs  # type: ignore[assignment]
        return outputs

    def padded(self) -> nn.Module:
        """The padded form; it shares the parameters of the model."""
        return self.kind.padded(self.model)


def load_source(folder: str | Path, kind: str | None = None) -> Source:
    """Load a folder or a hub id as `kind`, or as the kind that its files name.

    Raises:
        CheckpointError: there is no such folder, or it does not hold such a model.
        ConfigError: the kind is unknown, or a graph cannot represent the model.
    """
    import torch

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"There is no kind {kind!r}; choose one of: {', '.join(KINDS)}.")
    source_folder = find_folder(folder)
    chosen = KINDS[kind or kind_of(source_folder)]
    model = chosen.model.from_pretrained(source_folder, dtype=torch.float32)
    if chosen.name == "embedder" and isinstance(model, DenseEncoder) and not model.settings.include_prompt:
        raise ConfigError(
            f"{folder} excludes the prompt from pooling (include_prompt is false), and a graph does not know the "
            "length of the prompt: export it with --kind encoder and pool outside of the graph."
        )
    return Source(source_folder, Path(folder).resolve().name or "model", chosen, model)


def kind_of(folder: Path) -> str:
    """The kind of model in a folder, from config_sentence_transformers.json, modules.json and config.json.

    Raises:
        CheckpointError: none of them names a supported kind.
    """
    named = read_json(folder / MODEL).get("model_type") if (folder / MODEL).is_file() else None
    if named in _BY_LIBRARY:
        return _BY_LIBRARY[named]
    modules = {module.kind for module in read_modules(folder)}
    for module, kind in (("SpladePooling", "sparse"), ("MultiVectorMask", "multi-vector"), ("Pooling", "embedder")):
        if module in modules:
            return kind
    architecture = read_architecture(folder)
    if architecture not in _BY_ARCHITECTURE:
        raise CheckpointError(
            f"{folder / 'config.json'} names the architecture {architecture!r}, which cannot be exported; choose the "
            f"kind of model with --kind: {', '.join(KINDS)}."
        )
    return _BY_ARCHITECTURE[architecture]
