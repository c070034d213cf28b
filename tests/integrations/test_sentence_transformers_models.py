"""`accelerate` on models of old and new versions of sentence-transformers."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch

import modernbert
from integrations_models import make_texts, write_folder
from modernbert.integrations import acceleration_of
from modernbert.integrations.backbone import Backbone
from modernbert.integrations.texts import TextForward

st = pytest.importorskip("sentence_transformers")

TEXTS = make_texts(50)
NEWER = hasattr(st.SentenceTransformer, "_inference")  # since 6


@pytest.fixture(autouse=True)
def _quiet(caplog):
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture
def pooled(monkeypatch):
    """Records batches that were pooled on packed tokens."""
    batches = []
    vectors = TextForward._vectors

    def record(self, features):
        found = vectors(self, features)
        if found is not None:
            batches.append(len(found))
        return found

    monkeypatch.setattr(TextForward, "_vectors", record)
    return batches


def modules():
    if NEWER:
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling
        from sentence_transformers.sparse_encoder.modules import SpladePooling

        return Transformer, Pooling, Dense, Normalize, SpladePooling
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from sentence_transformers.sparse_encoder.models import SpladePooling

    return Transformer, Pooling, Dense, Normalize, SpladePooling


def embedder(tmp_path, mode="mean", normalize=True, dense=True):
    transformer, pooling, dense_layer, normalizer, _ = modules()
    parts = [transformer(write_folder(tmp_path / "encoder")), pooling(64, pooling_mode=mode)]
    parts += [dense_layer(64, 32)] if dense else []
    return st.SentenceTransformer(modules=[*parts, *([normalizer()] if normalize else [])], device="cpu")


def sparse(tmp_path, **kwargs):
    _, _, _, _, splade = modules()
    if NEWER:
        from sentence_transformers.base.modules import Transformer

        encoder = Transformer(write_folder(tmp_path / "mlm", "ModernBertForMaskedLM"), transformer_task="fill-mask")
    else:
        from sentence_transformers.sparse_encoder.models import MLMTransformer

        encoder = MLMTransformer(write_folder(tmp_path / "mlm", "ModernBertForMaskedLM"))
    return st.SparseEncoder(modules=[encoder, splade(**kwargs)], device="cpu")


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"])
def test_embeddings_are_those_of_the_original_in_order(mode, tmp_path, pooled):
    model = embedder(tmp_path, mode)
    expected = model.encode(TEXTS)
    assert modernbert.accelerate(model, precision="float32") is model
    pooled.clear()
    found = model.encode(TEXTS)
    assert pooled == [50]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(modernbert.restore(model).encode(TEXTS), expected, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"convert_to_tensor": True}, {"convert_to_numpy": False}, {"normalize_embeddings": True}, {"truncate_dim": 8},
        {"prompt": "w9 w10 "}, {"precision": "int8"}, {"output_value": "token_embeddings"}, {"output_value": None},
        {"batch_size": 7}, {"device": "cpu"}, {"show_progress_bar": True},
    ],
)  # fmt: skip
def test_every_option_of_encode_gives_what_it_gave(options, tmp_path):
    model = embedder(tmp_path)
    expected = model.encode(TEXTS, **options)
    modernbert.accelerate(model, precision="float32")
    found = model.encode(TEXTS, **options)
    assert type(found) is type(expected)
    if options.get("output_value", "x") is None:
        assert [each.keys() for each in found] == [each.keys() for each in expected]
        found, expected = ([each["sentence_embedding"] for each in one] for one in (found, expected))
    for each, wanted in zip(found, expected, strict=True):
        assert each.shape == wanted.shape
        atol = 1 if options.get("precision") == "int8" else 1e-4  # a value may fall into the next int8 bucket
        np.testing.assert_allclose(np.asarray(each), np.asarray(wanted), atol=atol)


def test_one_text_and_no_text(tmp_path):
    model = embedder(tmp_path)
    one, none = model.encode(TEXTS[0]), model.encode([])
    modernbert.accelerate(model, precision="float32")
    np.testing.assert_allclose(model.encode(TEXTS[0]), one, atol=1e-5)
    assert model.encode([]).shape == none.shape


def test_left_padding_and_excluded_prompts_are_right(tmp_path):
    for mode in ("mean", "cls", "lasttoken", "weightedmean"):
        model = embedder(tmp_path / mode, mode)
        model.tokenizer.padding_side = "left"
        expected = model.encode(TEXTS, batch_size=8)
        model.set_pooling_include_prompt(False)
        prompted = model.encode(TEXTS, prompt="w9 w10 ")
        model.set_pooling_include_prompt(True)
        modernbert.accelerate(model, precision="float32")
        np.testing.assert_allclose(model.encode(TEXTS, batch_size=8), expected, atol=1e-4)
        model.set_pooling_include_prompt(False)
        np.testing.assert_allclose(model.encode(TEXTS, prompt="w9 w10 "), prompted, atol=1e-4)


def test_forward_called_by_itself_gives_tokens_too(tmp_path):
    model = embedder(tmp_path)
    features = model.tokenize(TEXTS[:3])
    with torch.no_grad():
        expected = model({**features})
        modernbert.accelerate(model, precision="float32")
        found = model({**features})
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found["sentence_embedding"], expected["sentence_embedding"], atol=1e-5, rtol=1e-4)


def test_training_learns_as_before(tmp_path, caplog):
    model = embedder(tmp_path)
    twin = copy.deepcopy(model)
    modernbert.accelerate(model, precision="float32")
    features = model.tokenize(TEXTS[:5])
    for each in (model, twin):
        each.train()
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each({**features})["sentence_embedding"][:, 0].sum().backward()
        optimizer.step()
        each.eval()
    np.testing.assert_allclose(model.encode(TEXTS), twin.encode(TEXTS), atol=2e-5)
    assert "training mode" in caplog.text


def test_a_saved_folder_is_the_same_and_pickles_are_accelerated(tmp_path, pooled):
    model = embedder(tmp_path)
    model.save_pretrained(str(tmp_path / "before"), create_model_card=False)
    modernbert.accelerate(model, precision="float32")
    model.save_pretrained(str(tmp_path / "after"), create_model_card=False)
    files = sorted(path.relative_to(tmp_path / "before") for path in (tmp_path / "before").rglob("*") if path.is_file())
    for name in files:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes(), name
    expected = model.encode(TEXTS)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        pooled.clear()
        np.testing.assert_allclose(twin.encode(TEXTS), expected, atol=1e-6)
        assert pooled


def test_cross_encoders_score_as_before(tmp_path):
    folder = write_folder(tmp_path / "cross", "ModernBertForSequenceClassification", num_labels=1)
    model = st.CrossEncoder(folder, device="cpu")
    pairs = list(zip(TEXTS[:25], TEXTS[25:], strict=True))
    expected, ranked = model.predict(pairs), model.rank(TEXTS[0], TEXTS[1:9])
    modernbert.accelerate(model, precision="float32")
    np.testing.assert_allclose(model.predict(pairs), expected, atol=1e-5)
    assert [each["corpus_id"] for each in model.rank(TEXTS[0], TEXTS[1:9])] == [each["corpus_id"] for each in ranked]
    np.testing.assert_allclose(modernbert.restore(model).predict(pairs), expected, atol=0)


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_sparse_encoders_weigh_as_before(strategy, activation, tmp_path, pooled):
    model = sparse(tmp_path, pooling_strategy=strategy, activation_function=activation)
    expected = model.encode(TEXTS).to_dense()
    modernbert.accelerate(model, precision="float32")
    pooled.clear()
    found = model.encode(TEXTS)
    assert found.is_sparse
    assert pooled == [50]
    torch.testing.assert_close(found.to_dense(), expected, atol=1e-4, rtol=1e-4)
    short = model.encode(TEXTS, max_active_dims=5).to_dense()
    assert (short != 0).sum(1).max() <= 5


@pytest.mark.skipif(not hasattr(st, "MultiVectorEncoder"), reason="sentence-transformers before 6.1")
@pytest.mark.parametrize("attend", [True, False])
def test_multi_vector_encoders_give_the_same_vectors(attend, tmp_path):
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    encoder = Transformer(
        write_folder(tmp_path / "encoder"),
        query_expansion={"strategy": "fixed", "attend": attend, "token": None, "length": 16},
    )
    dense = Dense(64, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
    model = st.MultiVectorEncoder(
        modules=[
            encoder,
            dense,
            MultiVectorMask(skiplist_words=["w7"]),
            Normalize("token_embeddings", "token_embeddings"),
        ],
        device="cpu",
    )
    queries = make_texts(5, longest=10)
    expected = model.encode_query(queries), model.encode_document(TEXTS)
    modernbert.accelerate(model, precision="float32")
    calls = []
    encode = Backbone.encode
    Backbone.encode = lambda self, rows: calls.append(1) or encode(self, rows)
    try:
        found = model.encode_query(queries), model.encode_document(TEXTS)
    finally:
        Backbone.encode = encode
    assert len(calls) == (3 if attend else 2)  # one batch of queries, two of documents
    for one, other in zip(found, expected, strict=True):
        for each, wanted in zip(one, other, strict=True):
            torch.testing.assert_close(each, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_several_processes_give_the_same(tmp_path):
    model = embedder(tmp_path)
    expected = model.encode(TEXTS)
    modernbert.accelerate(model, precision="float32")
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = model.encode(TEXTS, pool=pool, chunk_size=20)
    finally:
        model.stop_multi_process_pool(pool)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=2e-5)  # the weights are now in shared memory


def test_int8_logs_its_error(tmp_path):
    model = embedder(tmp_path)
    expected = model.encode(TEXTS)
    modernbert.accelerate(model, precision="int8", tolerance=0.3)
    error = acceleration_of(model).error
    assert 1e-4 < error < 0.3
    assert (model.encode(TEXTS) * expected).sum(1).min() > 0.9
