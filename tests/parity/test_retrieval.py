"""Retrieval models equal those of sentence-transformers, in both directions of a folder."""

import json
import string

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling

from modernbert import Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from modernbert.errors import CheckpointError
from modernbert.model import SequenceClassifier, retrieval
from modernbert.tasks.quantization import quantize
from modernbert.tasks.similarity import similarity
from retrieval import PROMPTS, QUERIES, TEXTS, base_folder

MARKERS = ("[Q] ", "[D] ")
PAIRS = [(query, text) for query in QUERIES for text in TEXTS]
MODES = ["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("base"), markers=MARKERS)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("classifier"), head=SequenceClassifier, id2label={0: "LABEL_0"})


def assert_same(ours, theirs):
    ours, theirs = ([np.asarray(one) for one in many] for many in (ours, theirs))
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def both_ways(theirs, ours, kind, tmp_path, check):
    """Their folder in our class, and the folder that our class writes in theirs."""
    theirs.save_pretrained(str(tmp_path / "theirs"))
    found = ours.from_pretrained(tmp_path / "theirs")
    check(found, theirs)
    found.kind.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    again = kind(str(tmp_path / "ours"), device="cpu")
    check(found, again)
    check(ours.from_pretrained(tmp_path / "ours"), theirs)


@pytest.mark.parametrize(
    ("mode", "include_prompt", "normalize"),
    [*((mode, False, False) for mode in [*MODES, ("cls", "mean")]), ("mean", True, True)],
)
def test_dense_vectors_are_the_same(mode, include_prompt, normalize, base, tmp_path):
    transformer = Transformer(str(base), processor_kwargs={"model_max_length": 48})
    pooling = Pooling(64, mode, include_prompt=include_prompt)
    dense = Dense(pooling.pooling_output_dimension, 32, use_residual=normalize)
    modules = [transformer, pooling, dense, *([Normalize()] if normalize else [])]
    theirs = SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS, similarity_fn_name="dot")

    def check(ours, theirs):
        assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))
        assert_same(ours.encode_query(QUERIES), theirs.encode_query(QUERIES))
        assert_same(ours.encode_document(TEXTS, truncate_dim=8), theirs.encode_document(TEXTS, truncate_dim=8))
        vectors = theirs.encode(TEXTS)
        assert_same(ours.similarity(vectors, vectors), theirs.similarity(vectors, vectors))

    both_ways(theirs, Embedder, SentenceTransformer, tmp_path, check)


def test_the_older_layout_is_read(base, tmp_path):
    model = retrieval.DenseEncoder.from_pretrained(base)
    model.save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert {one["type"].rpartition(".")[0] for one in modules} == {"sentence_transformers.models"}
    path = tmp_path / "1_Pooling" / "config.json"
    values = json.loads(path.read_text())
    del values["pooling_mode"]
    values |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    path.write_text(json.dumps(values))
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs[1].pooling_mode == "cls"
    assert_same(Embedder.from_pretrained(tmp_path).encode(TEXTS), theirs.encode(TEXTS))


def test_a_plain_encoder_is_pooled_as_sentence_transformers_does(base):
    assert_same(
        Embedder.from_pretrained(base).encode(TEXTS), SentenceTransformer(str(base), device="cpu").encode(TEXTS)
    )


def test_lower_casing_of_a_folder_is_kept(base, tmp_path):
    retrieval.DenseEncoder.from_pretrained(base).save_pretrained(tmp_path)
    path = tmp_path / "sentence_bert_config.json"
    path.write_text(json.dumps({"max_seq_length": 40, "do_lower_case": True}))
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert_same(Embedder.from_pretrained(tmp_path).encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_the_same(name):
    one, other = torch.randn(3, 8), torch.randn(5, 8)
    theirs = sentence_transformers.SimilarityFunction.to_similarity_fn(name)
    assert_same(similarity(one, other, name), theirs(one, other))


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_vectors_in_fewer_bits_are_the_same(precision):
    rng = np.random.default_rng(0)
    vectors, calibration = (rng.standard_normal((200, 24), dtype=np.float32) for _ in range(2))
    for given in (None, calibration):
        expected = sentence_transformers.quantize_embeddings(vectors, precision, calibration_embeddings=given)
        found = quantize(vectors, precision, given)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("activation", [None, torch.nn.Identity(), torch.nn.Tanh()])
def test_scores_of_pairs_are_the_same(activation, classifier, tmp_path):
    theirs = CrossEncoder(str(classifier), device="cpu", activation_fn=activation, max_length=40)

    def check(ours, theirs):
        assert_same(ours.predict(PAIRS), theirs.predict(PAIRS))
        ranked, expected = ours.rank(QUERIES[0], TEXTS, top_k=3), theirs.rank(QUERIES[0], TEXTS, top_k=3)
        assert [one["corpus_id"] for one in ranked] == [one["corpus_id"] for one in expected]

    both_ways(theirs, Reranker, CrossEncoder, tmp_path, check)


def test_a_cross_encoder_of_older_versions_keeps_its_activation(classifier, tmp_path):
    for key in ("sentence_transformers", "sbert_ce_default_activation_function"):
        folder = tmp_path / key
        folder.mkdir()
        for path in classifier.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        values = json.loads((folder / "config.json").read_text())
        name = "torch.nn.modules.linear.Identity"
        values[key] = {"activation_fn": name, "version": "4.1.0"} if key == "sentence_transformers" else name
        (folder / "config.json").write_text(json.dumps(values))
        theirs = CrossEncoder(str(folder), device="cpu")
        assert_same(Reranker.from_pretrained(folder).predict(PAIRS), theirs.predict(PAIRS))


@pytest.mark.parametrize(("pooling", "activation"), [("max", "relu"), ("max", "log1p_relu"), ("sum", "log1p_relu")])
def test_sparse_weights_are_the_same(pooling, activation, base, tmp_path):
    head = SpladePooling(pooling, activation)
    transformer = Transformer(str(base), transformer_task="fill-mask")
    theirs = SparseEncoder(modules=[transformer, head], device="cpu", prompts=PROMPTS)

    def check(ours, theirs):
        for encode in ("encode", "encode_query", "encode_document"):
            assert_same(getattr(ours, encode)(TEXTS).to_dense(), getattr(theirs, encode)(TEXTS).to_dense())
        few, expected = ours.encode(TEXTS, max_active_dims=9), theirs.encode(TEXTS, max_active_dims=9)
        assert_same(few.to_dense(), expected.to_dense())
        assert_same(ours.similarity(few, few), theirs.similarity(expected, expected))

    both_ways(theirs, SparseEmbedder, SparseEncoder, tmp_path, check)


@pytest.mark.parametrize(
    ("expansion", "markers"),
    [
        (None, True),
        (("fixed", False), True),
        (("fixed", True), True),
        (("min", False), True),
        (("fixed", False), False),
    ],
)
def test_vectors_of_tokens_are_the_same(expansion, markers, base, tmp_path):
    query_expansion = expansion and {"strategy": expansion[0], "attend": expansion[1], "token": None, "length": 24}
    transformer = Transformer(str(base), document_length=40, query_expansion=query_expansion)
    dense = Dense(64, 16, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    mask = MultiVectorMask(skiplist_words=list(string.punctuation))
    modules = [transformer, dense, mask, Normalize("token_embeddings")]
    prompts = {"query": "[Q] ", "document": "[D] "} if markers else PROMPTS
    theirs = MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)
    long_queries = [*QUERIES, "how does the parser work on groups of strings " * 4]

    def check(ours, theirs):
        queries = ours.encode_query(long_queries)
        documents = ours.encode_document(TEXTS)
        assert_same(queries, theirs.encode_query(long_queries, convert_to_numpy=True))
        assert_same(documents, theirs.encode_document(TEXTS, convert_to_numpy=True))
        assert_same(ours.similarity(queries, documents), theirs.similarity(queries, documents))

    both_ways(theirs, MultiVectorEmbedder, MultiVectorEncoder, tmp_path, check)
    written = json.loads((tmp_path / "ours" / "config_sentence_transformers.json").read_text())
    as_pylate = markers and expansion != ("min", False)
    assert written["model_type"] == ("ColBERT" if as_pylate else "MultiVectorEncoder")


@pytest.mark.parametrize("factor", [1.5, 4])
def test_pooled_tokens_are_the_same(factor, base, tmp_path):
    model = retrieval.MultiVectorEncoder.from_pretrained(base)
    model.save_pretrained(tmp_path)
    theirs = MultiVectorEncoder(str(tmp_path), device="cpu")
    expected = theirs.encode_document(TEXTS, convert_to_numpy=True, token_pooling=HierarchicalTokenPooling(factor))
    assert_same(MultiVectorEmbedder.from_pretrained(tmp_path).encode(TEXTS, pool_factor=factor), expected)


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "pooling_mode 'attention'"),
        ("1_Pooling/config.json", {"pooling_mode": "cls"}, "older keys"),
        ("1_Pooling/config.json", {"weights": [1, 2]}, "weights"),
        ("config_sentence_transformers.json", {"new_option": 1}, "new_option"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEmbedder"),
        ("config_sentence_transformers.json", {"default_prompt_name": "other"}, "default_prompt_name"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing_kwargs"),
        ("sentence_bert_config.json", {"model_args": {"rope_scaling": 2}}, "model_args.rope_scaling"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side"),
    ],
)
def test_what_would_be_computed_differently_is_an_error_that_names_the_key(file, changes, named, base, tmp_path):
    retrieval.DenseEncoder.from_pretrained(base).save_pretrained(tmp_path)
    if file == "tokenizer_config.json":
        (tmp_path / "sentence_bert_config.json").unlink()
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=named):
        Embedder.from_pretrained(tmp_path)


def test_a_module_that_is_not_implemented_is_named(base, tmp_path):
    retrieval.DenseEncoder.from_pretrained(base).save_pretrained(tmp_path)
    path = tmp_path / "modules.json"
    modules = json.loads(path.read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_LSTM", "type": "sentence_transformers.models.LSTM"})
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="LSTM"):
        Embedder.from_pretrained(tmp_path)
    modules[-1]["type"] = "mine.Pooling"
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"mine\.Pooling"):
        Embedder.from_pretrained(tmp_path)
