"""The modules that a folder of sentence-transformers names, where they lie, and the class that loads the folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from modernbert.errors import CheckpointError
from modernbert.model.folder import read_json

MODULES, MODEL, TRANSFORMER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
ROUTER, TABLE = "router_config.json", "SparseStaticEmbedding"
PREDICTORS = {  # of kinds, in config_sentence_transformers.json, and the class that loads them
    "SentenceTransformer": "Embedder",
    "CrossEncoder": "Reranker",
    "MultiVectorEncoder": "MultiVectorEmbedder",
    "ColBERT": "MultiVectorEmbedder",
    "SparseEncoder": "SparseEmbedder",
}


@dataclass(frozen=True)
class Module:
    """An entry of modules.json: the last part of its type, and its folder."""

    kind: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """The modules of modules.json in order; empty if there is no such file.

    For a Router, which has different modules for queries and documents, the modules of documents come first.

    Raises:
        CheckpointError: the file is damaged, names a path outside of the folder, or names custom code.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
        found = [(str(one["type"]), str(one["path"])) for one in sorted(entries, key=lambda one: int(one["idx"]))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as a list of modules: {error!r}.") from None
    modules = [_module(path, kind, place) for kind, place in found]
    if modules == [Module("Router", folder)]:
        return _router_modules(folder)
    if modules[:1] and (modules[0].kind not in ("Transformer", "MLMTransformer") or modules[0].folder != folder):
        raise CheckpointError(
            f"{path}: the first module is {modules[0].kind!r}; only a Transformer in '' is implemented."
        )
    return modules


def predictor_name(folder: Path) -> str | None:
    """The class that loads a folder, by its config_sentence_transformers.json. None where that does not say it.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / MODEL
    return PREDICTORS.get(str(read_json(path).get("model_type"))) if path.is_file() else None


def encoder_folder(folder: Path) -> Path:
    """The folder with the encoder: the folder itself, or the one that its Router names for documents."""
    return next((module.folder for module in read_modules(folder)), folder)


def _module(path: Path, kind: str, place: str) -> Module:
    """An entry of a list of modules.

    Raises:
        CheckpointError: it names a path outside of the folder, or custom code.
    """
    if not kind.startswith(("sentence_transformers.", "pylate.models.Dense.")):
        raise CheckpointError(f"{path}: the module type {kind!r} is custom code, which is not loaded.")
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise CheckpointError(f"{path}: the path {place!r} is outside of the folder.")
    return Module(kind.rpartition(".")[2], path.parent / place)


def _router_modules(folder: Path) -> list[Module]:
    """The modules of documents and then those of queries, as router_config.json names them."""
    path = folder / ROUTER
    values = read_json(path)
    try:
        types, structure, parameters = values["types"], values["structure"], values.get("parameters") or {}
        routes = {
            str(task): [_module(path, str(types[name]), str(name)) for name in structure[task]] for task in structure
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as the modules of a Router: {error!r}.") from None
    if routes.keys() != {"query", "document"} or not routes["document"]:
        raise CheckpointError(f"{path}: only the routes 'query' and 'document' are implemented, not {sorted(routes)}.")
    for key, implemented in (("default_route", ("document", None)), ("route_mappings", ({}, None))):
        if parameters.get(key) not in implemented:
            raise CheckpointError(f"{path}: {key} = {parameters[key]!r} is not implemented.")
    first = routes["document"][0].kind
    if first not in ("Transformer", "MLMTransformer"):
        raise CheckpointError(f"{path}: the first module of documents is {first!r}; only a Transformer is implemented.")
    return [*routes["document"], *routes["query"]]
