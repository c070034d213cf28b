"""Folders of sentence-transformers (every layout), CrossEncoder, MultiVectorEncoder, PyLate and SPLADE, read strictly.

What such a folder says and this package would compute differently is an error that names the key.
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

LEGACY_POOLING: dict[str, PoolingMode] = {  # in the order in which several are put behind each other
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
_HARMLESS_ARGUMENTS = {  # of a loader; they do not change what is computed
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
    """The settings of a folder of `SentenceTransformer`; of a plain encoder, mean pooling.

    Raises:
        CheckpointError: it is of another kind, or asks for something that is not implemented, which it names.
    """
    reader = _Reader(folder, "SentenceTransformer", "feature-extraction")
    values: dict[str, Any] = {"projections": []}
    for position, module in enumerate(reader.behind):
        if position == 0 and module.kind == "Pooling":
            values |= _pooling(module.folder)
        elif position and module.kind == "Dense" and "normalize" not in values:
            values["projections"].append(_projection(module.folder, "sentence_embedding"))
        elif position and module.kind == "Normalize" and "normalize" not in values:
            _check_places(module.folder, "sentence_embedding")
            values["normalize"] = True
        else:
            raise reader.unexpected(module, "Pooling, any number of Dense, Normalize")
    if reader.modules and not reader.behind:
        raise CheckpointError(f"{folder / MODULES} names no Pooling behind the Transformer.")
    values |= reader.common("similarity_fn_name", "truncate_dim")
    _rename(values, "similarity_fn_name", "similarity")
    return reader.settings(DenseSettings, values)


def read_rerank(folder: Path) -> RerankSettings:
    """The settings of a folder of `CrossEncoder`, of every version.

    Raises:
        CheckpointError: it is of another kind, or asks for something that is not implemented, which it names.
    """
    reader = _Reader(folder, "CrossEncoder", "sequence-classification")
    for module in reader.behind:
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
    """The settings of a folder of `SparseEncoder` with a SPLADE head; a plain masked language model is one too.

    Raises:
        CheckpointError: it is of another kind, or asks for something that is not implemented, which it names.
    """
    reader = _Reader(folder, "SparseEncoder", "fill-mask")
    values: dict[str, Any] = {}
    for position, module in enumerate(reader.behind):
        path = module.folder / "config.json"
        if position == 1 and module.kind == TABLE:
            values |= reader.query_table(module.folder)
            continue
        if position or module.kind != "SpladePooling":
            raise reader.unexpected(module, f"SpladePooling, and {TABLE} of queries behind a Router")
        own = _known(
            path,
            {
                "pooling_strategy",
                "activation_function",
                "embedding_dimension",
                "word_embedding_dimension",
                "chunk_size",
            },
        )
        values["pooling"] = own.get("pooling_strategy", "max")
        values["activation"] = own.get("activation_function", "relu")
    if reader.modules and not reader.behind:
        raise CheckpointError(f"{folder / MODULES} names no SpladePooling behind the Transformer.")
    values |= reader.common("similarity_fn_name")
    _rename(values, "similarity_fn_name", "similarity")
    return reader.settings(SparseSettings, values)


def read_multi_vector(folder: Path) -> MultiVectorSettings:
    """The settings of a folder of `MultiVectorEncoder` or of PyLate's `ColBERT`.

    A plain encoder has none: no projection, no expansion.

    Raises:
        CheckpointError: it is of another kind, or asks for something that is not implemented, which it names.
    """
    reader = _Reader(folder, "MultiVectorEncoder", "feature-extraction")
    pylate = reader.model.get("model_type") == "ColBERT"
    values: dict[str, Any] = {"projections": [], "normalize": pylate or not reader.modules}
    seen: set[str] = set()
    for module in reader.behind:
        if module.kind == "Dense" and not seen:
            values["projections"].append(_projection(module.folder, "token_embeddings"))
        elif module.kind == "MultiVectorMask" and module.kind not in seen:
            own = _known(module.folder / "config.json", {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"})
            if own.get("keep_only_token_ids"):
                raise CheckpointError(f"{module.folder / 'config.json'}: keep_only_token_ids is not implemented.")
            values |= {"skip_words": own.get("skiplist_words") or []}
            values |= {"skip_roles": own["skiplist_tasks"]} if own.get("skiplist_tasks") is not None else {}
        elif module.kind == "Normalize" and module.kind not in seen:
            _check_places(module.folder, "token_embeddings")
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
        values["skiplist_words"] = list(string.punctuation)  # what PyLate does where nothing is said
    _rename(values, "skiplist_words", "skip_words")
    expand, attend = values.pop("do_query_expansion", None), values.pop("attend_to_expansion_tokens", None)
    if pylate and expand is not False:
        values["expansion"] = Expansion(length=values.pop("query_length", None) or 32, attend=bool(attend))
    return reader.settings(MultiVectorSettings, reader.lengths() | values)


class _Reader:
    """The files that all kinds have, each key looked at."""

    def __init__(self, folder: Path, kind: str, task: str) -> None:
        self.folder, self.task = folder, task
        self.modules = read_modules(folder)
        self.behind = self.modules[1:]
        self.model = read_json(folder / MODEL) if (folder / MODEL).is_file() else {}
        self.inside = self.modules[0].folder if self.modules else folder  # with the encoder and its tokenizer
        self.transformer = read_json(self.inside / TRANSFORMER) if (self.inside / TRANSFORMER).is_file() else {}
        found = self.model.get("model_type")
        if found is not None and PREDICTORS.get(found) != PREDICTORS[kind]:
            loads = f"load it with {PREDICTORS[found]}" if found in PREDICTORS else "it is not implemented"
            raise CheckpointError(f"{folder / MODEL}: model_type is {found!r}; {loads}.")

    def unexpected(self, module: Module, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder / MODULES}: the module {module.kind} is not implemented at its place; behind the "
            f"Transformer come {expected}."
        )

    def common(self, *also: str) -> dict[str, Any]:
        """Prompts, lengths, and the values of the keys `also` where they are there."""
        path = self.folder / MODEL
        ignored = {"__version__", "model_type", "requirements"}
        for key, value in self.model.items():
            if key not in {"prompts", "default_prompt_name", *ignored, *also} and value is not None:
                raise CheckpointError(f"{path}: {key} is not implemented for this kind of model.")
        prompts = self.model.get("prompts") or {}
        if not isinstance(prompts, Mapping):
            raise CheckpointError(f"{path}: prompts must name a text for each prompt.")
        values = {key: self.model[key] for key in also if self.model.get(key) is not None}
        values["prompts"] = {name: text or "" for name, text in prompts.items()}
        values["default_prompt_name"] = self.model.get("default_prompt_name")
        return values | self._transformer()

    def _transformer(self) -> dict[str, Any]:
        path = self.inside / TRANSFORMER
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
            raise CheckpointError(f"{path}: transformer_task is {task!r} and not {self.task!r}.")
        output = "last_hidden_state" if task == "feature-extraction" else "logits"
        modality = self.transformer.get("modality_config")
        if modality is not None and modality != {"text": {"method": "forward", "method_output_name": output}}:
            raise CheckpointError(f"{path}: modality_config = {modality!r} is not implemented; only text is.")
        lower = bool(self.transformer.get("do_lower_case"))
        return {"max_length": max_length or _tokenizer_length(self.inside), "lower_case": lower}

    def query_table(self, folder: Path) -> dict[str, Any]:
        """What the folder of a table for queries says."""
        own = _known(folder / "config.json", {"frozen"})
        transformer = self._transformer()
        if transformer["lower_case"]:
            raise CheckpointError(f"{self.inside / TRANSFORMER}: do_lower_case is not implemented beside a {TABLE}.")
        length = _tokenizer_length(folder)
        return {
            "query_table": "frozen" if own.get("frozen") else "trained",
            "query_length": None if length == transformer["max_length"] else length,
        }

    def lengths(self) -> dict[str, Any]:
        """What late interaction has of its own in sentence_bert_config.json."""
        values = {key: self.transformer[key] for key in _LENGTHS if self.transformer.get(key) is not None}
        given = self.transformer.get("query_expansion")
        if given is None:
            return values
        path = self.folder / TRANSFORMER
        if not isinstance(given, dict) or given.keys() - {"strategy", "attend", "token", "length"}:
            raise CheckpointError(f"{path}: query_expansion = {given!r} is not implemented.")
        if given.get("strategy") not in ("fixed", "min"):
            raise CheckpointError(f"{path}: query_expansion.strategy = {given.get('strategy')!r} is not implemented.")
        expansion = {key: given[key] for key in ("attend", "token", "length") if given.get(key) is not None}
        values["expansion"] = parse(Expansion, expansion | {"fixed": given["strategy"] == "fixed"}, where=str(path))
        return values

    def settings(self, kind: type[S], values: Mapping[str, Any]) -> S:
        settings = parse(kind, values, where=str(self.folder))
        if settings.default_prompt_name is not None and settings.default_prompt_name not in settings.prompts:
            raise CheckpointError(
                f"{self.folder / MODEL}: default_prompt_name is {settings.default_prompt_name!r}, and prompts has none "
                "of that name."
            )
        return settings


def _pooling(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    own = _known(
        path, {"pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension", *LEGACY_POOLING}
    )
    older = [mode for key, mode in LEGACY_POOLING.items() if own.get(key)]
    given = own.get("pooling_mode")
    modes = [given] if isinstance(given, str) else list(given or older or ["mean"])
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise CheckpointError(f"{path}: pooling_mode {mode!r} is not implemented.")
    if given is not None and older and sorted(older) != sorted(modes):
        raise CheckpointError(
            f"{path}: pooling_mode says {modes} but the older keys say {older}; correct the wrong one."
        )
    return {"pooling": modes, "include_prompt": own.get("include_prompt", True)}


def _projection(folder: Path, place: str) -> Projection:
    path = folder / "config.json"
    own = _known(
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
    _check_places(folder, place)
    name = own.get("activation_function", "torch.nn.modules.activation.Tanh")
    return parse(
        Projection,
        {
            "in_features": own.get("in_features"),
            "out_features": own.get("out_features"),
            "bias": own.get("bias", True),
            "activation": _activation(name, path, "activation_function"),
            "residual": own.get("use_residual", False),
        },
        where=str(path),
    )


def _check_places(folder: Path, place: str) -> None:
    """Refuse a module that reads or writes something else than the kind's own vectors."""
    path = folder / "config.json"
    own = read_json(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if own.get(key) not in (None, place):
            raise CheckpointError(f"{path}: {key} = {own[key]!r} is not implemented; only {place!r} is.")


def _activation(name: object, path: Path, key: str) -> Activation:
    last = str(name).rpartition(".")[2]
    for known in get_args(Activation):
        if known == last and str(name).startswith("torch."):
            found: Activation = known
            return found
    raise CheckpointError(f"{path}: {key} = {name!r} is not implemented; there are {', '.join(get_args(Activation))}.")


def _known(path: Path, keys: Collection[str]) -> dict[str, Any]:
    values = read_json(path) if path.is_file() else {}
    for key, value in values.items():
        if key not in keys and value is not None:
            raise CheckpointError(f"{path}: {key} is not implemented.")
    return values


def _tokenizer_length(folder: Path) -> int | None:
    """What tokenizer_config.json sets as the longest input; none where it is beyond any model."""
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
