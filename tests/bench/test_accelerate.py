"""`modernbert bench accelerate` on small folders."""

import json
import logging

import pytest

from integrations_models import make_texts, write_folder

pytest.importorskip("sentence_transformers")

from modernbert.bench.accelerate import bench_accelerate
from modernbert.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture
def passages(tmp_path):
    path = tmp_path / "passages.txt"
    path.write_text("\n".join(make_texts(9)) + "\n\n")
    return path


@pytest.mark.parametrize(
    ("kind", "architecture"), [("embed", "ModernBertModel"), ("rerank", "ModernBertForSequenceClassification")]
)
def test_every_run_agrees_with_the_original(kind, architecture, tmp_path, passages):
    folder = write_folder(tmp_path / "model", architecture, num_labels=1)
    found = bench_accelerate(folder, passages, precisions=["float32", "int8"], rounds=1, tolerance=0.5)
    assert found.kind == kind
    assert found.texts == 9
    own = "modernbert Embedder" if kind == "embed" else "modernbert Reranker"
    assert [run.name for run in found.runs] == [
        "sentence-transformers", "accelerated, float32", f"{own}, float32", "accelerated, int8", f"{own}, int8",
    ]  # fmt: skip
    assert found.runs[0].ratio == 1
    assert all(run.agreement > 0.9999 for run in found.runs[:3])
    assert all(0.8 < run.agreement < found.runs[1].agreement for run in found.runs[3:])
    assert all(run.tokens_per_second > 0 for run in found.runs)
    json.dumps([vars(run) for run in found.runs])


def test_mistakes_are_one_sentence(tmp_path, passages):
    folder = write_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match="at least two texts"):
        bench_accelerate(folder, passages, limit=1)
    with pytest.raises(DataError, match="cannot be read as text"):
        bench_accelerate(folder, tmp_path / "none.txt")
    (tmp_path / "one.txt").write_text("w7\n")
    with pytest.raises(DataError, match="holds 1 texts"):
        bench_accelerate(folder, tmp_path / "one.txt")
