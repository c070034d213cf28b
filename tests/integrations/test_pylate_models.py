"""`accelerate` on PyLate's ColBERT, which expands queries and pads documents with [MASK]."""

import logging

import pytest
import torch

import modernbert
from integrations_models import make, make_texts, make_tokenizer
from modernbert.integrations.backbone import Backbone

models = pytest.importorskip("pylate.models")


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("attend", [True, False])
def test_vectors_are_those_of_the_original(attend, folder, caplog, monkeypatch):
    torch.manual_seed(0)
    model = models.ColBERT(
        folder, device="cpu", embedding_size=16, query_length=12, document_length=80, attend_to_expansion_tokens=attend,
        query_prefix="w5 ", document_prefix="w6 ", skiplist_words=["w7"],
    )  # fmt: skip
    queries, documents = make_texts(5, longest=8), make_texts(40)
    expected = model.encode(queries, is_query=True), model.encode(documents, is_query=False)
    modernbert.accelerate(model, precision="float32")
    calls, encode = [], Backbone.encode
    monkeypatch.setattr(Backbone, "encode", lambda self, rows: calls.append(1) or encode(self, rows))
    with caplog.at_level(logging.WARNING):
        found = model.encode(queries, is_query=True), model.encode(documents, is_query=False)
    assert len(calls) == (3 if attend else 2)  # one batch of queries, two of documents
    assert ("padding is used as query expansion" in caplog.text) is not attend
    for one, other in zip(found, expected, strict=True):
        for each, wanted in zip(one, other, strict=True):
            assert each.shape == wanted.shape
            assert abs(each - wanted).max() < 2e-5
    restored = modernbert.restore(model).encode(documents, is_query=False)
    assert all((each == wanted).all() for each, wanted in zip(restored, expected[1], strict=True))
