"""The contrastive step matches sentence-transformers, and engines are not ranked if it does not."""

import json
from pathlib import Path

import pytest

from corpora import make_model
from modernbert.bench.contrastive import bench_contrastive, distinct
from modernbert.errors import ConfigError, DataError
from modernbert.tasks.ranking.examples import RankingColumns, read_ranking
from modernbert.text.records import Source

pytest.importorskip("sentence_transformers")


@pytest.mark.filterwarnings("ignore")
def test_both_have_the_same_loss_and_gradients(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    lines = [
        {"query": f"what is option {n}", "positive": f"option {n} is a value of {n * n}", "negative": f"month {n}"}
        for n in range(12)
    ]
    path = tmp_path / "triples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], *lines]))
    report = bench_contrastive(
        str(model), str(path), pairs=12, max_length=32, mini_batch=5, tokens_at_once=100, rounds=1
    )
    theirs, ours, half = report.steps
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
    assert ours.gradient_error is not None
    assert ours.gradient_error < 1e-4
    assert ours.ratio > 0
    assert half.engine == "modernbert, bf16"
    assert half.gradient_error is not None
    assert 1e-4 < half.gradient_error < 0.1
    examples = read_ranking(Source(path=str(path)), RankingColumns())
    assert len({one.query for one in distinct(examples, 12)}) == 12
    with pytest.raises(DataError, match="There are 12 triples without a common text, but 13 are needed"):
        distinct(examples, 13)


@pytest.mark.filterwarnings("ignore")
def test_different_gradients_are_an_error_and_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model")
    lines = [{"query": f"question {n}", "positive": f"answer {n}", "negative": f"month {n}"} for n in range(2)]
    path = tmp_path / "triples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("modernbert.bench.contrastive.relative_error", lambda one, other: 0.5)
    with pytest.raises(ConfigError, match=r"gradients in fp32 is 5\.0e-01, above the limit of 1e-03"):
        bench_contrastive(str(model), str(path), pairs=2, rounds=1)
