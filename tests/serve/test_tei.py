"""The protocol of text-embeddings-inference: requests, answers, errors, headers and metrics."""

import re

import numpy as np
import pytest
import torch

from modernbert import Classifier, Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from modernbert.model.retrieval import SparseEncoder
from modernbert.model.retrieval_settings import SparseSettings
from modernbert.serve.loading import load
from modernbert.serve.settings import ServeSettings
from served import Numbering, numbering, serving

TEXTS = ["import json", "def parse(self, text): return text.strip() or None", "for x in y:"]


def test_embeddings_are_those_of_the_embedder(client, folders):
    expected = Embedder.from_pretrained(folders["embedder"], device="cpu").encode(TEXTS)
    answer = client.post("/embed", json={"inputs": TEXTS})
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json(), expected, atol=1e-5)


def test_one_text_gives_a_list_of_one_vector(client):
    [alone] = client.post("/embed", json={"inputs": TEXTS[0]}).json()
    both = client.post("/embed", json={"inputs": TEXTS[:2]}).json()
    np.testing.assert_allclose(alone, both[0], atol=1e-5)


def test_prompts_are_put_before_texts(client, folders):
    expected = Embedder.from_pretrained(folders["embedder"], device="cpu").encode_query(TEXTS)
    answer = client.post("/embed", json={"inputs": TEXTS, "prompt_name": "query"})
    np.testing.assert_allclose(answer.json(), expected, atol=1e-5)


def test_vectors_can_be_shortened_and_left_as_they_are(client):
    whole = np.array(client.post("/embed", json={"inputs": TEXTS, "normalize": False}).json())
    short = np.array(client.post("/embed", json={"inputs": TEXTS, "dimensions": 8}).json())
    assert not np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(
        short, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-5
    )  # fmt: skip


def test_ids_are_read_as_they_are(client, loaded):
    tokenizer = loaded["embedder"].tokenizer
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    of_texts = client.post("/embed", json={"inputs": TEXTS}).json()
    np.testing.assert_allclose(client.post("/embed", json={"inputs": ids}).json(), of_texts, atol=1e-5)
    np.testing.assert_allclose(client.post("/embed", json={"inputs": ids[0]}).json(), of_texts[:1], atol=1e-5)
    mixed = client.post("/embed", json={"inputs": [ids[0], TEXTS[1]]}).json()
    np.testing.assert_allclose(mixed, of_texts[:2], atol=1e-5)


def test_a_long_text_is_truncated_on_the_requested_side(client):
    long, most = "json " * 400 + "calendar", 128

    def embedded(text, **options):
        return client.post("/embed", json={"inputs": text} | options).json()[0]

    np.testing.assert_allclose(embedded(long), embedded("json " * 300), atol=1e-5)
    left = embedded(long, truncation_direction="Left")
    assert not np.allclose(left, embedded(long), atol=1e-3)
    refused = client.post("/embed", json={"inputs": long, "truncate": False})
    assert refused.status_code == 413
    assert refused.json()["error_type"] == "Validation"
    assert refused.json()["error"].startswith(
        f"Input validation error: `inputs` must have less than {most} tokens. Given: "
    )


def test_tokens_have_their_vectors(client, loaded):
    rows = client.post("/embed_all", json={"inputs": TEXTS}).json()
    tokenizer = loaded["embedder"].tokenizer
    assert [len(row) for row in rows] == [len(tokenizer.encode(text).ids) for text in TEXTS]
    pooled = np.array(client.post("/embed", json={"inputs": TEXTS, "normalize": False}).json())
    np.testing.assert_allclose([np.mean(row, axis=0) for row in rows], pooled, atol=1e-5)


def test_token_vectors_of_a_multi_vector_model_are_those_that_it_scores(client, folders):
    model = MultiVectorEmbedder.from_pretrained(folders["multi-vector"], device="cpu")
    for name, expected in (("query", model.encode_query(TEXTS)), ("document", model.encode_document(TEXTS))):
        rows = client.post("/embed_all", json={"inputs": TEXTS, "model": "multi-vector", "prompt_name": name}).json()
        for row, wanted in zip(rows, expected, strict=True):
            np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_sparse_weights_are_those_of_the_sparse_embedder(client, folders):
    found = client.post("/embed_sparse", json={"inputs": TEXTS}).json()
    expected = SparseEmbedder.from_pretrained(folders["sparse"], device="cpu").encode(TEXTS)
    dense = expected.to_dense() if isinstance(expected, torch.Tensor) else torch.as_tensor(expected)
    for row, wanted in zip(found, dense, strict=True):
        again = torch.zeros_like(wanted)
        again[[one["index"] for one in row]] = torch.tensor([one["value"] for one in row])
        torch.testing.assert_close(again, wanted, atol=1e-4, rtol=1e-4)


def test_queries_of_a_sparse_model_with_a_table_are_looked_up(folders, tmp_path):
    settings = SparseSettings(query_table="frozen", prompts={"document": "read: "})
    model = SparseEncoder.from_pretrained(folders["fill-mask"], settings=settings)
    with torch.no_grad():
        model.query_table.uniform_(0.1, 1)
    model.save_pretrained(tmp_path)
    embedder = SparseEmbedder.from_pretrained(tmp_path, device="cpu")
    asked = {"query": embedder.encode_query(TEXTS), "document": embedder.encode_document(TEXTS)}
    with serving([load(str(tmp_path), "sparse", device="cpu")]) as client:
        for name, expected in asked.items():
            found = client.post("/embed_sparse", json={"inputs": TEXTS, "prompt_name": name}).json()
            for row, wanted in zip(found, expected.to_dense(), strict=True):
                again = torch.zeros_like(wanted)
                again[[one["index"] for one in row]] = torch.tensor([one["value"] for one in row])
                torch.testing.assert_close(again, wanted, atol=1e-4, rtol=1e-4)
        ids = embedder.texts.encode_unframed(TEXTS[:1]).ids[0].tolist()
        found = client.post("/embed_sparse", json={"inputs": [ids], "prompt_name": "query"}).json()
        assert sorted(one["index"] for one in found[0]) == sorted(set(ids))


def test_predictions_are_those_of_the_classifier(client, folders):
    classify = Classifier.from_pretrained(folders["classifier"], device="cpu")
    expected = classify([TEXTS[0], (TEXTS[0], TEXTS[1])])
    found = client.post("/predict", json={"inputs": [[TEXTS[0]], [TEXTS[0], TEXTS[1]]]}).json()
    for row, wanted in zip(found, expected, strict=True):
        assert [one["label"] for one in row] == [one.label for one in wanted]
        assert [one["score"] for one in row] == pytest.approx([one.score for one in wanted], abs=1e-5)
    for inputs, wanted in ((TEXTS[0], found[0]), (TEXTS[:2], found[1])):  # a text, and a pair
        alone = client.post("/predict", json={"inputs": inputs}).json()
        assert [one["score"] for one in alone] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
    raw = client.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}).json()
    assert sum(one["score"] for one in raw) != pytest.approx(1)


def test_texts_are_ranked_as_by_the_reranker(client, folders):
    expected = Reranker.from_pretrained(folders["reranker"], device="cpu").rank("json", TEXTS)
    found = client.post("/rerank", json={"query": "json", "texts": TEXTS, "return_text": True}).json()
    assert [one["index"] for one in found] == [one["corpus_id"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    assert [one["text"] for one in found] == [TEXTS[one["index"]] for one in found]
    raw = client.post("/rerank", json={"query": "json", "texts": TEXTS, "raw_scores": True}).json()
    assert raw[0].keys() == {"index", "score"}
    assert torch.tensor(raw[0]["score"]).sigmoid().item() == pytest.approx(found[0]["score"], abs=1e-5)


def test_a_multi_vector_model_ranks_by_maxsim(client, folders):
    model = MultiVectorEmbedder.from_pretrained(folders["multi-vector"], device="cpu")
    expected = model.similarity(model.encode_query(["json"]), model.encode_document(TEXTS))[0]
    found = client.post("/rerank", json={"query": "json", "texts": TEXTS, "model": "multi-vector"}).json()
    assert [one["score"] for one in found] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-4)


def test_similarity_is_the_cosine(client):
    found = client.post("/similarity", json={"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}}).json()
    vectors = np.array(client.post("/embed", json={"inputs": TEXTS}).json())
    assert found == pytest.approx((vectors @ vectors[0]).tolist(), abs=1e-5)
    assert found[0] == pytest.approx(1, abs=1e-5)


def test_tokens_and_their_text_go_both_ways(client):
    [tokens] = client.post("/tokenize", json={"inputs": "import [MASK] ñ"}).json()
    assert tokens[0] == {"id": tokens[0]["id"], "text": "[CLS]", "special": True, "start": None, "stop": None}
    inner = [one for one in tokens if not one["special"]]
    assert inner[0]["start"] == 0
    assert inner[-1]["stop"] == len("import [MASK] ñ")
    ids = [one["id"] for one in tokens]
    assert client.post("/decode", json={"ids": ids}).json() == ["import [MASK] ñ"]
    assert client.post("/decode", json={"ids": [ids], "skip_special_tokens": False}).json()[0].startswith("[CLS]")
    bare = client.post("/tokenize", json={"inputs": ["a", "b"], "add_special_tokens": False}).json()
    assert [len(one) for one in bare] == [1, 1]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/embed", {"inputs": ""}, 400, "Empty", "Input validation error: `inputs` cannot be empty"),
        ("/embed", {"inputs": []}, 400, "Empty", "Input validation error: `inputs` cannot be empty"),
        ("/embed", {"inputs": [[]]}, 400, "Empty", "Input validation error: `inputs` cannot be empty"),
        ("/embed", {"inputs": [10**9]}, 422, "Tokenizer", "tokenizer error there is no token 1000000000"),
        ("/embed", {"inputs": [-1]}, 422, "Tokenizer", "tokenizer error there is no token -1"),
        ("/embed", {"inputs": 3}, 422, "Validation", "Failed to deserialize the JSON body into the target .*: inputs"),
        ("/embed", {"input": "a"}, 422, "Validation", "Failed to deserialize .*: inputs: field required"),
        ("/embed", {"inputs": "a", "prompt_name": "no"}, 413, "Validation", "`prompt_name` 'no' is not one of: query"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 413, "Validation", "`dimensions` must be between 1 and 64"),
        ("/embed", {"inputs": "a", "model": "no"}, 404, "NotFound", "The model `no` is not served as an embedding"),
        ("/embed", {"inputs": "a", "model": "sparse"}, 404, "NotFound", "The model `sparse` is not served as an emb"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 413, "Validation", "`inputs` must be a text, a pair of texts"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty", "`texts` cannot be empty"),
        ("/decode", {"ids": []}, 400, "Empty", "`ids` cannot be empty"),
        ("/embed_all", {"inputs": "a", "model": "multi-vector", "truncation_direction": "left"}, 413, "Validation", ""),
    ],
)  # fmt: skip
def test_errors_have_the_statuses_and_the_json_of_tei(client, path, body, status, kind, message):
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert re.search(message, answer.json()["error"]), answer.json()
    assert answer.json().keys() == {"error", "error_type"}


def test_what_is_not_json_is_an_error_of_400(client):
    answer = client.post("/embed", content=b"{inputs", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Failed to parse the request body as JSON: ")
    half = client.post("/embed", content=rb'{"inputs": "a \ud83d"}', headers={"content-type": "application/json"})
    assert half.status_code in (400, 422)


def test_a_model_of_another_kind_answers_424(loaded):
    with serving([loaded["sparse"]]) as client:
        answer = client.post("/embed", json={"inputs": "a"})
        assert (answer.status_code, answer.json()) == (
            424,
            {"error": "model is not an embedding model", "error_type": "Backend"},
        )
        assert "/embed" not in client.get("/openapi.json").json()["paths"]
        assert "/embed_sparse" in client.get("/openapi.json").json()["paths"]


def test_answers_have_the_headers_of_tei(client):
    answer = client.post("/embed", json={"inputs": ["ab", "cde"]})
    assert answer.headers["x-compute-characters"] == "5"
    assert int(answer.headers["x-compute-tokens"]) >= 6
    for name in ("compute-time", "total-time", "tokenization-time", "queue-time", "inference-time"):
        assert int(answer.headers[f"x-{name}"]) >= 0
    assert answer.headers["x-compute-type"] == "cpu+optimized"


def test_post_to_the_root_is_what_the_first_model_does(loaded):
    with serving([loaded["classifier"], loaded["embedder"]]) as client:
        assert client.post("/", json={"inputs": "a"}).json() == client.post("/predict", json={"inputs": "a"}).json()


def test_info_has_models_and_limits(client):
    found = client.get("/info").json()
    settings = ServeSettings()
    assert found["model_type"] == {"embedding": {"pooling": "mean"}}
    for name in ("max_concurrent_requests", "max_batch_tokens", "max_client_batch_size", "auto_truncate"):
        assert found[name] == getattr(settings, name)
    assert found["max_input_length"] == 128
    assert len(found["models"]) == 8
    other = client.get("/info", params={"model": "classifier"}).json()
    assert other["model_type"]["classifier"]["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert client.get("/info", params={"model": "no"}).status_code == 404


def test_metrics_count_under_the_names_of_tei(loaded):
    with serving([loaded["embedder"]]) as client:
        client.post("/embed", json={"inputs": "a"})
        client.post("/embed", json={"inputs": ["a", "b"]})
        client.post("/embed", json={"inputs": []})
        text = client.get("/metrics").text
    assert '\nte_request_count{method="single",model="embedder"} 1.0' in text
    assert '\nte_request_success{method="batch",model="embedder"} 1.0' in text
    assert '\nte_request_failure{err="validation"} 1.0' in text
    assert '\nte_embed_count{model="embedder"} 3.0' in text
    assert '\nte_queue_size{model="embedder"} 0.0' in text
    assert '\nte_batch_next_size_sum{model="embedder"} 3.0' in text
    assert "# TYPE te_request_count counter" in text
    for name in ("te_request_duration", "te_request_queue_duration", "te_batch_next_tokens", "te_request_input_length"):
        assert f'\n{name}_bucket{{le="+Inf",model="embedder"}}' in text
    assert "_total" not in text
    assert "_created" not in text


def test_more_texts_than_a_client_may_send_are_refused(tokenizer):
    with serving([numbering(tokenizer, Numbering())], max_client_batch_size=3) as client:
        answer = client.post("/embed", json={"inputs": ["a"] * 4})
        assert answer.status_code == 413
        assert answer.json() == {"error": "batch size 4 > maximum allowed batch size 3", "error_type": "Validation"}
