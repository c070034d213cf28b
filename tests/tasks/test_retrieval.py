"""Retrieval predictors: order, batches, long texts, prompts, and invalid inputs."""

import logging

import numpy as np
import pytest
import torch

from modernbert import Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.model import retrieval
from modernbert.model.retrieval_settings import DenseSettings
from modernbert.tasks.quantization import quantize
from modernbert.text.words import clusters
from retrieval import PROMPTS, QUERIES, TEXTS, base_folder

LONG = " ".join(f"word{number}" for number in range(300))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def embedder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    settings = DenseSettings(prompts=PROMPTS, normalize=True, max_length=64)
    retrieval.DenseEncoder.from_pretrained(base, settings=settings).save_pretrained(folder)
    return Embedder.from_pretrained(folder)


@pytest.fixture(scope="module")
def reranker(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerank")
    torch.manual_seed(0)
    retrieval.CrossEncoder.from_pretrained(base).save_pretrained(folder)
    return Reranker.from_pretrained(folder)


def test_vectors_do_not_depend_on_batches_or_neighbours(embedder):
    whole = embedder.encode(TEXTS, tokens_at_once=16)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, [embedder.encode(text) for text in TEXTS], atol=1e-6)
    np.testing.assert_allclose(whole[::-1], embedder.encode(TEXTS[::-1]), atol=1e-6)
    assert embedder.encode([]).shape == (0, 64)


def test_a_prompt_is_chosen_by_role_or_name_or_given(embedder):
    plain = embedder.encode([PROMPTS["query"] + QUERIES[0]])
    for found in (
        embedder.encode_query(QUERIES[:1]),
        embedder.encode(QUERIES[:1], prompt_name="query"),
        embedder.encode(QUERIES[:1], prompt=PROMPTS["query"]),
    ):
        np.testing.assert_allclose(found, plain, atol=1e-6)
    assert np.abs(embedder.encode_document(QUERIES[:1]) - plain).max() > 1e-3
    with pytest.raises(DataError, match="no prompt with the name 'other'; this model has 'query', 'document'"):
        embedder.encode(TEXTS, prompt_name="other")


def test_long_texts_are_truncated_and_counted_once(embedder, caplog):
    with caplog.at_level(logging.WARNING):
        cut = embedder.encode([LONG, LONG, "short"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 texts are longer than 64 tokens and were truncated; chunk=True reads all of them."
    ]
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)


def test_chunks_cover_a_long_text_and_give_the_mean_or_the_best_score(embedder, caplog):
    with caplog.at_level(logging.WARNING):
        chunks = embedder.encode_chunks(["short", LONG])
        whole = embedder.encode_document(["short", LONG], chunk=True)
    assert not caplog.records
    assert chunks.owners[0] == 0
    assert set(chunks.owners[1:]) == {1}
    mean = chunks.vectors[1:].mean(0)
    np.testing.assert_allclose(whole[1], mean / np.linalg.norm(mean), atol=1e-5)
    queries = embedder.encode_query(QUERIES)
    best = embedder.similarity(queries, chunks)
    np.testing.assert_allclose(best[:, 1], (queries @ chunks.vectors[1:].T).max(1), atol=1e-5)


@pytest.mark.parametrize("overlap", [0, 3, 17])
def test_chunks_hold_whole_characters(embedder, overlap):
    couples = "".join(f"{chr(0x1F600 + 2 * pair)}\u200d{chr(0x1F601 + 2 * pair)}" for pair in range(20))
    text = f"a {couples} " + "".join(f"{chr(letter)}\u0301" for letter in range(ord("a"), ord("z")))
    ends = {end for _, end in clusters(text)} | {0}
    parts = embedder.texts.windows(text, "", overlap, 64)
    covered, places = 0, []
    for part in parts:
        begin = text.index(part)  # no two parts are the same
        places += [begin, begin + len(part)]
        assert begin <= covered
        covered = begin + len(part)
    assert covered == len(text)
    assert set(places) <= ends
    assert all(len(ids) <= 64 for ids in embedder.texts.encode(parts, max_length=500).ids)


def test_chunks_of_marks_without_end_are_all_there(embedder):
    text = "a" + "\u0301" * 500
    parts = embedder.texts.windows(text, "", 31, 32)
    assert 1 < len(parts) < 2000
    assert parts[-1].endswith("\u0301")


def test_truncate_dim_keeps_the_first_dimensions(embedder):
    whole, first = embedder.encode(TEXTS), embedder.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="truncate_dim is 65, but a vector has 64"):
        embedder.encode(TEXTS, truncate_dim=65)


def test_quantization_needs_calibration_vectors(embedder):
    vectors = embedder.encode(TEXTS)
    packed = embedder.encode(TEXTS[:1], precision="int8", calibration=vectors)
    assert np.abs(packed.astype(int) - quantize(vectors, "int8")[:1].astype(int)).max() <= 1
    assert embedder.encode(TEXTS, precision="ubinary").shape == (len(TEXTS), 8)
    with pytest.raises(DataError, match="at least two vectors"):
        embedder.encode(TEXTS[:1], precision="int8")


def test_special_tokens_written_in_a_text_are_text(embedder):
    ids = embedder.texts.encode(["a [SEP] b"]).ids[0].tolist()
    assert ids.count(embedder.texts.sep_id) == 1
    assert embedder.texts.encode(["b"], "[SEP] ").ids[0].tolist().count(embedder.texts.sep_id) == 2


def test_documents_are_ranked_from_the_best(reranker):
    for top_k in (0, -1):
        with pytest.raises(DataError, match="ask for at least one document"):
            reranker.rank(QUERIES[0], TEXTS, top_k=top_k)
    ranked = reranker.rank(QUERIES[0], TEXTS, top_k=3, return_documents=True)
    scores = reranker.predict([(QUERIES[0], text) for text in TEXTS])
    assert [one["corpus_id"] for one in ranked] == np.argsort(-scores)[:3].tolist()
    assert [one["text"] for one in ranked] == [TEXTS[one["corpus_id"]] for one in ranked]
    assert ((scores > 0) & (scores < 1)).all()
    raw = reranker.predict([(QUERIES[0], text) for text in TEXTS], raw_scores=True)
    np.testing.assert_allclose(1 / (1 + np.exp(-raw)), scores, rtol=1e-5)


def test_the_score_of_a_document_is_the_best_or_the_mean_of_its_chunks(reranker):
    long = " ".join([LONG, LONG])
    parts, _ = reranker._chunks([(QUERIES[0], long)], "")
    assert len(parts) > 1
    scores = reranker.predict(parts)
    np.testing.assert_allclose(reranker.predict([(QUERIES[0], long)], chunk=True), scores.max(keepdims=True), rtol=1e-5)
    mean = reranker.predict([(QUERIES[0], long), (QUERIES[1], "short")], chunk="mean")
    np.testing.assert_allclose(mean[0], scores.mean(), rtol=1e-5)


def test_sparse_weights_name_their_tokens(base):
    model = SparseEmbedder.from_pretrained(base)
    weights = model.encode(TEXTS, max_active_dims=5)
    assert weights.is_sparse
    for row, named in zip(weights.to_dense(), model.decode(weights), strict=True):
        assert len(named) == 5
        assert [weight for _, weight in named] == sorted(row[row > 0].tolist(), reverse=True)
    assert model.encode(TEXTS[0]).shape == (model.dimensions,)


def test_an_untrained_head_does_not_predict(base):
    with pytest.raises(CheckpointError, match="train one"):
        MultiVectorEmbedder.from_pretrained(base)
    with pytest.raises(CheckpointError, match="train one"):
        Reranker.from_pretrained(base)


@pytest.mark.parametrize("texts", [["one", ""], ["one", None], [3], {"a": 1}, 7])
def test_a_value_that_is_not_a_text_is_refused(texts, embedder):
    with pytest.raises(DataError):
        embedder.encode(texts)


@pytest.mark.parametrize("pairs", [[("one", "")], [("one",)], ["ab"], [("one", "two", "three")]])
def test_a_value_that_is_not_a_pair_is_refused(pairs, reranker):
    with pytest.raises(DataError):
        reranker.predict(pairs)
