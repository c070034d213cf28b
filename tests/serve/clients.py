"""Typical client code, run against a server with `clients.py ADDRESS` in a separate environment.

The server has an embedder and a reranker. Each function is one client; its vectors are compared with those of `/embed`.
"""

import json
import sys
import urllib.request

ADDRESS = sys.argv[1]
TEXTS = ["import json", "def parse(self, text): return text.strip() or None", "for x in y:"]


def post(path, body):
    request = urllib.request.Request(ADDRESS + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other)
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-5


VECTORS = post("/embed", {"inputs": TEXTS})
QUERY = post("/embed", {"inputs": TEXTS, "prompt_name": "query"})


def openai_client():
    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=f"{ADDRESS}/v1", api_key="none")
    found = client.embeddings.create(model="embedder", input=TEXTS)  # the client requests base64 by default
    same([one.embedding for one in found.data], VECTORS)
    found = client.embeddings.create(model="embedder", input=TEXTS, encoding_format="float", dimensions=8)
    assert [len(one.embedding) for one in found.data] == [8, 8, 8]
    assert found.usage.total_tokens > 0
    assert [one.id for one in client.models.list()] == ["embedder", "reranker"]
    answered = False
    try:
        client.embeddings.create(model="unknown", input=TEXTS)
        answered = True
    except NotFoundError as error:
        reason = str(error)
    assert not answered
    assert "is not served" in reason


def cohere_client():
    import cohere

    client = cohere.ClientV2(api_key="none", base_url=ADDRESS)
    types = ["float", "int8", "uint8", "binary", "ubinary"]
    found = client.embed(texts=TEXTS, model="embedder", input_type="search_query", embedding_types=types)
    same(found.embeddings.float_, QUERY)
    assert len(found.embeddings.int8[0]) == len(QUERY[0])
    assert len(found.embeddings.ubinary[0]) * 8 == len(QUERY[0])
    ranked = client.rerank(model="reranker", query="json", documents=TEXTS, top_n=2)
    expected = post("/rerank", {"query": "json", "texts": TEXTS})
    assert [one.index for one in ranked.results] == [one["index"] for one in expected[:2]]
    old = cohere.Client(api_key="none", base_url=ADDRESS)
    same(old.embed(texts=TEXTS, model="embedder", input_type="search_query").embeddings, QUERY)
    assert len(old.rerank(model="reranker", query="json", documents=TEXTS).results) == 3


def hub_client():
    from huggingface_hub import InferenceClient

    same(InferenceClient(base_url=ADDRESS).feature_extraction(TEXTS[0]).tolist(), VECTORS[:1])
    assert len(InferenceClient(f"{ADDRESS}/similarity").sentence_similarity(TEXTS[0], TEXTS)) == 3


def langchain_clients():
    from huggingface_hub import InferenceClient
    from langchain_huggingface import HuggingFaceEndpointEmbeddings
    from langchain_openai import OpenAIEmbeddings

    openai = OpenAIEmbeddings(
        model="embedder", base_url=f"{ADDRESS}/v1", api_key="none", check_embedding_ctx_length=False
    )
    same(openai.embed_documents(TEXTS), VECTORS)
    same([openai.embed_query(TEXTS[0])], VECTORS[:1])
    tei = HuggingFaceEndpointEmbeddings(model="some/model", huggingfacehub_api_token="none")
    tei.client = InferenceClient(base_url=ADDRESS)  # the constructor accepts hub names only
    same(tei.embed_documents(TEXTS), VECTORS)
    same([tei.embed_query(TEXTS[0])], VECTORS[:1])


def llama_index_clients():
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    openai = OpenAIEmbedding(model_name="embedder", api_base=f"{ADDRESS}/v1", api_key="none")
    same(openai.get_text_embedding_batch(TEXTS), VECTORS)
    tei = TextEmbeddingsInference(base_url=ADDRESS, model_name="embedder", text_instruction="", query_instruction="")
    same(tei.get_text_embedding_batch(TEXTS), VECTORS)
    same([tei.get_query_embedding(TEXTS[0])], VECTORS[:1])


for check in (openai_client, cohere_client, hub_client, langchain_clients, llama_index_clients):
    check()
    print(check.__name__, "works")
