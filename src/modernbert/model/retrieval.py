"""Retrieval models on packed tokens: one vector, one score, a vector for each token, or a weight for each token id.

Their folders have the format of sentence-transformers; `settings` are the contents of such a folder except the weights.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.errors import CheckpointError
from modernbert.model.config import EncoderConfig
from modernbert.model.encoder import Encoder, pad_to_bucket
from modernbert.model.expansion import encode_with_masked
from modernbert.model.folder import (
    Pretrained,
    check_numbers,
    common_dtype,
    find_folder,
    read_architecture,
    read_tensors,
)
from modernbert.model.heads import MaskedLM, SequenceClassifier
from modernbert.model.init import initialize
from modernbert.model.pooling import Pooling
from modernbert.model.query_table import read_table
from modernbert.model.retrieval_folder import read_dense, read_multi_vector, read_rerank, read_sparse
from modernbert.model.retrieval_modules import TABLE, encoder_folder, predictor_name, read_modules
from modernbert.model.retrieval_saving import write_retrieval_folder
from modernbert.model.retrieval_settings import (
    Activation,
    DenseSettings,
    MultiVectorSettings,
    Projection,
    RerankSettings,
    RetrievalSettings,
    SparseSettings,
)
from modernbert.model.sparse_pooling import highest_logits, summed_activations
from modernbert.packed import Sequences

COLBERT_DIMENSIONS = 128  # of a token's vector, unless a folder sets another number (arXiv 2004.12832)
Changes = Mapping[str, Any] | None  # fields of the configuration that differ from those in a folder
Settings = TypeVar("Settings", bound=RetrievalSettings)

ACTIVATIONS: Mapping[Activation, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}


class Dense(nn.Module):
    """A linear layer with an activation and an optional residual. Parameters are named as in sentence-transformers."""

    def __init__(self, settings: Projection) -> None:
        super().__init__()
        self.linear = nn.Linear(settings.in_features, settings.out_features, bias=settings.bias)
        self.activation = ACTIVATIONS[settings.activation]()
        self.add_input = settings.residual
        same_size = settings.in_features == settings.out_features
        self.residual = (
            nn.Linear(settings.in_features, settings.out_features, bias=False)
            if settings.residual and not same_size
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        x = x.to(self.linear.weight.dtype)
        y = self.activation(self.linear(x))
        return y + self.residual(x) if self.add_input else y


class RetrievalModel(Pretrained, Generic[Settings]):
    """Loading and saving of the four kinds of retrieval models."""

    settings: Settings

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        changes: Changes = None,
        settings: Settings | None = None,
    ) -> Self:
        """Load a folder as `Pretrained` does. `settings` replace those of the folder.

        Projections or a classifier that a folder lacks are initialized randomly.

        Raises:
            CheckpointError: as in `Pretrained`, or the folder has another kind or an option that is not implemented.
        """
        folder = find_folder(source, revision, token, cache_dir, local_files_only)
        return cls._load(folder, settings, dtype, device, changes).eval()

    @classmethod
    @abstractmethod
    def _load(
        cls, folder: Path, settings: Settings | None, dtype: torch.dtype | None, device: Any, changes: Changes
    ) -> Self:
        """The model of a local folder."""

    def save_pretrained(self, folder: str | Path, tokenizer: str | Path | None = None, *, int8: bool = False) -> None:
        """Write a folder for this package and sentence-transformers; also for TEI and vLLM (except sparse and
        multi-vector models) and llama.cpp (embedders).

        Raises:
            DataError: `folder` is a file, or its config.json does not describe a model.
            CheckpointError: the folder cannot be written; earlier files in it are unchanged.
        """
        tensors, projections = self._weights()
        settings: Any = self.settings
        write_retrieval_folder(
            Path(folder),
            self.architecture,
            self.config,
            settings,
            tensors,
            [one.state_dict() for one in projections or ()],
            tokenizer or self.tokenizer_source,
            int8,
            self._query_weights(),
        )

    def _weights(self) -> tuple[Mapping[str, Tensor], nn.Sequential | None]:
        """The tensors of model.safetensors, and the projections, which are saved in subfolders."""
        return self.state_dict(), None

    def _query_weights(self) -> Tensor | None:
        """The query table, if the model has one; it is saved in a subfolder."""
        return None


class ProjectedModel(RetrievalModel[Settings]):
    """A retrieval model with an encoder and projections."""

    predictor: ClassVar[str]  # the name of its predictor class
    model: Encoder
    projections: nn.Sequential

    def _load_or_initialize_projections(self, folder: Path) -> None:
        """Load the projections of a folder, or initialize them randomly if the folder has none or another kind."""
        if read_modules(folder) and predictor_name(folder) in (None, self.predictor):
            _load_projections(self.projections, folder)
            return
        for dense in self.projections:
            initialize(dense, self.config)

    @classmethod
    def _from_encoder(cls, encoder: Encoder, settings: Any) -> Self:
        weight = encoder.embeddings.tok_embeddings.weight
        with torch.device("meta"):
            model = cls(encoder.config, settings)
        model.model = encoder
        model.projections.to_empty(device=weight.device).to(weight.dtype)
        model.tokenizer_source = encoder.tokenizer_source
        return model

    def _weights(self) -> tuple[Mapping[str, Tensor], nn.Sequential | None]:
        return self.model.state_dict(), self.projections


class DenseEncoder(ProjectedModel[DenseSettings]):
    """One vector for each text: encoder, pooling, projections, and optional normalization.

    For the folder of a plain encoder or masked language model, `settings` select the pooling (default: mean).
    """

    architecture: ClassVar[str] = "ModernBertModel"
    predictor = "Embedder"

    def __init__(self, config: EncoderConfig, settings: DenseSettings | None = None) -> None:
        super().__init__()
        self.config = config
        self.settings = settings or DenseSettings()
        self.model = Encoder(config)
        self.pooling = Pooling(self.settings.pooling, self.settings.include_prompt)
        self.projections = _projections(
            self.settings.projections, config.hidden_size * len(self.settings.pooling), "projections"
        )

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        projections = self.settings.projections
        pooled = self.config.hidden_size * len(self.settings.pooling)
        return projections[-1].out_features if projections else pooled

    def forward(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, prompt_tokens: int = 0
    ) -> Float[Tensor, "sequences dimensions"]:
        """The vectors, in fp32. `prompt_tokens` is the length of the prompt with [CLS], if pooling excludes it."""
        x = self.pooling(self.model(tokens, sequences), sequences, prompt_tokens)
        x = self.projections(x).float()
        return F.normalize(x, dim=-1) if self.settings.normalize else x

    @classmethod
    def _load(
        cls, folder: Path, settings: DenseSettings | None, dtype: torch.dtype | None, device: Any, changes: Changes
    ) -> Self:
        encoder = Encoder.from_pretrained(folder, dtype=dtype, device=device, changes=changes)
        model = cls._from_encoder(encoder, settings or read_dense(folder))
        model._load_or_initialize_projections(folder)
        return model


class CrossEncoder(RetrievalModel[RerankSettings], SequenceClassifier):
    """A score for each pair of texts, `[CLS] query [SEP] document [SEP]`: logits, before the activation.

    From a folder without a classifier, the classifier is reinitialized with one output.
    """

    def __init__(self, config: EncoderConfig, settings: RerankSettings | None = None) -> None:
        super().__init__(config)
        self.settings = settings or RerankSettings()

    @property
    def activation(self) -> nn.Module:
        """The function from logits to scores."""
        default: Activation = "Sigmoid" if len(self.config.labels) == 1 else "Identity"
        return ACTIVATIONS[self.settings.activation or default]()

    @classmethod
    def _load(
        cls, folder: Path, settings: RerankSettings | None, dtype: torch.dtype | None, device: Any, changes: Changes
    ) -> Self:
        settings = settings or read_rerank(folder)
        if read_architecture(folder) != cls.architecture:
            changes = {"id2label": {0: "LABEL_0"}, "problem_type": None} | dict(changes or {})
        model = super(RetrievalModel, cls).from_pretrained(folder, dtype=dtype, device=device, changes=changes)
        model.settings = settings
        return model


class MultiVectorEncoder(ProjectedModel[MultiVectorSettings]):
    """A vector for each token, for late interaction (ColBERT, arXiv 2004.12832).

    From the folder of a plain encoder a projection to 128 dimensions is reinitialized.
    """

    architecture: ClassVar[str] = "ModernBertModel"
    predictor = "MultiVectorEmbedder"

    def __init__(self, config: EncoderConfig, settings: MultiVectorSettings | None = None) -> None:
        super().__init__()
        self.config = config
        self.settings = settings or MultiVectorSettings()
        self.model = Encoder(config)
        self._original_encoder: tuple[Encoder, ...] = ()  # a tuple, so that its parameters are not counted twice
        self.projections = _projections(self.settings.projections, config.hidden_size, "projections")

    @property
    def dimensions(self) -> int:
        """The length of a token's vector."""
        projections = self.settings.projections
        return projections[-1].out_features if projections else self.config.hidden_size

    @property
    def has_masked_expansion(self) -> bool:
        """Whether queries end with expansion tokens to which no token attends."""
        return self.settings.expansion is not None and not self.settings.expansion.attend

    def keep_original_encoder(self) -> None:
        """Keep the encoder for queries with masked tokens, before an encoder without support for them replaces it."""
        assert isinstance(self.model, Encoder)
        self._original_encoder = (self.model,)

    def forward(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, visible: Bool[Tensor, "tokens"] | None = None
    ) -> Float[Tensor, "tokens dimensions"]:
        """The vector of each token, in fp32. No token attends to tokens where `visible` is false."""
        if visible is None:
            x = self.model(tokens, sequences)
        else:
            encoder = self._original_encoder[0] if self._original_encoder else self.model
            x = encode_with_masked(encoder, tokens, sequences, visible)
        count = len(x)
        x = self.projections(pad_to_bucket(x))[:count].float()
        return F.normalize(x, dim=-1) if self.settings.normalize else x

    @classmethod
    def _load(
        cls,
        folder: Path,
        settings: MultiVectorSettings | None,
        dtype: torch.dtype | None,
        device: Any,
        changes: Changes,
    ) -> Self:
        plain = not read_modules(folder)
        settings = settings or read_multi_vector(folder)
        encoder = Encoder.from_pretrained(folder, dtype=dtype, device=device, changes=changes)
        if plain and not settings.projections:
            projection = Projection(
                in_features=encoder.config.hidden_size,
                out_features=COLBERT_DIMENSIONS,
                bias=False,
                activation="Identity",
            )
            settings = settings.model_copy(update={"projections": (projection,)})
        model = cls._from_encoder(encoder, settings)
        model._load_or_initialize_projections(folder)
        return model


class SparseEncoder(RetrievalModel[SparseSettings], MaskedLM):
    """A weight of at least 0 for each entry of the vocabulary: log(1 + relu) of the largest logit of a text's tokens.

    No (tokens, vocab) tensor exists in memory. It can be loaded from any masked language model. The settings may
    select a table of fp32 weights for queries (`query_table`, initially ones) instead of the encoder.
    """

    query_table: nn.Parameter | None

    def __init__(self, config: EncoderConfig, settings: SparseSettings | None = None) -> None:
        super().__init__(config)
        self._set(settings or SparseSettings())

    def _set(self, settings: SparseSettings, weights: Tensor | None = None) -> None:
        """Set the settings, and the weights of the query table if they select one."""
        self.settings, self.query_table = settings, None
        if settings.query_table is not None:
            weights = torch.ones(self.config.vocab_size) if weights is None else weights
            weights = weights.to(self.decoder.weight.device)
            self.query_table = nn.Parameter(weights, requires_grad=settings.query_table == "trained")

    @property
    def dimensions(self) -> int:
        """The size of the vocabulary."""
        return self.config.vocab_size

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "sequences vocab"]:
        """The weights, in fp32; zeros for an empty sequence."""
        x = self.model(tokens, sequences)
        x = self.head(pad_to_bucket(x))[: len(x)]
        weight, bias = self.decoder.weight, self.decoder.bias
        twice = self.settings.activation == "log1p_relu"
        if self.settings.pooling == "sum":
            return summed_activations(x, weight, bias, sequences, twice)
        weights = highest_logits(x, weight, bias, sequences).float().relu().log1p()
        return weights.log1p() if twice else weights

    def look_up(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "sequences vocab"]:
        """The weights of queries, whose tokens have no [CLS] and [SEP]. Repeated tokens count once."""
        assert self.query_table is not None, "this model encodes its queries"
        owners = torch.repeat_interleave(sequences.cu_seqlens.diff(), output_size=len(tokens))
        present = self.query_table.new_zeros(sequences.num_sequences, self.config.vocab_size)
        present[owners, tokens.long()] = 1
        return present * self.query_table

    @classmethod
    def _load(
        cls, folder: Path, settings: SparseSettings | None, dtype: torch.dtype | None, device: Any, changes: Changes
    ) -> Self:
        settings, encoder_path = settings or read_sparse(folder), encoder_folder(folder)
        model = super(RetrievalModel, cls).from_pretrained(encoder_path, dtype=dtype, device=device, changes=changes)
        table = next((module.folder for module in read_modules(folder) if module.kind == TABLE), None)
        model._set(settings, None if table is None else read_table(table, encoder_path, model.config.vocab_size))
        return model

    def _weights(self) -> tuple[Mapping[str, Tensor], nn.Sequential | None]:
        excluded = {*self.tied, "query_table"}
        return {name: x for name, x in self.state_dict().items() if name not in excluded}, None

    def _query_weights(self) -> Tensor | None:
        return self.query_table


def _projections(settings: tuple[Projection, ...], width: int, where: str) -> nn.Sequential:
    for number, one in enumerate(settings):
        if one.in_features != width:
            raise CheckpointError(
                f"{where}: layer {number + 1} has in_features {one.in_features}, but its input has {width}; correct "
                "in_features, or choose the right folder."
            )
        width = one.out_features
    return nn.Sequential(*(Dense(one) for one in settings))


def _load_projections(projections: nn.Sequential, folder: Path) -> None:
    """Load the weights of the modules `Dense` of a folder, in order."""
    dense = [module for module in read_modules(folder) if module.kind == "Dense"]
    if len(dense) != len(projections):
        raise CheckpointError(f"{folder} has {len(dense)} Dense modules, but the settings have {len(projections)}.")
    for module, target in zip(dense, projections, strict=True):
        tensors = read_tensors(module.folder)
        expected = target.state_dict()
        shapes = {name: tuple(x.shape) for name, x in tensors.items()}
        if shapes != {name: tuple(x.shape) for name, x in expected.items()}:
            raise CheckpointError(
                f"{module.folder} does not hold the Dense layer that its config.json describes: {shapes}."
            )
        common_dtype(tensors, module.folder)
        like = next(iter(expected.values()))
        check_numbers(tensors, like.dtype, module.folder)
        target.load_state_dict(tensors)
