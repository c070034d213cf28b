"""OpenAI, Cohere, Jina and vLLM, and the routes of this package for other tasks."""

import base64

import numpy as np
import pytest
from huggingface_hub import InferenceClient

from modernbert import Embedder, FillMask, MultiVectorEmbedder, QuestionAnswerer, TokenClassifier
from served import listening

TEXTS = ["import json", "def parse(self, text): return text.strip() or None", "for x in y:"]


@pytest.fixture(scope="module")
def embedder(folders):
    return Embedder.from_pretrained(folders["embedder"], device="cpu")


def test_openai_gets_numbers_or_base64(client, embedder):
    expected = embedder.encode(TEXTS)
    answer = client.post("/v1/embeddings", json={"input": TEXTS, "model": "embedder"}).json()
    assert (answer["object"], answer["model"]) == ("list", "embedder")
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 9
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], expected, atol=1e-5)
    packed = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    [short] = client.post("/v1/embeddings", json={"input": TEXTS[0], "dimensions": 4}).json()["data"]
    assert np.linalg.norm(short["embedding"]) == pytest.approx(1, abs=1e-5)
    assert len(short["embedding"]) == 4


def test_openai_errors_have_the_form_of_tei(client):
    answer = client.post("/v1/embeddings", json={"input": []})
    assert (answer.status_code, answer.json()) == (
        400,
        {"message": "Input validation error: `inputs` cannot be empty", "code": 400, "type": "Empty"},
    )
    assert client.post("/v1/embeddings", json={}).json().keys() == {"message", "code", "type"}
    assert client.post("/v1/embeddings", json={"input": "a", "model": "no"}).status_code == 404


def test_all_models_are_listed(client, folders):
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == list(folders)


@pytest.mark.parametrize(("kind", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255)])
def test_cohere_integers_keep_the_directions_of_vectors(client, embedder, kind, low, high):
    body = {"texts": TEXTS, "model": "embedder", "embedding_types": ["float", kind]}
    found = client.post("/v2/embed", json=body).json()["embeddings"]
    integers = np.array(found[kind])
    assert integers.min() >= low
    assert integers.max() <= high
    centred = integers.astype(np.float64) - (128 if kind == "uint8" else 0)
    cosines = (centred * found["float"]).sum(1) / np.linalg.norm(centred, axis=1)
    assert cosines.min() > 0.999
    np.testing.assert_allclose(found["float"], embedder.encode(TEXTS), atol=1e-5)


def test_cohere_bits_are_the_signs_of_numbers(client):
    body = {"texts": TEXTS, "embedding_types": ["float", "binary", "ubinary", "base64"], "output_dimension": 16}
    found = client.post("/v2/embed", json=body).json()["embeddings"]
    signs = np.array(found["float"]) > 0
    ubinary = np.array(found["ubinary"], dtype=np.uint8)
    assert (np.unpackbits(ubinary, axis=1).astype(bool) == signs).all()
    assert (np.array(found["binary"]) + 128 == ubinary).all()
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(found["base64"][0]), "<f4"), found["float"][0], atol=1e-6)


def test_cohere_input_types_are_prompts(client, embedder):
    body = {"texts": TEXTS, "input_type": "search_query"}
    found = client.post("/v2/embed", json=body).json()
    np.testing.assert_allclose(found["embeddings"]["float"], embedder.encode_query(TEXTS), atol=1e-5)
    assert found["texts"] == TEXTS
    assert found["meta"]["billed_units"]["input_tokens"] > 0
    assert client.post("/v2/embed", json=body | {"input_type": "song"}).status_code == 413
    long = {"texts": ["json " * 300], "truncate": "NONE"}
    assert client.post("/v2/embed", json=long).status_code == 413
    assert client.post("/v2/embed", json=long | {"truncate": "START"}).status_code == 200


def test_documents_are_ranked_in_the_form_of_cohere_and_jina(client):
    expected = client.post("/rerank", json={"query": "json", "texts": TEXTS}).json()
    for path in ("/v1/rerank", "/v2/rerank"):
        body = {"query": "json", "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]], "model": "reranker"}
        answer = client.post(path, json=body).json()
        assert [one["index"] for one in answer["results"]] == [one["index"] for one in expected]
        assert [one["relevance_score"] for one in answer["results"]] == pytest.approx(
            [one["score"] for one in expected], abs=1e-5
        )
        assert answer["usage"]["total_tokens"] > 0
        best = client.post(path, json=body | {"top_n": 1, "return_documents": True}).json()["results"]
        assert best[0]["document"] == {"text": TEXTS[best[0]["index"]]}
        assert len(best) == 1
        assert client.post(path, json=body | {"top_n": 0}).status_code == 413


def test_scores_of_pairs_are_those_of_each_kind_of_model(client, embedder):
    vectors = embedder.encode_document(TEXTS)
    query = embedder.encode_query("json")
    cosines = client.post("/score", json={"queries": "json", "documents": TEXTS, "model": "embedder"}).json()
    assert [one["score"] for one in cosines["data"]] == pytest.approx((vectors @ query).tolist(), abs=1e-5)
    pairs = client.post("/score", json={"text_1": TEXTS, "text_2": TEXTS[::-1], "model": "embedder"}).json()
    assert pairs["data"][1]["score"] == pytest.approx(
        float(embedder.encode_query(TEXTS[1]) @ embedder.encode_document(TEXTS[1])), abs=1e-5
    )
    maxsim = client.post("/score", json={"queries": "json", "documents": TEXTS, "model": "multi-vector"}).json()
    ranked = client.post("/rerank", json={"query": "json", "texts": TEXTS, "model": "multi-vector"}).json()
    assert maxsim["data"][ranked[0]["index"]]["score"] == pytest.approx(ranked[0]["score"], abs=1e-4)
    assert client.post("/score", json={"queries": ["a", "b"], "documents": TEXTS}).status_code == 413
    assert client.post("/score", json={"documents": TEXTS}).status_code == 400


def test_vectors_of_tokens_are_pooled_for_queries_and_documents(client, folders):
    model = MultiVectorEmbedder.from_pretrained(folders["multi-vector"], device="cpu")
    for is_query in (False, True):
        found = client.post("/pooling", json={"input": TEXTS, "is_query": is_query}).json()
        for one, expected in zip(found["data"], model.encode(TEXTS, is_query=is_query), strict=True):
            np.testing.assert_allclose(one["data"], expected, atol=1e-5)


def test_entities_are_those_of_the_token_classifier_also_in_long_texts(client, folders):
    find = TokenClassifier.from_pretrained(folders["entities"], device="cpu")
    texts = ["Anna met Bob in Paris.", " ".join(["Anna met Bob in Paris."] * 60)]
    for row, expected in zip(client.post("/entities", json={"inputs": texts}).json(), find(texts), strict=True):
        assert [(one["start"], one["end"], one["entity_group"], one["word"]) for one in row] == [
            (one.begin, one.end, one.label, one.text) for one in expected
        ]
    assert client.post("/entities", json={"inputs": " "}).json() == {
        "error": "Input validation error: Text 1 is empty; leave it out.",
        "error_type": "Empty",
    }


def test_answers_are_those_of_the_question_answerer_over_long_contexts(client, folders):
    answer = QuestionAnswerer.from_pretrained(folders["answers"], device="cpu")
    context = " ".join(f"Line {number} of the file." for number in range(200))
    expected = answer("Which line?", context, top_k=3)
    asked = {"inputs": {"question": "Which line?", "context": context}}
    found = client.post("/answers", json=asked | {"top_k": 3}).json()
    assert [(one["answer"], one["start"], one["end"]) for one in found] == [
        (one.text, one.begin, one.end) for one in expected
    ]
    assert client.post("/answers", json=asked).json()["answer"] == expected[0].text
    several = client.post("/answers", json={"inputs": [asked["inputs"]] * 2}).json()
    assert [one["answer"] for one in several] == [expected[0].text] * 2


def test_masks_are_filled_as_by_fill_mask(client, folders):
    fill = FillMask.from_pretrained(folders["fill-mask"], device="cpu")
    texts = ["import [MASK]", "def [MASK](self): [MASK]"]
    found = client.post("/fill_mask", json={"inputs": texts, "top_k": 3}).json()
    [one_mask], two_masks = fill(texts, top_k=3)
    assert [one["token"] for one in found[0]] == [one.token_id for one in one_mask]
    assert [[one["sequence"] for one in mask] for mask in found[1]] == [
        [one.text for one in mask] for mask in two_masks
    ]
    refused = client.post("/fill_mask", json={"inputs": "no mask"})
    assert refused.status_code == 413
    assert "There is no [MASK] in 'no mask'" in refused.json()["error"]


def test_the_client_of_the_hub_works_unchanged(loaded, embedder, folders):
    kinds = ("embedder", "fill-mask", "entities", "answers")
    with listening([loaded[kind] for kind in kinds]) as address:
        hub = InferenceClient(base_url=address)
        np.testing.assert_allclose(hub.feature_extraction(TEXTS[0]), embedder.encode(TEXTS[:1]), atol=1e-5)
        assert len(InferenceClient(f"{address}/similarity").sentence_similarity(TEXTS[0], TEXTS)) == 3
        filled = InferenceClient(f"{address}/fill_mask").fill_mask("import [MASK]")
        assert len(filled) == 5
        assert filled[0].score >= filled[1].score
        InferenceClient(f"{address}/entities").token_classification("Anna met Bob.")
        answer = InferenceClient(f"{address}/answers").question_answering(question="Who?", context="Anna met Bob.")
        assert answer.start <= answer.end


def test_two_models_of_a_kind_are_selected_by_name(folders, loaded):
    from modernbert.serve.loading import load
    from served import serving

    other = load(folders["classifier"], "other", device="cpu", kind=None)
    with serving([loaded["classifier"], other]) as client:
        for name in ("classifier", "other"):
            assert client.post("/predict", json={"inputs": "a", "model": name}).status_code == 200
        assert 'te_request_count{method="single",model="other"} 1.0' in client.get("/metrics").text


def test_the_document_of_routes_names_what_is_served(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embed", "/rerank", "/predict", "/v1/embeddings", "/v2/embed", "/entities", "/fill_mask"} <= set(paths)
    for name in ("/", "/docs"):
        page = client.get(name)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "//" not in page.text.replace("https://", "").split("</style>")[0]
        assert "http" not in page.text.replace('"http', "")  # it loads nothing from other servers
