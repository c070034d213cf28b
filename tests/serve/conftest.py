"""Tiny models of every kind, and servers of them inside the test's own process."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from corpora import make_model
from modernbert.model import QuestionAnswering, SequenceClassifier, TokenClassifier
from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.model.retrieval_settings import DenseSettings, Expansion, MultiVectorSettings
from modernbert.serve.loading import load
from modernbert.serve.models import ServedModel
from modernbert.text.tokenizer import load_tokenizer
from served import serving

LABELS = {"id2label": {0: "red", 1: "green", 2: "blue"}}
TAGS = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, str]:
    """A folder of each kind; all have the same encoder with random weights."""
    root = tmp_path_factory.mktemp("served")
    source = make_model(root)
    prompts = {"query": "search_query: ", "document": "search_document: "}
    models: dict[str, Any] = {
        "embedder": DenseEncoder.from_pretrained(source, settings=DenseSettings(normalize=True, prompts=prompts)),
        "reranker": CrossEncoder.from_pretrained(source),
        "multi-vector": MultiVectorEncoder.from_pretrained(source, settings=MultiVectorSettings(expansion=Expansion())),
        "sparse": SparseEncoder.from_pretrained(source),
        "classifier": SequenceClassifier.from_pretrained(source, changes=LABELS),
        "entities": TokenClassifier.from_pretrained(source, changes=TAGS),
        "answers": QuestionAnswering.from_pretrained(source),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    return {name: str(root / name) for name in models} | {"fill-mask": str(source)}


@pytest.fixture(scope="session")
def loaded(folders) -> dict[str, ServedModel]:
    return {name: load(folder, name, device="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="session")
def client(loaded) -> Iterator[TestClient]:
    """A client of a server with one model of each kind."""
    with serving(list(loaded.values())) as found:
        yield found


@pytest.fixture(scope="session")
def tokenizer(folders):
    return load_tokenizer(folders["fill-mask"])
