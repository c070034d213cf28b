import json

import pytest

from modernbert.errors import ConfigError, DataError
from modernbert.train.plot import plot_runs


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [
        {"step": i, "phase": "pretrain", "tokens": 1000 * i, "loss": 9.0 / i, "learning_rate": 1e-3,
         "batch_tokens": 1000, "grad_norm": 1.0, "fill": 0.99, "tokens_per_second": 5e3}
        for i in range(1, 20)
    ]  # fmt: skip
    result = {"loss": 3.0, "accuracy": 0.3, "bits_per_byte": 1.5, "predictions": 10}
    lines.append({"step": 19, "phase": "pretrain", "tokens": 19_000, "validation": {"a": result, "b": result}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_one_page_shows_several_runs(run, tmp_path, ending, begins):
    plot_runs([run, run], tmp_path / f"page{ending}")
    assert (tmp_path / f"page{ending}").read_bytes().startswith(begins)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"page{ending}", "run"]


def test_a_directory_without_metrics_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"holds no metrics\.jsonl"):
        plot_runs([tmp_path], tmp_path / "page.png")


def test_another_ending_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        plot_runs([run], tmp_path / "page.bmp")
