"""`bench embed`, `rerank` and `maxsim` compare outputs first, and print what each engine has."""

import json

import pytest
from typer.testing import CliRunner

from modernbert.bench import retrieval as bench
from modernbert.bench.maxsim import bench_maxsim
from modernbert.cli import app
from modernbert.errors import DataError
from modernbert.model import SequenceClassifier
from modernbert.tasks.ranking.maxsim import maxsim_scores
from retrieval import QUERIES, TEXTS, base_folder

BOUNDS = ("products alone", "one copy of the vectors")

pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("embedder"))


def run(*arguments):
    result = CliRunner().invoke(app, ["bench", *map(str, arguments), "--rounds", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_embedding_is_compared_with_sentence_transformers(embedder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    engines = ["--engine", "fp32", "--engine", "bf16", "--engine", "int8"]
    report = json.loads(run("embed", file, "--model", embedder, *engines, "--json"))
    names = ["sentence-transformers", "fp32", "bf16", "int8"]
    found = {one["engine"]: one for one in report["engines"]}
    assert list(found) == names
    assert found["fp32"]["error"] < 1e-4
    assert all(found[name]["least_cosine"] > 0.999 for name in names)
    assert [0 < (found[name]["roofline_fraction"] or -1) < 1 for name in names] == [True, True, True, False]
    assert "of the roofline" in run("embed", file, "--model", embedder, "--limit", 2)
    short = json.loads(run("embed", file, "--model", embedder, "--max-length", 6, "--json"))
    assert short["tokens"] <= 6 * len(TEXTS) < report["tokens"]
    assert short["engines"][1]["error"] < 1e-4


def test_reranking_is_compared_with_sentence_transformers(tmp_path):
    model = base_folder(tmp_path / "model", head=SequenceClassifier, id2label={0: "LABEL_0"})
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    report = json.loads(run("rerank", QUERIES[0], file, "--model", model, "--json"))
    theirs, ours, _ = report["engines"]
    assert report["texts"] == len(TEXTS)
    assert ours["error"] < 1e-4
    assert theirs["least_cosine"] is None


def test_late_interaction_scores_are_compared_with_sentence_transformers(monkeypatch):
    report = json.loads(run("maxsim", "--tokens", 1000, "--json"))
    assert 1000 <= report["document_tokens"] < 1280
    assert list(report["milliseconds"]) == ["sentence-transformers", "modernbert", *BOUNDS]
    assert min(report["milliseconds"].values()) > 0
    assert "| modernbert " in run("maxsim", "--tokens", 1000)
    monkeypatch.setattr("modernbert.bench.maxsim.maxsim_scores", lambda *given: maxsim_scores(*given) + 1)
    with pytest.raises(DataError, match="The scores differ from those of sentence-transformers"):
        bench_maxsim(1000, 1, 1)


def test_different_vectors_are_an_error_and_no_speed(embedder, monkeypatch):
    monkeypatch.setattr(bench, "_call", lambda function, texts: lambda: function(texts) + 0.01)
    with pytest.raises(DataError, match="The output of fp32 differs from that of sentence-transformers"):
        bench.bench_embed(str(embedder), TEXTS, ("fp32",), 1, 1)
