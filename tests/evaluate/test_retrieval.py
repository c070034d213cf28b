"""The retrieval commands: mine, score, train on the scores, and evaluate all kinds of systems."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corpora import make_model
from modernbert import MultiVectorEmbedder
from modernbert.cli import app
from modernbert.errors import ConfigError, DataError

pytest.importorskip("bm25s")
pytest.importorskip("ir_measures")

ANIMALS = ["cat", "dog", "horse", "mouse", "bird", "fish", "cow", "goat", "sheep", "frog", "duck", "bee"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("animals")
    (folder / "qrels").mkdir()
    texts = [f"A {name} is an animal. The {name} eats and the {name} sleeps." for name in ANIMALS]
    documents = [{"_id": name, "title": "", "text": text} for name, text in zip(ANIMALS, texts, strict=True)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    queries = [{"_id": f"q-{name}", "text": f"where does the {name} sleep?"} for name in ANIMALS]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    for split in ("train", "test"):
        rows = "".join(f"q-{name}\t{name}\t1\n" for name in ANIMALS)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, collection: Path) -> dict[str, Path]:
    """A tiny model of each kind, trained for a few steps."""
    folder = tmp_path_factory.mktemp("models")
    base = make_model(folder / "base")
    found = {"base": base}
    for task in ("embed", "multi-vector", "sparse", "rerank"):
        found[task] = folder / task
        recipe = folder / f"{task}.toml"
        recipe.write_text(
            f'task = "{task}"\nmodel = "{base}"\noutput = "{found[task]}"\nmax_length = 32\n'
            f'[data]\ncollections = ["{collection}"]\nhard_negatives = 1\nnegatives_from = 1\n'
            '[training]\nepochs = 1\nbatch_examples = 6\n[machine]\ndevice = "cpu"\n'
        )
        run("finetune", recipe)
    return found


def test_all_kinds_are_in_one_table(collection: Path, models: dict[str, Path], tmp_path: Path) -> None:
    kinds = [models[task] for task in ("base", "embed", "multi-vector", "sparse")]
    options = [part for path in kinds for part in ("--model", path)]
    command = ["evaluate", "retrieval", collection, *options, "--rerank", models["rerank"], "--depth", 5]
    found = json.loads(run(*command, "--device", "cpu", "--output", tmp_path / "table.json", "--json"))
    assert found == json.loads((tmp_path / "table.json").read_text())
    names = [one["name"] for one in found["systems"]]
    assert names == [
        "BM25", *map(str, kinds), *(f"BM25 + {path}" for path in kinds), f"{models['rerank']} over 5 of BM25",
    ]  # fmt: skip
    for one in found["systems"]:
        quality = one["quality"]["nDCG@10"]
        assert 0 <= quality["low"] <= quality["value"] <= quality["high"] <= 1
        assert len(one["by_query"]["nDCG@10"]) == len(ANIMALS)
    first = found["systems"][0]
    assert first["quality"]["nDCG@10"]["value"] == 1.0, "BM25 finds a name"
    dense = found["systems"][1]["cost"]
    assert dense["index_bytes"] == len(ANIMALS) * 64 * 4
    assert dense["document_tokens"] > 0
    shown = run("evaluate", "retrieval", collection, "--model", models["embed"], "--device", "cpu")
    assert "12 documents, 12 queries" in shown
    assert "| BM25 " in shown


def test_mined_negatives_are_scored_by_a_teacher_and_learned(collection: Path, models, tmp_path: Path) -> None:
    mined, scored = tmp_path / "mined.jsonl", tmp_path / "scored.jsonl"
    told = json.loads(run("mine", collection, "--output", mined, "--first", 1, "--last", 6, "--negatives", 3, "--json"))
    assert told["with_negatives"] == told["pairs"] == len(ANIMALS)
    lines = [json.loads(line) for line in mined.read_text().splitlines()]
    for line in lines:
        (name,) = (one for one in ANIMALS if one in line["query"])
        assert name in line["positive"]
        assert len(line["negative"]) == 3
        assert not any(name in text for text in line["negative"])
    report = mined.with_suffix(".md").read_text()
    assert "12 of 12 pairs have negatives of BM25" in report
    assert report.count("- negative:") == 15
    dense = tmp_path / "dense.jsonl"
    run("mine", mined, "--model", models["embed"], "--device", "cpu", "--output", dense, "--first", 1)
    checked = [*("--check", models["rerank"]), *("--check-margin", 0), "--device", "cpu"]
    run("mine", collection, *checked, "--output", tmp_path / "checked.jsonl", "--first", 1)
    for teacher in (models["rerank"], models["embed"]):
        told = json.loads(run("score", mined, "--teacher", teacher, "--output", scored, "--device", "cpu", "--json"))
        assert told["pairs"] == 4 * len(ANIMALS)
        assert all(len(json.loads(line)["scores"]) == 4 for line in scored.read_text().splitlines())
    settings = ["task=embed", f"model={models['base']}", f"output={tmp_path / 'student'}", "loss.name=kl"]
    run("finetune", scored, *settings, "training.epochs=1", "machine.device=cpu", "max_length=32")
    assert json.loads((tmp_path / "student" / "report.json").read_text())["loss"] == "kl"


@pytest.mark.parametrize("fusion", ["rrf", "scores"])
def test_the_weight_of_bm25_comes_from_other_queries(fusion, collection: Path, models, tmp_path: Path) -> None:
    """In `validation` the first document of the model is relevant, in `test` the one with the name."""
    other = tmp_path / "other"
    shutil.copytree(collection, other)
    documents = [f"A {name} is an animal. The {name} eats and the {name} sleeps." for name in ANIMALS]
    ranked = MultiVectorEmbedder.from_pretrained(models["multi-vector"])
    queries = [f"where does the {name} sleep?" for name in ANIMALS]
    scores = ranked.similarity(ranked.encode_query(queries), ranked.encode_document(documents))
    first = [ANIMALS[index] for index in scores.argmax(1).tolist()]
    misled = [number for number, name in enumerate(ANIMALS) if first[number] != name]
    assert len(misled) >= 2
    header = "query-id\tcorpus-id\tscore\n"
    rows = "".join(f"q-{ANIMALS[n]}\t{first[n]}\t1\n" for n in misled)
    (other / "qrels" / "validation.tsv").write_text(header + rows)
    rows = "".join(f"q-{name}\t{name}\t1\n" for n, name in enumerate(ANIMALS) if n not in misled)
    (other / "qrels" / "test.tsv").write_text(header + (rows or f"q-{ANIMALS[0]}\t{ANIMALS[0]}\t1\n"))

    def values(*options: object) -> dict[str, float]:
        command = ("evaluate", "retrieval", other, "--model", models["multi-vector"], "--device", "cpu", "--json")
        systems = json.loads(run(*command, "--fusion", fusion, *options))["systems"]
        return {one["name"]: one["quality"]["nDCG@10"]["value"] for one in systems}

    how, pair = {"rrf": "", "scores": ", by scores"}[fusion], f"BM25 + {models['multi-vector']}"
    names = [f"{weight} {pair}{how}" for weight in (0.001, 900)]
    weights = [part for weight in (0.001, 900) for part in ("--bm25-weight", weight)]
    found = values("--weights-from", "validation", *weights, "--rerank", models["rerank"], "--depth", 6)
    assert [name for name in names if name in found] == names[:1]  # what the queries of `validation` want
    assert found[names[0]] == values(*weights)[names[0]]
    both = ("--fusion", {"rrf": "scores", "scores": "rrf"}[fusion])
    assert len(values("--weights-from", "validation", *weights, *both)) == len(found) - 1  # two fusions, no reranker
    assert sum(name.startswith(f"{models['rerank']} over 6 of BM25 + ") for name in found) == 1
    for arguments, said in (
        (("--weights-from", "test"), r"queries of 'test', which are to select weights, are also measured"),
        (("--split", "train", "--weights-from", "test"), r"are also measured; name a split with other queries"),
        (("--no-bm25", "--weights-from", "validation"), "There is no weight to select"),
    ):
        with pytest.raises(ConfigError, match=said):
            values(*arguments)
    with pytest.raises(ConfigError, match="There is no fusion 'sum'"):
        run("evaluate", "retrieval", other, "--fusion", "sum")


def test_invalid_arguments_are_an_error(collection: Path, models: dict[str, Path], tmp_path: Path) -> None:
    def fails(error: type[Exception], said: str, *arguments: object) -> None:
        with pytest.raises(error, match=said):
            run(*arguments)

    rerank, embed = models["rerank"], models["embed"]
    evaluate = ["evaluate", "retrieval", collection]
    fails(ConfigError, "is a reranker; give it as --rerank", *evaluate, "--model", rerank)
    fails(ConfigError, "is not a reranker; give it as a model", *evaluate, "--rerank", embed)
    fails(ConfigError, "There is nothing to evaluate", *evaluate, "--no-bm25")
    fails(DataError, r"has no qrels/dev.tsv", *evaluate, "--split", "dev")
    fails(ConfigError, "--choose is 'best'", "mine", collection, "--choose", "best", "--output", tmp_path / "x.jsonl")
    fails(ConfigError, "A teacher is a reranker", "score", tmp_path / "a.jsonl", *_teacher(models, tmp_path))


def _teacher(models: dict[str, Path], folder: Path) -> list[object]:
    (folder / "a.jsonl").write_text('{"query": "q", "positive": "p", "negative": "n"}\n')
    return ["--teacher", models["sparse"], "--output", folder / "y.jsonl", "--device", "cpu"]
