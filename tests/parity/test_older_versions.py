"""Folders of this package, or repaired by the doctor, give the same outputs in older versions of the libraries."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling

from modernbert import Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from modernbert.model import retrieval
from modernbert.model.interop import examine, repair
from modernbert.model.retrieval_settings import (
    DenseSettings,
    Expansion,
    MultiVectorSettings,
    Projection,
    RerankSettings,
    SparseSettings,
)
from parity.older_versions import compute, environment
from retrieval import PROMPTS, QUERIES, base_folder
from retrieval import TEXTS as UNSTRIPPED

TEXTS = [text.strip() for text in UNSTRIPPED]  # before 5.4 the library did that itself

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def older():
    return environment(Path(__file__).parents[2] / "output" / "sentence-transformers-5.3")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("base"), markers=("[Q] ", "[D] "))


def wanted(kind, folder, tmp_path, older):
    return compute(older, tmp_path, kind=kind, folder=folder, queries=QUERIES, documents=TEXTS)


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_dense_vectors(pooling, base, tmp_path, older):
    dense = (Projection(in_features=64, out_features=24),)
    settings = DenseSettings(pooling=(pooling,), projections=dense, normalize=True, prompts=PROMPTS, max_length=40)
    retrieval.DenseEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path / "m")
    found, ours = wanted("dense", tmp_path / "m", tmp_path, older), Embedder.from_pretrained(tmp_path / "m")
    assert_same(ours.encode_query(QUERIES), found["query"])
    assert_same(ours.encode_document(TEXTS), found["document"])


def test_scores_of_pairs(base, tmp_path, older):
    torch.manual_seed(0)
    settings = RerankSettings(activation="Identity", max_length=40)
    retrieval.CrossEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path / "m")
    found, ours = wanted("rerank", tmp_path / "m", tmp_path, older), Reranker.from_pretrained(tmp_path / "m")
    assert_same(ours.predict([(QUERIES[0], text) for text in TEXTS]), found["scores"])


def test_sparse_weights(base, tmp_path, older):
    settings = SparseSettings(prompts=PROMPTS)
    retrieval.SparseEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path / "m")
    found, ours = wanted("sparse", tmp_path / "m", tmp_path, older), SparseEmbedder.from_pretrained(tmp_path / "m")
    assert_same(ours.encode_document(TEXTS).to_dense(), found["document"])


@pytest.mark.parametrize("attend", [False, True])
def test_vectors_of_tokens_in_pylate(attend, base, tmp_path, older):
    torch.manual_seed(0)
    settings = MultiVectorSettings(
        prompts={"query": "[Q] ", "document": "[D] "}, expansion=Expansion(length=20, attend=attend),
        document_length=40, skip_words=(".", ",", "!"),
    )  # fmt: skip
    retrieval.MultiVectorEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path / "m")
    assert {one.program: one.same for one in examine(tmp_path / "m")}["PyLate 1.6"]
    found, ours = wanted("late", tmp_path / "m", tmp_path, older), MultiVectorEmbedder.from_pretrained(tmp_path / "m")
    for name, vectors in (("query", ours.encode_query(QUERIES)), ("document", ours.encode_document(TEXTS))):
        for number, rows in enumerate(vectors):
            assert_same(rows, found[f"{name}{number}"])


def test_a_dense_folder_of_a_new_version_is_repaired(base, tmp_path, older):
    modules = [Transformer(str(base)), Pooling(64, "cls"), Dense(64, 16), Normalize()]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save_pretrained(str(tmp_path / "m"))
    before = Embedder.from_pretrained(tmp_path / "m").encode_document(TEXTS)
    with pytest.raises(subprocess.CalledProcessError):
        wanted("dense", tmp_path / "m", tmp_path, older)
    assert not {one.program: one.same for one in examine(tmp_path / "m")}["sentence-transformers < 5.4"]
    assert repair(tmp_path / "m")
    assert {one.program: one.same for one in examine(tmp_path / "m")}["sentence-transformers < 5.4"]
    assert repair(tmp_path / "m") == []
    assert_same(wanted("dense", tmp_path / "m", tmp_path, older)["document"], before)
    assert_same(SentenceTransformer(str(tmp_path / "m"), device="cpu").encode_document(TEXTS), before)
    assert_same(Embedder.from_pretrained(tmp_path / "m").encode_document(TEXTS), before)


def test_a_sparse_folder_of_a_new_version_is_repaired(base, tmp_path, older):
    modules = [Transformer(str(base), transformer_task="fill-mask"), SpladePooling()]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(tmp_path / "m"))
    before = SparseEmbedder.from_pretrained(tmp_path / "m").encode_document(TEXTS).to_dense()
    repair(tmp_path / "m")
    assert_same(wanted("sparse", tmp_path / "m", tmp_path, older)["document"], before)
    theirs = SparseEncoder(str(tmp_path / "m"), device="cpu").encode_document(TEXTS)
    assert_same(theirs.to_dense(), before)
