"""The commands that embed, rerank and search, from arguments to output."""

import json
import re
from datetime import datetime

import numpy as np
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner

from modernbert.cli import app
from modernbert.cli.prediction_files import write_predictions
from modernbert.errors import DataError, ModernBertError
from modernbert.model import retrieval
from retrieval import TEXTS, base_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    base = base_folder(made)
    torch.manual_seed(0)
    retrieval.CrossEncoder.from_pretrained(base).save_pretrained(made / "rerank")
    (made / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return made


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_folder_of_texts_becomes_an_index_that_is_searched(folder, tmp_path):
    run("search", "index", folder / "texts.jsonl", "--model", folder / "model", "--output", tmp_path / "i")
    for words in (("search", tmp_path / "i"), ("search", "query", tmp_path / "i")):
        [found] = json.loads(run(*words, "the parser", "--top-k", 2, "--reranker", folder / "rerank", "--json"))
        assert found["query"] == "the parser"
        assert len(found["hits"]) == 2
    shown = run("search", tmp_path / "i", "the parser", "--method", "bm25", "--top-k", 1)
    assert "A parser reads the whole file." in shown


def test_vectors_of_a_file_are_written(folder, tmp_path):
    report = json.loads(
        run("embed", folder / "texts.jsonl", "--model", folder / "model", "--output", tmp_path / "v.npy", "--json")
    )
    assert np.load(tmp_path / "v.npy").shape == (len(TEXTS), 64) == (report["vectors"], report["dimensions"])


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("pairs.jsonl", "is an input, which would be lost"),
        ("mined.md", "is the name of the report"),
        ("README.jsonl", r"would replace .*README\.md, which is not one"),
        ("", "is a folder"),
    ],
)
def test_mining_replaces_nothing_of_the_users_own(output, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"query": "a parser", "positive": "A parser reads the file."}\n' * 3)
    (tmp_path / "README.md").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = CliRunner().invoke(app, ["mine", "pairs.jsonl", "--output", output])
    assert isinstance(result.exception, ModernBertError)
    assert re.search(sentence, str(result.exception))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_that_json_cannot_say_are_written_with_their_predictions(tmp_path):
    row = {"text": "a", "label": "x", "at": datetime(2026, 1, 2), "half": "\ud83d", "n": float("nan"), "b": ["\ud83d"]}
    for name in ("a.jsonl", "a.csv"):
        write_predictions([row], tmp_path / name)
    write_predictions([row | {"b": []}], tmp_path / "a.parquet")
    [kept] = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert (kept["at"], kept["half"]) == (row["at"], "\ufffd")
    [found] = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (found["at"], found["half"], found["n"], found["b"]) == ("2026-01-02T00:00:00", "\ufffd", None, ["\ufffd"])
    assert "\ufffd" in (tmp_path / "a.csv").read_text(encoding="utf-8")
    for rows in ([{"x": 1}, {"x": "a"}], [row]):
        with pytest.raises(DataError, match="Parquet does not take a column of these rows"):
            write_predictions(rows, tmp_path / "b.parquet")


def test_documents_are_ranked(folder):
    given = ("rerank", "the parser", folder / "texts.jsonl", "--model", folder / "rerank")
    ranked = json.loads(run(*given, "--top-k", 3, "--json"))
    assert [one["text"] for one in ranked] == [TEXTS[one["corpus_id"]] for one in ranked]
    assert len(run(*given).splitlines()) == len(TEXTS)


def test_the_doctor_looks_at_a_folder_and_repairs_it(folder, tmp_path):
    retrieval.DenseEncoder.from_pretrained(folder / "model").save_pretrained(tmp_path)
    path = tmp_path / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"embedding_dimension": 64, "pooling_mode": "mean", "include_prompt": True}))
    programs = {one["program"]: one for one in json.loads(run("doctor", tmp_path, "--json"))["programs"]}
    assert programs["modernbert"]["same"]
    assert not programs["text-embeddings-inference"]["same"]
    assert json.loads(run("doctor", tmp_path, "--fix", "--json"))["changed"] == ["1_Pooling/config.json"]
    assert json.loads(path.read_text())["pooling_mode_mean_tokens"]
    assert "text-embeddings-inference      loads, same outputs" in run("doctor", tmp_path)


@pytest.mark.slow
def test_the_benchmarks_compare_before_they_measure(folder):
    texts = folder / "texts.jsonl"
    for words in (("embed", texts, "--model", folder / "model"), ("rerank", "q", texts, "--model", folder / "rerank")):
        report = json.loads(run("bench", *words, "--engine", "fp32", "--rounds", 1, "--threads", 1, "--json"))
        assert [one["engine"] for one in report["engines"]] == ["sentence-transformers", "fp32"]
        assert report["engines"][1]["error"] < 1e-4
