"""Sparse models with a query table equal those of sentence-transformers, in both directions of a folder."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from modernbert import SparseEmbedder
from modernbert.errors import CheckpointError
from modernbert.model import retrieval
from modernbert.model.interop import examine, repair
from modernbert.model.retrieval_settings import SparseSettings
from modernbert.text.tokenizer import load_tokenizer
from retrieval import PROMPTS, QUERIES, TEXTS, base_folder

LENGTH = 40  # shorter than one of the texts

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("base"))


def theirs_of(base, frozen=True, activation="relu"):
    """A model of sentence-transformers, with random weights for the tokens of queries."""
    transformer = Transformer(str(base), transformer_task="fill-mask", processor_kwargs={"model_max_length": LENGTH})
    weight = torch.rand(len(transformer.tokenizer), generator=torch.Generator().manual_seed(0)) + 0.1
    queries = SparseStaticEmbedding(transformer.tokenizer, weight=weight, frozen=frozen)
    router = Router.for_query_document([queries], [transformer, SpladePooling("max", activation)])
    return SparseEncoder(modules=[router], device="cpu", prompts=PROMPTS, similarity_fn_name="dot")


def assert_same(ours, theirs):
    for encode in ("encode", "encode_query", "encode_document"):
        for texts in (TEXTS, QUERIES, TEXTS[0]):
            found, expected = (getattr(model, encode)(texts).to_dense() for model in (ours, theirs))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    few, expected = (model.encode_query(TEXTS, max_active_dims=3) for model in (ours, theirs))
    np.testing.assert_allclose(few.to_dense(), expected.to_dense())
    documents = theirs.encode_document(TEXTS)
    np.testing.assert_allclose(ours.similarity(few, documents), theirs.similarity(expected, documents), rtol=1e-5)


@pytest.mark.parametrize(("frozen", "activation"), [(True, "relu"), (False, "log1p_relu")])
def test_queries_and_documents_are_the_same(frozen, activation, base, tmp_path):
    theirs = theirs_of(base, frozen, activation)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = SparseEmbedder.from_pretrained(tmp_path / "theirs")
    assert ours.model.settings.query_table == ("frozen" if frozen else "trained")
    assert_same(ours, theirs)
    retrieval.SparseEncoder.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    again = SparseEncoder(str(tmp_path / "ours"), device="cpu")
    assert again[0].sub_modules["query"][0].weight.requires_grad != frozen
    assert_same(ours, again)
    assert_same(SparseEmbedder.from_pretrained(tmp_path / "ours"), theirs)


def test_a_query_is_not_encoded_and_a_token_counts_once(base, tmp_path, monkeypatch):
    theirs_of(base).save_pretrained(str(tmp_path))
    ours = SparseEmbedder.from_pretrained(tmp_path)
    monkeypatch.setattr(ours.model, "forward", None)
    once, twice = ours.encode_query([" parser", " parser parser parser"], prompt="")
    assert once.coalesce().values().tolist() == twice.coalesce().values().tolist()
    ids = load_tokenizer(base).encode(" parser", add_special_tokens=False).ids
    assert once.coalesce().indices().squeeze(0).tolist() == sorted(set(ids))
    assert once.coalesce().values().tolist() == ours.model.query_table[sorted(set(ids))].tolist()


def test_a_model_that_embeds_more_ids_than_its_tokenizer_has_loads_there_too(base, tmp_path):
    small = retrieval.SparseEncoder.from_pretrained(base)
    config = small.config.model_copy(update={"vocab_size": small.config.vocab_size + 24})
    torch.manual_seed(0)
    model = retrieval.SparseEncoder(config, SparseSettings(prompts=PROMPTS, max_length=LENGTH, query_table="frozen"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    model.save_pretrained(tmp_path, tokenizer=base)
    assert_same(SparseEmbedder.from_pretrained(tmp_path), SparseEncoder(str(tmp_path), device="cpu"))


def test_queries_may_be_cut_at_a_length_of_their_own(base, tmp_path):
    settings = SparseSettings(max_length=LENGTH, query_table="frozen", query_length=7)
    model = retrieval.SparseEncoder.from_pretrained(base, settings=settings)
    with torch.no_grad():
        model.query_table.uniform_(0.1, 1)
    model.save_pretrained(tmp_path)
    found = SparseEmbedder.from_pretrained(tmp_path)
    assert found.model.settings == settings
    assert_same(found, SparseEncoder(str(tmp_path), device="cpu"))
    assert int((found.encode_query(TEXTS[2]).to_dense() != 0).sum()) <= 7


def test_saving_another_model_into_the_folder_leaves_no_table(base, tmp_path):
    settings = SparseSettings(query_table="frozen")
    retrieval.SparseEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path)
    retrieval.SparseEncoder.from_pretrained(base).save_pretrained(tmp_path)
    assert SparseEmbedder.from_pretrained(tmp_path).model.query_table is None
    assert not (tmp_path / "router_config.json").exists()


def test_the_doctor_knows_who_encodes_the_queries(base, tmp_path):
    theirs_of(base).save_pretrained(str(tmp_path / "theirs"))
    retrieval.SparseEncoder.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    ours, inside = ({one.program: one for one in examine(tmp_path / name)} for name in ("ours", "theirs"))
    for found in (ours, inside):
        assert found["modernbert"].same
        assert found["sentence-transformers >= 5.4"].same
        assert not found["text-embeddings-inference"].same
    assert ours["text-embeddings-inference"].loads
    assert not inside["text-embeddings-inference"].loads
    assert repair(tmp_path / "ours") == []
    with pytest.raises(CheckpointError, match="its encoder is in a subfolder"):
        repair(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("router_config.json", {"types": {}}, r"router_config\.json cannot be read as the modules"),
        ("router_config.json", {"structure": []}, r"only the routes 'query' and 'document' are implemented"),
        ("router_config.json", {"parameters": {"default_route": "query"}}, r"default_route = 'query' is not"),
        ("router_config.json", {"parameters": {"route_mappings": {"(None, 'image')": "document"}}}, "route_mappings"),
        ("query_0_SparseStaticEmbedding/config.json", {"path": "idf.json"}, "path is not implemented"),
        ("query_0_SparseStaticEmbedding/tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "different tokenizers"),
        ("document_0_Transformer/sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is not"),
    ],
)
def test_what_would_be_computed_differently_is_an_error_that_names_it(file, changes, named, base, tmp_path):
    theirs_of(base).save_pretrained(str(tmp_path))
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=named):
        SparseEmbedder.from_pretrained(tmp_path)


def test_a_table_of_another_size_and_a_missing_file_are_one_sentence(base, tmp_path):
    theirs_of(base).save_pretrained(str(tmp_path))
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(5000)}, tmp_path / "query_0_SparseStaticEmbedding" / "model.safetensors")
    with pytest.raises(CheckpointError, match="should hold one weight for each of"):
        SparseEmbedder.from_pretrained(tmp_path)
    (tmp_path / "router_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"not a model folder|router_config\.json"):
        SparseEmbedder.from_pretrained(tmp_path)
