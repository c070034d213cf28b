"""Which programs can load a model folder, whether their outputs are equal, and which keys they need.

The required keys are from the source code of each program (docs/retrieval.md). Two versions of sentence-transformers
and PyLate are tested; the servers are not.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modernbert.errors import CheckpointError, ModernBertError
from modernbert.files import atomic_write
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import find_folder, read_architecture, read_config, read_json
from modernbert.model.retrieval_folder import LEGACY_POOLING, read_dense, read_multi_vector, read_rerank, read_sparse
from modernbert.model.retrieval_modules import MODEL, MODULES, TRANSFORMER, encoder_folder, read_modules
from modernbert.model.retrieval_saving import Files, describe_files, pylate_reason, write_json
from modernbert.model.retrieval_settings import (
    DenseSettings,
    MultiVectorSettings,
    RerankSettings,
    RetrievalSettings,
    SparseSettings,
)

_LEGACY_KEYS = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
_OLD_TYPES = ("sentence_transformers.models.", "sentence_transformers.sparse_encoder.models.", "pylate.models.Dense.")
_OLD_TRANSFORMER = {"max_seq_length", "do_lower_case", "model_args", "tokenizer_args", "config_args"}


_SUBFOLDER = "its encoder is in a subfolder; load it with SparseEmbedder and save it again"
_DENSE_LAYERS = {  # pull requests with which a server began to apply one after pooling
    "text-embeddings-inference": "versions before pull request 660 (2025-07) leave the Dense layer out",
    "vLLM": "versions before pull request 23408 (2025-08) leave the Dense layer out",
}
_QUERIES_ENCODED = "it encodes queries, while this model looks them up in a table"


@dataclass(frozen=True)
class Verdict:
    """Whether a program loads a folder and has the outputs of this package, with reasons; `missing` are JSON keys."""

    program: str
    loads: bool
    same: bool
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Folder:
    path: Path
    config: EncoderConfig
    architecture: str | None
    settings: RetrievalSettings | None  # None for other models
    types: list[str]

    def keys(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name) if (self.path / name).is_file() else {}

    def missing(self, name: str, keys: tuple[str, ...]) -> list[str]:
        found = self.keys(name)
        return [f"{name}: {key}" for key in keys if key not in found]

    @property
    def pooling_file(self) -> str:
        place = next(
            (module.folder.name for module in read_modules(self.path) if module.kind == "Pooling"), "1_Pooling"
        )
        return f"{place}/config.json"


def examine(source: str | Path) -> list[Verdict]:
    """Check a folder for each program.

    Raises:
        CheckpointError: the model folder does not exist.
    """
    folder = find_folder(source)
    if encoder_folder(folder) != folder:
        return _subfolder_verdicts(folder)
    try:
        found = _read(folder)
    except ModernBertError as error:
        return [Verdict("modernbert", False, False, [str(error)])]
    return [Verdict("modernbert", True, True), *(check(found) for check in _CHECKS)]


def repair(source: str | Path) -> list[str]:
    """Write the keys that other programs need into the JSON files of a folder. Returns the changed files.

    Weights do not change, and neither do the outputs of this package and of sentence-transformers.

    Raises:
        CheckpointError: the folder does not exist, or this package cannot read it.
    """
    folder = find_folder(source)
    if encoder_folder(folder) != folder:
        raise CheckpointError(f"{folder} cannot be repaired: {_SUBFOLDER}.")
    found = _read(folder)
    wanted = {key: value for key, value in found.config.to_hf().items() if key not in ("architectures", "dtype")}
    current = read_json(folder / "config.json")
    files: Files = {"config.json": current | {key: value for key, value in wanted.items() if key not in current}}
    if found.settings is not None and found.types:
        files |= _with_module_names(folder, describe_files(folder, found.config, found.settings), files["config.json"])
    changed = []
    for name, values in sorted(files.items()):
        path = folder / name
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8-sig")) != values:
            with atomic_write(path) as partial:
                write_json(partial, values)
            changed.append(name)
    return changed


def _with_module_names(folder: Path, files: Files, config: dict[str, Any]) -> Files:
    """The described files under the names of the folder's modules, with the versions that the folder records."""
    places = {(kind, n): place for kind, n, place in _numbered(folder)}
    counts: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for entry in files[MODULES]:
        kind = entry["type"].rpartition(".")[2]
        number = counts[kind] = counts.get(kind, -1) + 1
        place = places.get((kind, number), entry["path"])
        renamed[entry["path"]] = place
        entry["path"] = place
    result: Files = {}
    for name, values in files.items():
        head, _, tail = name.partition("/")
        result[f"{renamed.get(head, head)}/{tail}" if tail else name] = values
    result["config.json"] = config | result.pop("config.json", {})
    versions = (read_json(folder / MODEL) if (folder / MODEL).is_file() else {}).get("__version__")
    if versions is not None:
        result[MODEL]["__version__"] = versions
    return result


def _subfolder_verdicts(folder: Path) -> list[Verdict]:
    """The verdicts on a folder whose Router names an encoder in a subfolder, which only some programs support."""
    try:
        read_sparse(folder)
    except ModernBertError as error:
        return [Verdict("modernbert", False, False, [str(error)])]
    supported = [Verdict("modernbert", True, True), Verdict("sentence-transformers >= 5.4", True, True)]
    others = ("transformers", "text-embeddings-inference", "vLLM", "llama.cpp")
    return [*supported, *(Verdict(name, False, False, [_SUBFOLDER]) for name in others)]


def _numbered(folder: Path) -> list[tuple[str, int, str]]:
    counts: dict[str, int] = {}
    found = []
    for module in read_modules(folder):
        counts[module.kind] = counts.get(module.kind, -1) + 1
        found.append((module.kind, counts[module.kind], "" if module.folder == folder else module.folder.name))
    return found


def _read(folder: Path) -> _Folder:
    architecture, config = read_architecture(folder), read_config(folder)
    model = read_json(folder / MODEL) if (folder / MODEL).is_file() else {}
    modules = json.loads((folder / MODULES).read_text(encoding="utf-8-sig")) if read_modules(folder) else []
    kinds = {module.kind for module in read_modules(folder)}
    readers: dict[str, Callable[[Path], RetrievalSettings]] = {
        "SentenceTransformer": read_dense,
        "CrossEncoder": read_rerank,
        "SparseEncoder": read_sparse,
        "MultiVectorEncoder": read_multi_vector,
        "ColBERT": read_multi_vector,
    }
    kind = model.get("model_type") or ("SentenceTransformer" if "Pooling" in kinds else None)
    if kind is None and "SpladePooling" in kinds:
        kind = "SparseEncoder"
    if kind is not None and kind not in readers:
        raise CheckpointError(f"{folder / MODEL}: model_type is {kind!r}; it is not implemented.")
    settings = readers[kind](folder) if kind is not None else None
    return _Folder(folder, config, architecture, settings, [str(one["type"]) for one in modules])


def _transformers(folder: _Folder) -> Verdict:
    if not list(folder.path.glob("model*.safetensors")) or (folder.path / "model.int8.safetensors").is_file():
        return Verdict("transformers", False, False, ["there is no model.safetensors that it can read"])
    missing = folder.missing("config.json", _LEGACY_KEYS)
    config = folder.config
    if config.global_attn_every_n_layers is None:
        reason = "transformers before version 5 cannot represent the order of its layers; version 5 can"
        return Verdict("transformers", True, True, [reason])
    defaults = EncoderConfig.model_fields
    differ = [key for key in _LEGACY_KEYS if getattr(config, key) != defaults[key].default]
    hidden = [one for one in missing if any(one.endswith(key) for key in differ)]
    reasons = [f"version 4 computes other outputs without {', '.join(hidden)}"] if hidden else []
    return Verdict("transformers", True, not hidden, reasons, missing)


def _sentence_transformers(folder: _Folder) -> Verdict:
    name = "sentence-transformers >= 5.4"
    if isinstance(folder.settings, MultiVectorSettings):
        return Verdict("sentence-transformers >= 6", True, True)
    if not folder.types and folder.settings is None:
        return Verdict(name, True, True, ["no modules.json: it uses mean pooling, as this package does"])
    return Verdict(name, True, True)


def _older_sentence_transformers(folder: _Folder) -> Verdict:
    name = "sentence-transformers < 5.4"
    if isinstance(folder.settings, MultiVectorSettings):
        return Verdict(name, False, False, ["it does not support late interaction (PyLate adds it)"])
    if isinstance(folder.settings, SparseSettings) and folder.settings.query_table is not None:
        return Verdict(name, False, False, ["a query table is tested with version 6.2 only"])
    if isinstance(folder.settings, RerankSettings):
        older = folder.missing("config.json", ("sentence_transformers",))
        return Verdict(name, True, not older, ["the activation may differ"] if older else [], older)
    reasons = []
    if new := [kind for kind in folder.types if not kind.startswith(_OLD_TYPES)]:
        reasons.append(f"{MODULES} names types that it does not know, such as {new[0]}")
    if unknown := sorted(folder.keys(TRANSFORMER).keys() - _OLD_TRANSFORMER):
        reasons.append(f"{TRANSFORMER} has keys that it does not accept: {', '.join(unknown)}")
    missing = []
    if isinstance(folder.settings, DenseSettings) and folder.types:
        missing = folder.missing(folder.pooling_file, ("word_embedding_dimension", *LEGACY_POOLING))
        reasons += [f"{folder.pooling_file} lacks keys"] if missing else []
    return Verdict(name, not reasons, not reasons, reasons, missing)


def _pylate(folder: _Folder) -> Verdict:
    settings = folder.settings
    if not isinstance(settings, MultiVectorSettings):
        return Verdict("PyLate 1.6", False, False, ["it is not a late-interaction model"])
    if reason := pylate_reason(folder.path, settings):
        return Verdict("PyLate 1.6", False, False, [reason])
    wanted = ("query_prefix", "document_prefix", "query_length", "document_length", "attend_to_expansion_tokens")
    missing = folder.missing(MODEL, (*wanted, "skiplist_words", "do_query_expansion"))
    return Verdict("PyLate 1.6", not missing, not missing, ["its keys are missing"] if missing else [], missing)


def _tei(folder: _Folder) -> Verdict:
    missing = folder.missing("config.json", _LEGACY_KEYS)
    reasons = ["it cannot read config.json without them"] if missing else []
    return _server("text-embeddings-inference", folder, missing, reasons, strict=True)


def _vllm(folder: _Folder) -> Verdict:
    return _server("vLLM", folder, [], [], strict=False)


def _llama_cpp(folder: _Folder) -> Verdict:
    missing = folder.missing("config.json", ("global_attn_every_n_layers",))
    reasons = ["all layers would be global, without a warning"] if missing else []
    verdict = _server("llama.cpp", folder, missing, reasons, strict=False)
    note = "its converter accepts only the tokenizers of published models"
    return Verdict(verdict.program, verdict.loads, verdict.same, [*verdict.reasons, note], verdict.missing)


def _server(name: str, folder: _Folder, missing: list[str], reasons: list[str], *, strict: bool) -> Verdict:
    """The checks that all servers share: older keys of pooling, and no late interaction."""
    settings = folder.settings
    if isinstance(settings, MultiVectorSettings):
        return Verdict(name, False, False, ["not known to support this model's late interaction"])
    if isinstance(settings, SparseSettings) and settings.query_table is not None:
        reasons = [*reasons, _QUERIES_ENCODED]
    if isinstance(settings, DenseSettings) and folder.types:
        older = folder.missing(folder.pooling_file, ("pooling_mode_cls_token", "pooling_mode_mean_tokens"))
        reasons = [*reasons, *(["some versions use another pooling, without a warning"] if older else [])]
        missing = [*missing, *older, *folder.missing(TRANSFORMER, ("max_seq_length",))]
        if set(settings.pooling) - {"mean", "cls", "lasttoken"} or len(settings.pooling) > 1:
            return Verdict(name, False, False, [f"it does not pool by {' and '.join(settings.pooling)}"], missing)
        if settings.projections:
            reasons = [*reasons, _DENSE_LAYERS.get(name, "not known to apply a Dense layer")]
        if not settings.include_prompt:
            reasons = [*reasons, "not known to exclude the prompt from pooling"]
    return Verdict(name, not (strict and missing), not reasons, reasons, missing)


_CHECKS = (
    _transformers, _sentence_transformers, _older_sentence_transformers, _pylate, _tei, _vllm, _llama_cpp
)  # fmt: skip
