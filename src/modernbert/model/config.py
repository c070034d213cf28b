"""The configuration of a ModernBERT, and its two forms in the config.json of a model folder."""

import logging
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from modernbert.config import Config, parse
from modernbert.errors import ConfigError

logger = logging.getLogger(__name__)

LayerType = Literal["full_attention", "sliding_attention"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

# Keys that transformers writes into every config.json and that do not change the outputs of the encoder.
_BOOKKEEPING = {
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "bos_token_id",
    "eos_token_id", "gradient_checkpointing", "deterministic_flash_attn", "reference_compile", "sparse_prediction",
    "sparse_pred_ignore_index", "repad_logits_with_grad", "position_embedding_type", "layer_norm_eps", "auto_map",
    "return_dict", "output_hidden_states", "output_attentions", "use_cache", "is_encoder_decoder", "num_labels",
    "chunk_size_feed_forward", "custom_pipelines", "task_specific_params", "sentence_transformers",
    "sbert_ce_default_activation_function",
}  # fmt: skip

# Options of other models or research configurations: other values would change the outputs.
_UNIMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu",),
    "classifier_activation": ("gelu",),
    "attention_dropout": (0.0, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
    "rope_scaling": (None,),
    "partial_rotary_factor": (1.0, None),
}

_MAX_LAYERS = 1000  # far above any encoder, so that a wrong file fails fast
_MAX_LABELS = 1_000_000
_INT32 = 2**31 - 1


# Keys of an older version for the settings of a task, and their names in `modernbert_task`.
_OLD_TASK_KEYS = {
    "span_units": "units",
    "joined_by": "joined_by",
    "label_words": "label_words",
    "reads_pairs": "pairs",
    "always_answers": "always_answers",
    "read_tokens": "max_length",
    "overlap_tokens": "overlap_tokens",
    "max_answer_tokens": "max_answer_tokens",
}
_NO_TASK = ("ModernBertForMaskedLM", "ModernBertModel")  # the older version wrote default values for these too

# Keys that follow from the sizes: other values would change the outputs.
_DERIVED = {"head_dim", "num_key_value_heads"}


class EncoderConfig(Config):
    """Sizes, layer pattern and constants. Field names are those of `transformers`; defaults are ModernBERT-base.

    `layer_types` has the kind of attention of each layer. By default, every `global_attn_every_n_layers`-th layer,
    starting with the first, is global (that field is None for other patterns). A sliding layer attends to
    `local_attention // 2` tokens on each side, inclusive. `id2label`, `problem_type` and `modernbert_task` belong to a
    head and are not used by the encoder; `modernbert_task` has the settings of the head's task
    (`modernbert.tasks.folder_settings`).
    """

    vocab_size: int = Field(50368, gt=0, le=_INT32)
    hidden_size: int = Field(768, gt=0, le=1 << 20)
    intermediate_size: int = Field(1152, gt=0, le=1 << 24)
    num_hidden_layers: int = Field(22, gt=0, le=_MAX_LAYERS)
    num_attention_heads: int = Field(12, gt=0, le=1 << 16)
    max_position_embeddings: int = Field(8192, gt=0, le=_INT32)
    layer_types: tuple[LayerType, ...] = ()
    global_attn_every_n_layers: int | None = Field(3, gt=0)
    local_attention: int = Field(128, gt=0, le=_INT32)
    global_rope_theta: float = Field(160_000.0, gt=0)
    local_rope_theta: float = Field(10_000.0, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    decoder_bias: bool = True
    tie_word_embeddings: bool = True
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    mlp_dropout: float = Field(0.0, ge=0, lt=1)
    attention_output_dropout: float = Field(0.0, ge=0, lt=1)
    initializer_range: float = Field(0.02, gt=0)
    initializer_cutoff_factor: float = Field(2.0, gt=0)
    classifier_pooling: Literal["cls", "mean"] = "mean"
    classifier_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_bias: bool = False
    pad_token_id: int | None = 50283
    cls_token_id: int | None = 50281
    sep_token_id: int | None = 50282
    mask_token_id: int | None = 50284
    id2label: dict[int, str] | None = None
    problem_type: ProblemType | None = None
    modernbert_task: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Fill in values that follow from others: the layer pattern, and special tokens in a smaller vocabulary."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        every, layers = values.get("global_attn_every_n_layers") or 3, values.get("num_hidden_layers", 22)
        if not values.get("layer_types") and isinstance(every, int) and isinstance(layers, int) and every > 0:
            values["layer_types"] = _pattern(every, min(layers, _MAX_LAYERS))
        if isinstance(types := values.get("layer_types"), list | tuple) and 0 < len(types) <= _MAX_LAYERS:
            given = tuple(types)
            periods = range(1, len(given) + 1)
            values["global_attn_every_n_layers"] = next((n for n in periods if _pattern(n, len(given)) == given), None)
        vocab_size = values.get("vocab_size", 50368)
        for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
            if name not in values and isinstance(vocab_size, int) and cls.model_fields[name].default >= vocab_size:
                values[name] = None
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must divide into {self.num_attention_heads} heads of an even size"
            )
        for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} {token} is outside the vocabulary of {self.vocab_size}")
        if self.id2label is not None and sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"id2label must number its {len(self.id2label)} labels from 0 without a gap")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(self.layer_types)} layers but num_hidden_layers is {self.num_hidden_layers}"
            )
        return self

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """ModernBERT-base: 22 layers, 149,014,272 parameters without a head."""
        return parse(cls, changes, where="EncoderConfig.base")

    @classmethod
    def large(cls, **changes: Any) -> Self:
        """ModernBERT-large: 28 layers, 394,781,696 parameters without a head."""
        sizes = {"hidden_size": 1024, "intermediate_size": 2624, "num_hidden_layers": 28, "num_attention_heads": 16}
        return parse(cls, sizes | changes, where="EncoderConfig.large")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a head's outputs in order; by default two, as in `transformers`."""
        named = self.id2label or {0: "LABEL_0", 1: "LABEL_1"}
        return tuple(named[index] for index in range(len(named)))

    def window(self, layer: int) -> int | None:
        """Tokens visible on each side in that layer (inclusive), or None if it is global."""
        return self.local_attention // 2 if self.layer_types[layer] == "sliding_attention" else None

    def rope_theta(self, layer: int) -> float:
        """The base of the rotary angles on that layer."""
        return self.global_rope_theta if self.layer_types[layer] == "full_attention" else self.local_rope_theta

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Self:
        """Read a config.json of `transformers` in either form.

        Raises:
            ConfigError: it describes another model, or uses an option that is not implemented.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} holds a {type(values).__name__}, not an object with keys.")
        if values.get("model_type", "modernbert") != "modernbert":
            raise ConfigError(
                f"{where} describes a {values['model_type']!r} model, not a 'modernbert'; choose a ModernBERT folder."
            )
        for key, accepted in _UNIMPLEMENTED.items():
            if key in values and values[key] not in accepted:
                raise ConfigError(f"{where}: {key} = {values[key]!r} is not implemented; only {accepted[0]!r} is.")
        fields = {key: value for key, value in values.items() if key in cls.model_fields and value is not None}
        fields.setdefault("classifier_pooling", "cls")  # the default of transformers
        fields |= _thetas(values, where)
        fields |= _window(values, where)
        fields |= _named_labels(values, where)
        fields |= _old_task(values)
        known = (
            cls.model_fields.keys()
            | _BOOKKEEPING
            | _UNIMPLEMENTED.keys()
            | _DERIVED
            | _OLD_TASK_KEYS.keys()
            | {"rope_parameters", "label2id"}
        )
        if ignored := sorted(map(str, values.keys() - known)):
            logger.warning("%s: ignoring keys that ModernBERT does not have: %s", where, ", ".join(ignored))
        config = parse(cls, fields, where=where)
        for key, derived in (("head_dim", config.head_dim), ("num_key_value_heads", config.num_attention_heads)):
            if values.get(key) not in (None, derived):
                raise ConfigError(
                    f"{where}: {key} = {values[key]!r} is not implemented; only {derived}, given its sizes."
                )
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json of this model with the keys of both forms, since some servers need the older one."""
        values = self.model_dump(mode="json", exclude={"id2label", "modernbert_task"})
        values |= {
            "model_type": "modernbert",
            "architectures": ["ModernBertForMaskedLM"],
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "attention_dropout": 0.0,
            "position_embedding_type": "absolute",
            "bos_token_id": self.cls_token_id,
            "eos_token_id": self.sep_token_id,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": self.global_rope_theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": self.local_rope_theta},
            },
        }
        if self.global_attn_every_n_layers is None:
            del values["global_attn_every_n_layers"]  # for servers that know only this field
        if self.id2label:
            values["id2label"] = {str(index): label for index, label in self.id2label.items()}
            values["label2id"] = {label: index for index, label in self.id2label.items()}
        if self.modernbert_task:
            values["modernbert_task"] = self.modernbert_task
        return values


def _pattern(every: int, layers: int) -> tuple[LayerType, ...]:
    return tuple("sliding_attention" if layer % every else "full_attention" for layer in range(layers))


def _thetas(values: Mapping[str, Any], where: str) -> dict[str, float]:
    """Both RoPE bases, from `rope_parameters` if given, otherwise from the two older fields."""
    parameters = values.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping) or not all(isinstance(one, Mapping | None) for one in parameters.values()):
        raise ConfigError(
            f"{where}: rope_parameters must name full_attention and sliding_attention, each with a table."
        )
    if unknown := sorted(map(str, parameters.keys() - {"full_attention", "sliding_attention"})):
        raise ConfigError(
            f"{where}: rope_parameters has {unknown[0]!r}; only full_attention and sliding_attention exist."
        )
    thetas: dict[str, float] = {}
    for kind, old in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        given = parameters.get(kind) or {}
        if given.get("rope_type", "default") != "default":
            raise ConfigError(f"{where}: rope_type {given['rope_type']!r} is not implemented; only 'default' is.")
        if given.get("partial_rotary_factor") not in (None, 1.0):
            factor = given["partial_rotary_factor"]
            raise ConfigError(f"{where}: partial_rotary_factor = {factor!r} is not implemented; only 1.0 is.")
        if unknown := sorted(map(str, given.keys() - {"rope_type", "rope_theta", "partial_rotary_factor"})):
            raise ConfigError(f"{where}: the rope parameter {unknown[0]!r} is not implemented.")
        theta = given.get("rope_theta", values.get(old))
        if (theta is None and old in values) or theta == -1:
            theta = thetas["global_rope_theta"] if old == "local_rope_theta" else None  # "same as global"
        elif theta is None:
            theta = EncoderConfig.model_fields[old].default
        if theta is not None:
            thetas[old] = theta
    return thetas


def _window(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The window from `sliding_window`, the name inside `transformers`, which counts one side."""
    side, both = values.get("sliding_window"), values.get("local_attention")
    if side is None:
        return {}
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise ConfigError(f"{where}: sliding_window = {side!r} is not a number of tokens.")
    if both is not None and both != 2 * side and both != 2 * side + 1:
        raise ConfigError(
            f"{where}: sliding_window = {side} is half of local_attention, which is {both!r}; leave out the wrong one."
        )
    return {"local_attention": 2 * side} if both is None else {}


def _named_labels(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`id2label` with integer keys; with the default names of `transformers` if only the number of labels is given."""
    labels, count = values.get("id2label"), values.get("num_labels")
    if labels:
        if not isinstance(labels, Mapping):
            raise ConfigError(f"{where}: id2label must name a label for each number.")
        try:
            return {"id2label": {int(index): label for index, label in labels.items()}}
        except (ValueError, TypeError):
            raise ConfigError(f'{where}: id2label must name a label for each number, such as "0".') from None
    if count is None or count == 0:
        return {}
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MAX_LABELS:
        raise ConfigError(f"{where}: num_labels = {count!r} is not a number of labels from 1 to {_MAX_LABELS:,}.")
    return {"id2label": {index: f"LABEL_{index}" for index in range(count)}}


def _old_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """`modernbert_task` from the keys of older folders."""
    architectures = values.get("architectures")
    without_task = isinstance(architectures, list) and any(name in _NO_TASK for name in architectures)
    if values.get("modernbert_task") is not None or without_task:
        return {}
    task = {new: values[old] for old, new in _OLD_TASK_KEYS.items() if values.get(old) is not None}
    if task.pop("label_words", None) is False:  # in still older versions: labels of tokens instead of words
        task.setdefault("units", "tokens")
    return {"modernbert_task": task} if task else {}
