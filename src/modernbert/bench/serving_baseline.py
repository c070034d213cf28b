"""A minimal server for comparison: a FastAPI route that calls `SentenceTransformer.encode` for each request.

`python -m modernbert.bench.serving_baseline FOLDER PORT`, for `modernbert bench serve`.
"""

import sys
from typing import Any

import uvicorn
from fastapi import Body, FastAPI
from sentence_transformers import SentenceTransformer


def create(folder: str) -> FastAPI:
    """The application. Several threads of the pool call `encode` at the same time."""
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": "float32"})
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/embeddings")
    def embeddings(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
        data = [{"object": "embedding", "index": index, "embedding": one.tolist()} for index, one in enumerate(vectors)]
        return {"object": "list", "data": data, "model": folder}

    return app


if __name__ == "__main__":
    uvicorn.run(create(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
