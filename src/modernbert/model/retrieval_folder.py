"""Strict reading of the folders of sentence-transformers (all layouts and kinds of models) and PyLate.

A key of such a folder that this package does not support is an error that names the key.
"""

import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from modernbert.config import parse
from modernbert.errors import CheckpointError
from modernbert.model.folder import read_json
from modernbert.model.pooling import PoolingMode
from modernbert.model.retrieval_modules import MODEL, MODULES, PREDICTORS, TABLE, TRANSFORMER, Module, read_modules
from modernbert.model.retrieval_settings import (
    Activation,
    DenseSettings,
    Expansion,
    MultiVectorSettings,
    Projection,
    RerankSettings,
    RetrievalSettings,
    SparseSettings,
)

S = TypeVar("S", bound=RetrievalSettings)

LEGACY_POOLING: dict[str, PoolingMode] = {  # in the order in which their vectors are concatenated
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_LENGTHS = ("query_length", "document_length")
_PYLATE = {
    *("query_prefix", "document_prefix", "attend_to_expansion_tokens", "do_query_expansion", "skiplist_words"),
    *_LENGTHS,
}
_HARMLESS_ARGUMENTS = {  # arguments of a loader that do not change the outputs
    *("torch_dtype", "dtype", "attn_implementation", "revision", "token", "cache_dir", "local_files_only", "subfolder"),
    *(
        "trust_remote_code",
        "use_fast",
        "low_cpu_mem_usage",
        "device_map",
        "is_local",
        "model_max_length",
        "add_pooling_layer",
    ),
}


def read_dense(folder: Path) -> DenseSettings:
    """The settings of a folder of `SentenceTransformer`; for a plain encoder, mean pooling.

    Raises:
        CheckpointError: the folder has another kind, or an option that is not implemented.
    """
    reader = _Reader(folder, "SentenceTransformer", "feature-extraction")
    values: dict[str, Any] = {"projections": []}
    for position, module in enumerate(reader.later_modules):
        if position == 0 and module.kind == "Pooling":
            values |= _pooling(module.folder)
        elif position and module.kind == "Dense" and "normalize" not in values:
            values["projections"].append(_projection(module.folder, "sentence_embedding"))
        elif position and module.kind == "Normalize" and "normalize" not in values:
            _check_tensor_names(module.folder, "sentence_embedding")
            values["normalize"] = True
        else:
            raise reader.unexpected(module, "Pooling, any number of Dense, Normalize")
    if reader.modules and not reader.later_modules:
        raise CheckpointError(f"{folder / MODULES} names no Pooling after the Transformer.")
    values |= reader.common("similarity_fn_name", "truncate_dim")
    _rename(values, "similarity_fn_name", "similarity")
    return reader.settings(DenseSettings, values)


def read_rerank(folder: Path) -> RerankSettings:
    """The settings of a folder of `CrossEncoder` of any version.

    Raises:
        CheckpointError: the folder has another kind, or an option that is not implemented.
    """
    reader = _Reader(folder, "CrossEncoder", "sequence-classification")
    for module in reader.later_modules:
        raise reader.unexpected(module, "nothing")
    values = reader.common("activation_fn", "keep_in_fp32_modules")
    values.pop("keep_in_fp32_modules", None)
    config = read_json(folder / "config.json")
    older = config.get("sentence_transformers")
    named = [values.pop("activation_fn", None)]
    named += [older.get("activation_fn") if isinstance(older, dict) else None]
    named += [config.get("sbert_ce_default_activation_function")]
    found = next((name for name in named if name is not None), None)
    activation = None if found is None else _activation(found, folder / MODEL, "activation_fn")
    return reader.settings(RerankSettings, values | {"activation": activation})


def read_sparse(folder: Path) -> SparseSettings:
    """The settings of a folder of `SparseEncoder` with a SPLADE head, or of a plain masked language model.

    Raises:
        CheckpointError: the folder has another kind, or an option that is not implemented.
    """
    reader = _Reader(folder, "SparseEncoder", "fill-mask")
    values: dict[str, Any] = {}
    for position, module in enumerate(reader.later_modules):
        path = module.folder / "config.json"
        if position == 1 and module.kind == TABLE:
            values |= reader.query_table(module.folder)
            continue
        if position or module.kind != "SpladePooling":
            raise reader.unexpected(module, f"SpladePooling, and with a Router {TABLE} for queries")
        keys = _read_keys(
            path,
            {
                "pooling_strategy",
                "activation_function",
                "embedding_dimension",
                "word_embedding_dimension",
                "chunk_size",
            },
        )
        values["pooling"] = keys.get("pooling_strategy", "max")
        values["activation"] = keys.get("activation_function", "relu")
    if reader.modules and not reader.later_modules:
        raise CheckpointError(f"{folder / MODULES} names no SpladePooling after the Transformer.")
    values |= reader.common("similarity_fn_name")
    _rename(values, "similarity_fn_name", "similarity")
    return reader.settings(SparseSettings, values)


def read_multi_vector(folder: Path) -> MultiVectorSettings:
    """The settings of a folder of `MultiVectorEncoder` or of PyLate's `ColBERT`.

    A plain encoder has no projection and no expansion.

    Raises:
        CheckpointError: the folder has another kind, or an option that is not implemented.
    """
    reader = _Reader(folder, "MultiVectorEncoder", "feature-extraction")
    pylate = reader.model.get("model_type") == "ColBERT"
    values: dict[str, Any] = {"projections": [], "normalize": pylate or not reader.modules}
    seen: set[str] = set()
    for module in reader.later_modules:
        if module.kind == "Dense" and not seen:
            values["projections"].append(_projection(module.folder, "token_embeddings"))
        elif module.kind == "MultiVectorMask" and module.kind not in seen:
            keys = _read_keys(
                module.folder / "config.json", {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"}
            )
            if keys.get("keep_only_token_ids"):
                raise CheckpointError(f"{module.folder / 'config.json'}: keep_only_token_ids is not implemented.")
            values |= {"skip_words": keys.get("skiplist_words") or []}
            values |= {"skip_roles": keys["skiplist_tasks"]} if keys.get("skiplist_tasks") is not None else {}
        elif module.kind == "Normalize" and module.kind not in seen:
            _check_tensor_names(module.folder, "token_embeddings")
            values["normalize"] = True
        else:
            raise reader.unexpected(module, "any number of Dense, MultiVectorMask, Normalize")
        seen |= {module.kind} - {"Dense"}
    values |= reader.common("similarity_fn_name", *_PYLATE)
    if values.pop("similarity_fn_name", None) not in (None, "maxsim", "MaxSim", "cosine", "dot"):
        raise CheckpointError(f"{folder / MODEL}: similarity_fn_name is not implemented; only 'maxsim' is.")
    for prefix, name in (("query_prefix", "query"), ("document_prefix", "document")):
        if before := values.pop(prefix, None):
            text = (values.get("prompts") or {}).get(name) or ""
            values["prompts"] = {**(values.get("prompts") or {}), name: before + text.removeprefix(before)}
    if pylate and values.get("skiplist_words") is None:
        values["skiplist_words"] = list(string.punctuation)  # the default of PyLate
    _rename(values, "skiplist_words", "skip_words")
    expand, attend = values.pop("do_query_expansion", None), values.pop("attend_to_expansion_tokens", None)
    if pylate and expand is not False:
        values["expansion"] = Expansion(length=values.pop("query_length", None) or 32, attend=bool(attend))
    return reader.settings(MultiVectorSettings, reader.lengths() | values)


class _Reader:
    """Reads the files that all kinds have, and checks every key."""

    def __init__(self, folder: Path, kind: str, task: str) -> None:
        self.folder, self.task = folder, task
        self.modules = read_modules(folder)
        self.later_modules = self.modules[1:]
        self.model = read_json(folder / MODEL) if (folder / MODEL).is_file() else {}
        self.encoder_path = self.modules[0].folder if self.modules else folder  # with the encoder and its tokenizer
        self.transformer = (
            read_json(self.encoder_path / TRANSFORMER) if (self.encoder_path / TRANSFORMER).is_file() else {}
        )
        found = self.model.get("model_type")
        if found is not None and PREDICTORS.get(found) != PREDICTORS[kind]:
            loads = f"load it with {PREDICTORS[found]}" if found in PREDICTORS else "it is not implemented"
            raise CheckpointError(f"{folder / MODEL}: model_type is {found!r}; {loads}.")

    def unexpected(self, module: Module, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder / MODULES}: the module {module.kind} is not implemented at this position; supported after "
            f"the Transformer: {expected}."
        )

    def common(self, *keys: str) -> dict[str, Any]:
        """Prompts, lengths, and the values of other `keys`, if present."""
        path = self.folder / MODEL
        ignored = {"__version__", "model_type", "requirements"}
        for key, value in self.model.items():
            if key not in {"prompts", "default_prompt_name", *ignored, *keys} and value is not None:
                raise CheckpointError(f"{path}: {key} is not implemented for this kind of model.")
        prompts = self.model.get("prompts") or {}
        if not isinstance(prompts, Mapping):
            raise CheckpointError(f"{path}: prompts must name a text for each prompt.")
        values = {key: self.model[key] for key in keys if self.model.get(key) is not None}
        values["prompts"] = {name: text or "" for name, text in prompts.items()}
        values["default_prompt_name"] = self.model.get("default_prompt_name")
        return values | self._transformer()

    def _transformer(self) -> dict[str, Any]:
        path = self.encoder_path / TRANSFORMER
        known = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}
        known |= {"unpad_inputs", "processing_kwargs", "query_expansion", *_LENGTHS}
        arguments = {"model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs"}
        max_length = self.transformer.get("max_seq_length")
        for key, value in self.transformer.items():
            if key in arguments:
                for name, argument in (value or {}).items():
                    if name not in _HARMLESS_ARGUMENTS:
                        raise CheckpointError(f"{path}: {key}.{name} = {argument!r} is not implemented.")
                max_length = (value or {}).get("model_max_length", max_length)
            elif key not in known or (key == "processing_kwargs" and value):
                raise CheckpointError(f"{path}: {key} is not implemented.")
        task = self.transformer.get("transformer_task", self.task)
        if task != self.task:
            raise CheckpointError(f"{path}: transformer_task is {task!r}, not {self.task!r}.")
        output = "last_hidden_state" if task == "feature-extraction" else "logits"
        modality = self.transformer.get("modality_config")
        if modality is not None and modality != {"text": {"method": "forward", "method_output_name": output}}:
            raise CheckpointError(f"{path}: modality_config = {modality!r} is not implemented; only text is.")
        lower = bool(self.transformer.get("do_lower_case"))
        return {"max_length": max_length or _tokenizer_length(self.encoder_path), "lower_case": lower}

    def query_table(self, folder: Path) -> dict[str, Any]:
        """The settings in the folder of a query table."""
        keys = _read_keys(folder / "config.json", {"frozen"})
        transformer = self._transformer()
        if transformer["lower_case"]:
            raise CheckpointError(
                f"{self.encoder_path / TRANSFORMER}: do_lower_case is not implemented with a {TABLE}."
            )
        length = _tokenizer_length(folder)
        return {
            "query_table": "frozen" if keys.get("frozen") else "trained",
            "query_length": None if length == transformer["max_length"] else length,
        }

    def lengths(self) -> dict[str, Any]:
        """The settings of late interaction in sentence_bert_config.json."""
        values = {key: self.transformer[key] for key in _LENGTHS if self.transformer.get(key) is not None}
        value = self.transformer.get("query_expansion")
        if value is None:
            return values
        path = self.folder / TRANSFORMER
        if not isinstance(value, dict) or value.keys() - {"strategy", "attend", "token", "length"}:
            raise CheckpointError(f"{path}: query_expansion = {value!r} is not implemented.")
        if value.get("strategy") not in ("fixed", "min"):
            raise CheckpointError(f"{path}: query_expansion.strategy = {value.get('strategy')!r} is not implemented.")
        expansion = {key: value[key] for key in ("attend", "token", "length") if value.get(key) is not None}
        values["expansion"] = parse(Expansion, expansion | {"fixed": value["strategy"] == "fixed"}, where=str(path))
        return values

    def settings(self, kind: type[S], values: Mapping[str, Any]) -> S:
        settings = parse(kind, values, where=str(self.folder))
        if settings.default_prompt_name is not None and settings.default_prompt_name not in settings.prompts:
            raise CheckpointError(
                f"{self.folder / MODEL}: default_prompt_name is {settings.default_prompt_name!r}, but prompts has no "
                "such name."
            )
        return settings


def _pooling(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    keys = _read_keys(
        path, {"pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension", *LEGACY_POOLING}
    )
    older = [mode for key, mode in LEGACY_POOLING.items() if keys.get(key)]
    value = keys.get("pooling_mode")
    modes = [value] if isinstance(value, str) else list(value or older or ["mean"])
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise CheckpointError(f"{path}: pooling_mode {mode!r} is not implemented.")
    if value is not None and older and sorted(older) != sorted(modes):
        raise CheckpointError(f"{path}: pooling_mode is {modes} but the older keys are {older}; correct the wrong one.")
    return {"pooling": modes, "include_prompt": keys.get("include_prompt", True)}


def _projection(folder: Path, place: str) -> Projection:
    path = folder / "config.json"
    keys = _read_keys(
        path,
        {
            "in_features",
            "out_features",
            "bias",
            "activation_function",
            "use_residual",
            "module_input_name",
            "module_output_name",
        },
    )
    _check_tensor_names(folder, place)
    name = keys.get("activation_function", "torch.nn.modules.activation.Tanh")
    return parse(
        Projection,
        {
            "in_features": keys.get("in_features"),
            "out_features": keys.get("out_features"),
            "bias": keys.get("bias", True),
            "activation": _activation(name, path, "activation_function"),
            "residual": keys.get("use_residual", False),
        },
        where=str(path),
    )


def _check_tensor_names(folder: Path, place: str) -> None:
    """Check that a module reads and writes the vectors of its kind of model."""
    path = folder / "config.json"
    keys = read_json(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if keys.get(key) not in (None, place):
            raise CheckpointError(f"{path}: {key} = {keys[key]!r} is not implemented; only {place!r} is.")


def _activation(name: object, path: Path, key: str) -> Activation:
    last = str(name).rpartition(".")[2]
    for known in get_args(Activation):
        if known == last and str(name).startswith("torch."):
            found: Activation = known
            return found
    raise CheckpointError(f"{path}: {key} = {name!r} is not implemented; there are {', '.join(get_args(Activation))}.")


def _read_keys(path: Path, keys: Collection[str]) -> dict[str, Any]:
    values = read_json(path) if path.is_file() else {}
    for key, value in values.items():
        if key not in keys and value is not None:
            raise CheckpointError(f"{path}: {key} is not implemented.")
    return values


def _tokenizer_length(folder: Path) -> int | None:
    """The maximum length in tokenizer_config.json; None if it is missing or unlimited."""
    path = folder / "tokenizer_config.json"
    values = read_json(path) if path.is_file() else {}
    for key, implemented in (("truncation_side", "right"),):
        if values.get(key) not in (None, implemented):
            raise CheckpointError(f"{path}: {key} = {values[key]!r} is not implemented; only {implemented!r} is.")
    length = values.get("model_max_length")
    return int(length) if isinstance(length, int | float) and 0 < length < 1e9 else None


def _rename(values: dict[str, Any], old: str, new: str) -> None:
    if old in values:
        values[new] = values.pop(old)
