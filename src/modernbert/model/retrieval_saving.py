"""Folders of retrieval models with the keys that all supported programs need.

Newer versions of transformers and sentence-transformers dropped keys that other programs still need, so old and new
keys are written. docs/retrieval.md lists the keys of each program.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import CheckpointError, DataError
from modernbert.files import atomic_directory
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import describes_model, weights_in, write_files
from modernbert.model.query_table import write_table
from modernbert.model.retrieval_folder import LEGACY_POOLING
from modernbert.model.retrieval_modules import MODEL, MODULES, ROUTER, TABLE, TRANSFORMER, read_modules
from modernbert.model.retrieval_settings import (
    DenseSettings,
    MultiVectorSettings,
    Projection,
    RerankSettings,
    RetrievalSettings,
    SparseSettings,
)

_OLD = "sentence_transformers.models."  # all versions of sentence-transformers resolve these types
_NEW = "sentence_transformers.base.modules."
_ACTIVATIONS = {name: f"torch.nn.modules.activation.{name}" for name in ("Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")}
_ACTIVATIONS["Identity"] = "torch.nn.modules.linear.Identity"

_QUERIES = f"query_0_{TABLE}"

Files = dict[str, Any]  # path in the folder -> JSON


def write_retrieval_folder(
    folder: Path,
    architecture: str,
    config: EncoderConfig,
    settings: RetrievalSettings,
    tensors: Mapping[str, Tensor],
    projections: Sequence[Mapping[str, Tensor]],
    tokenizer: str | Path | None,
    int8: bool = False,
    query_table: Tensor | None = None,
) -> None:
    """Write the folder of a retrieval model. The files of an earlier model are replaced, and other files stay.

    Raises:
        DataError: `folder` is a file, or its config.json does not describe a model.
        CheckpointError: it cannot be written; earlier files are unchanged.
    """
    if (folder / "config.json").exists() and not describes_model(folder / "config.json"):
        raise DataError(f"{folder / 'config.json'} does not describe a model; choose another folder.")
    try:
        with atomic_directory(folder, owned_names=_owned_names(folder)) as partial:
            write_files(partial, architecture, config, tensors, tokenizer, int8)
            files = describe_files(partial, config, settings)
            merge_json(partial / "config.json", files.pop("config.json", {}))
            _update_tokenizer_config(partial / "tokenizer_config.json", settings)
            for name, values in files.items():
                (partial / name).parent.mkdir(exist_ok=True)
                write_json(partial / name, values)
            for place, weights in zip(_dense_places(files), projections, strict=True):
                contiguous = {name: x.detach().contiguous() for name, x in weights.items()}
                save_file(contiguous, partial / place / "model.safetensors", metadata={"format": "pt"})
            if query_table is not None:
                assert isinstance(settings, SparseSettings), "only a sparse model has a query table"
                length = settings.query_length or settings.max_length or config.max_position_embeddings
                write_table(query_table, partial, partial / _QUERIES, length)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The model folder {folder} cannot be written ({error}); free disk space, or choose another folder."
        ) from None


def describe_files(folder: Path, config: EncoderConfig, settings: RetrievalSettings) -> Files:
    """The JSON files of a folder except those of the tokenizer; for config.json, the keys to add."""
    length = settings.max_length or config.max_position_embeddings
    files: Files = {TRANSFORMER: {"max_seq_length": length, "do_lower_case": settings.lower_case}}
    files[MODEL] = {"prompts": settings.prompts, "default_prompt_name": settings.default_prompt_name}
    if isinstance(settings, DenseSettings):
        _dense(files, config, settings)
    elif isinstance(settings, RerankSettings):
        _rerank(files, config, settings)
    elif isinstance(settings, SparseSettings):
        _sparse(files, config, settings)
    else:
        assert isinstance(settings, MultiVectorSettings)
        if pylate_reason(folder, settings) is None:
            _pylate(files, settings, length)
        else:
            _multi_vector(files, settings)
    return files


def pylate_reason(folder: Path, settings: MultiVectorSettings) -> str | None:
    """Why PyLate's format cannot represent these settings, or None if it can."""
    if settings.prompts.keys() != {"query", "document"} or not all(settings.prompts.values()):
        return "PyLate needs a prompt for queries and one for documents"
    if not (folder / "tokenizer.json").is_file():
        return "there is no tokenizer.json"
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    if missing := [prompt for prompt in settings.prompts.values() if prompt not in vocabulary]:
        return f"PyLate inserts prompts as one token, and {missing[0]!r} is not a token"
    expansion = settings.expansion
    if expansion is not None and (not expansion.fixed or expansion.token is not None):
        return "PyLate expands queries to a fixed length with [MASK] only"
    if settings.skip_roles != ("document",) and settings.skip_words:
        return "PyLate skips tokens of documents only"
    if not settings.normalize or settings.default_prompt_name is not None:
        return "PyLate normalizes every vector and has no default prompt"
    return None


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def merge_json(path: Path, values: Mapping[str, Any]) -> None:
    """Add keys to the object in a file."""
    if values:
        write_json(path, json.loads(path.read_text(encoding="utf-8-sig")) | dict(values))


def pooling_file(settings: DenseSettings, hidden_size: int) -> dict[str, Any]:
    """1_Pooling/config.json with old and new keys; only the old keys can represent several modes."""
    values: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    values |= {key: mode in settings.pooling for key, mode in LEGACY_POOLING.items()}
    values["include_prompt"] = settings.include_prompt
    if len(settings.pooling) == 1:
        values["pooling_mode"] = settings.pooling[0]
    return values


def _dense(files: Files, config: EncoderConfig, settings: DenseSettings) -> None:
    modules = [("", f"{_OLD}Transformer"), ("1_Pooling", f"{_OLD}Pooling")]
    files["1_Pooling/config.json"] = pooling_file(settings, config.hidden_size)
    modules += _projections(files, settings.projections, f"{_OLD}Dense", first=2)
    if settings.normalize:
        modules.append((f"{len(modules)}_Normalize", f"{_OLD}Normalize"))
    files[MODULES] = _modules(modules)
    files[MODEL] |= {"model_type": "SentenceTransformer", "similarity_fn_name": settings.similarity}
    if settings.truncate_dim is not None:
        files[MODEL]["truncate_dim"] = settings.truncate_dim


def _rerank(files: Files, config: EncoderConfig, settings: RerankSettings) -> None:
    activation = _ACTIVATIONS[settings.activation or ("Sigmoid" if len(config.labels) == 1 else "Identity")]
    files[MODULES] = _modules([("", f"{_NEW}transformer.Transformer")])
    files[TRANSFORMER] |= _task("sequence-classification", "logits", "scores")
    files[MODEL] |= {"model_type": "CrossEncoder", "activation_fn": activation}
    files["config.json"] = {"sentence_transformers": {"activation_fn": activation}}


def _sparse(files: Files, config: EncoderConfig, settings: SparseSettings) -> None:
    place = "sentence_transformers.sparse_encoder.models."
    files[MODULES] = _modules([("", f"{place}MLMTransformer"), ("1_SpladePooling", f"{place}SpladePooling")])
    files["1_SpladePooling/config.json"] = {
        "pooling_strategy": settings.pooling,
        "activation_function": settings.activation,
        "word_embedding_dimension": config.vocab_size,
    }
    files[MODEL] |= {"model_type": "SparseEncoder", "similarity_fn_name": settings.similarity}
    if settings.query_table is None:
        return
    # The encoder stays at the top level, where other programs look for it.
    documents = {entry["path"] or ".": entry["type"] for entry in files[MODULES]}
    files[MODULES] = _modules([("", f"{_OLD}Router")])
    files[ROUTER] = {
        "types": {_QUERIES: f"{place}{TABLE}", **documents},
        "structure": {"query": [_QUERIES], "document": list(documents)},
        "parameters": {"default_route": "document", "allow_empty_key": True, "route_mappings": {}},
    }
    files[f"{_QUERIES}/config.json"] = {"frozen": settings.query_table == "frozen"}


def _pylate(files: Files, settings: MultiVectorSettings, length: int) -> None:
    modules = [("", f"{_OLD}Transformer")]
    modules += _projections(files, settings.projections, "pylate.models.Dense.Dense", first=1)
    files[MODULES] = _modules(modules)
    expansion = settings.expansion
    queries = settings.query_length if expansion is None else expansion.length
    files[MODEL] = {
        "model_type": "ColBERT",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": settings.prompts["query"],
        "document_prefix": settings.prompts["document"],
        "query_length": queries or length,
        "document_length": settings.document_length or length,
        "attend_to_expansion_tokens": bool(expansion and expansion.attend),
        "do_query_expansion": expansion is not None,
        "skiplist_words": list(settings.skip_words),
    }


def _multi_vector(files: Files, settings: MultiVectorSettings) -> None:
    modules = [("", f"{_NEW}transformer.Transformer")]
    modules += _projections(files, settings.projections, f"{_NEW}dense.Dense", first=1, place="token_embeddings")
    mask = f"{len(modules)}_MultiVectorMask"
    modules.append((mask, "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"))
    files[f"{mask}/config.json"] = {
        "skiplist_words": list(settings.skip_words),
        "skiplist_tasks": list(settings.skip_roles),
        "keep_only_token_ids": None,
    }
    if settings.normalize:
        name = f"{len(modules)}_Normalize"
        modules.append((name, f"{_NEW}normalize.Normalize"))
        files[f"{name}/config.json"] = dict.fromkeys(("module_input_name", "module_output_name"), "token_embeddings")
    files[MODULES] = _modules(modules)
    files[MODEL] |= {"model_type": "MultiVectorEncoder", "similarity_fn_name": "maxsim"}
    files[TRANSFORMER] |= _task("feature-extraction", "last_hidden_state", "token_embeddings")
    for key in ("query_length", "document_length"):
        if (value := getattr(settings, key)) is not None:
            files[TRANSFORMER][key] = value
    if (expansion := settings.expansion) is not None:
        files[TRANSFORMER].pop("query_length", None)  # queries have the length of the expansion
        files[TRANSFORMER]["query_expansion"] = {
            "strategy": "fixed" if expansion.fixed else "min",
            "attend": expansion.attend,
            "token": expansion.token,
            "length": expansion.length,
        }
        if not expansion.fixed and settings.query_length is not None:
            files[TRANSFORMER]["query_length"] = settings.query_length


def _projections(
    files: Files, projections: Iterable[Projection], kind: str, first: int, place: str | None = None
) -> list[tuple[str, str]]:
    modules = []
    for number, projection in enumerate(projections, first):
        name = f"{number}_Dense"
        files[f"{name}/config.json"] = {
            "in_features": projection.in_features,
            "out_features": projection.out_features,
            "bias": projection.bias,
            "activation_function": _ACTIVATIONS[projection.activation],
        }
        if projection.residual:
            files[f"{name}/config.json"]["use_residual"] = True
        if place is not None:
            files[f"{name}/config.json"] |= {"module_input_name": place, "module_output_name": place}
        modules.append((name, kind))
    return modules


def _modules(modules: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"idx": number, "name": str(number), "path": place, "type": kind}
        for number, (place, kind) in enumerate(modules)
    ]


def _task(task: str, output: str, name: str) -> dict[str, Any]:
    modality = {"text": {"method": "forward", "method_output_name": output}}
    return {"transformer_task": task, "modality_config": modality, "module_output_name": name}


def _dense_places(files: Files) -> list[str]:
    return [one["path"] for one in files[MODULES] if one["type"].endswith(".Dense")]


def _update_tokenizer_config(path: Path, settings: RetrievalSettings) -> None:
    """Write the maximum length, and a class that older versions of transformers know, into tokenizer_config.json."""
    if not path.is_file():
        return
    changes: dict[str, Any] = {}
    if settings.max_length is not None:
        changes["model_max_length"] = settings.max_length
    if json.loads(path.read_text(encoding="utf-8-sig")).get("tokenizer_class") == "TokenizersBackend":
        changes["tokenizer_class"] = "PreTrainedTokenizerFast"
    merge_json(path, changes)


def _owned_names(folder: Path) -> list[str]:
    """Files and folders of an earlier retrieval model that must not be mixed with the new one."""
    try:
        places = [module.folder.name for module in read_modules(folder)[1:]]
    except CheckpointError:
        places = []
    return [*weights_in(folder), MODULES, MODEL, TRANSFORMER, ROUTER, *(place for place in places if place)]
