"""Rankers of all four kinds learn, do not depend on mini-batches, resume, and can be loaded."""

import json
import shutil
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpora import make_model
from modernbert import Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder, finetune
from modernbert.cli.train import app
from modernbert.config import parse
from modernbert.errors import ConfigError
from modernbert.evaluate.retrieval import evaluate_retrieval
from modernbert.model.retrieval import DenseEncoder, SparseEncoder
from modernbert.model.sparse_pooling import highest_logits
from modernbert.packed import Sequences
from modernbert.plots import finetuning, style
from modernbert.tasks.ranking.objective import MiniBatch
from modernbert.tasks.ranking.sparsity import initialize_sparse
from modernbert.tasks.ranking.whitening import whitening
from modernbert.train.distributed import Processes
from modernbert.train.rank import RankerTraining, load_ranker, train_ranker
from modernbert.train.ranking_data import read_examples, read_validation
from modernbert.train.ranking_recipe import RankingRecipe, is_ranking, read_ranking_recipe
from modernbert.train.stopping import StopRequest

pytest.importorskip("bm25s")
pytest.importorskip("ir_measures")

pytestmark = pytest.mark.usefixtures("no_pictures")
TASKS = ("embed", "multi-vector", "sparse", "rerank")
PREDICTORS = {"embed": Embedder, "multi-vector": MultiVectorEmbedder, "sparse": SparseEmbedder, "rerank": Reranker}
ALONE = Processes(0, 1, torch.device("cpu"))
WORDS = ["argument", "calendar", "string", "module", "parser", "option", "week", "month", "default", "value"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), embedding_dropout=0.1)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of two words each; a query has the words of one document in the other order."""
    folder = tmp_path_factory.mktemp("collection")
    (folder / "qrels").mkdir()
    pairs = [(one, other) for one in WORDS for other in WORDS if one < other]
    documents = [
        {"_id": f"d{n}", "title": "", "text": f"the {one} of every {other} is a {one}. No {other} has one."}
        for n, (one, other) in enumerate(pairs)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    queries = [{"_id": f"q{n}", "text": f"{other} and {one}"} for n, (one, other) in enumerate(pairs)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    for split, numbers in (("train", range(0, 45, 2)), ("validation", range(1, 45, 2))):
        rows = "".join(f"q{n}\td{n}\t1\n" for n in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def recipe(model: Path, collection: Path, output: Path, task: str, **changes: Any) -> RankingRecipe:
    values: dict[str, Any] = {
        "task": task,
        "model": str(model),
        "output": str(output),
        "max_length": 48,
        "data": {"collections": [str(collection)], "hard_negatives": 2, "negatives_from": 1},
        "settings": {"query_prompt": "search_query: ", "document_prompt": "search_document: "},
        "loss": {"query_flops": 1e-4, "document_flops": 1e-4},
        "training": {"epochs": 2, "batch_examples": 6, "learning_rate": 1e-3},
        "machine": {"device": "cpu", "precision": "fp32"},
    }
    for name, change in changes.items():
        values[name] = values[name] | change if isinstance(change, dict) and name in values else change
    return parse(RankingRecipe, values, "test")


@pytest.mark.parametrize("task", TASKS)
def test_gradients_in_bf16_are_close_to_those_in_fp32(task: str, model, collection, tmp_path) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        machine = {"precision": precision}
        chosen = recipe(model, collection, tmp_path / precision, task, machine=machine, training={"dropout": 0.0})
        run = RankerTraining(chosen, read_examples(chosen), None, 0, ALONE)
        run.ranker.eval()  # no dropout
        run.objective.backward([run.items[index] for index in run.batches(0)[0]], seed=1, progress=1.0)
        found[precision] = torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])
    error = (found["bf16"] - found["fp32"]).norm() / found["fp32"].norm()
    assert 0 < error < (0.3 if task == "sparse" else 0.1)  # another token of a text may have the largest logit


@pytest.mark.parametrize("task", TASKS)
def test_a_ranker_learns_and_its_folder_can_be_loaded(task: str, model, collection, tmp_path) -> None:
    changes = {"data": {"validation": str(collection)}, "training": {"epochs": 3}}
    chosen = recipe(model, collection, tmp_path / "out", task, **changes)
    assert train_ranker(chosen) == tmp_path / "out"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (seed,) = report["seeds"]
    losses = [line["loss"] for line in seed["curve"] if "loss" in line]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert seed["validation_ndcg_at_10"] is not None
    predictor = PREDICTORS[task].from_pretrained(tmp_path / "out")
    assert predictor.max_length == 48
    if task != "rerank":
        assert predictor.prompts == {"query": "search_query: ", "document": "search_document: "}
        queries = predictor.encode_query(["month and week", "value and string"])
        documents = predictor.encode_document(["the month of every week", "the string of every value"])
        assert predictor.similarity(queries, documents).shape == (2, 2)
    assert train_ranker(chosen) == tmp_path / "out", "a complete run is not trained again"
    with pytest.raises(ConfigError, match="holds a run whose loss differs"):
        train_ranker(recipe(model, collection, tmp_path / "out", task, loss={"margin": 0.1}, **changes))


@pytest.mark.parametrize("task", TASKS)
def test_gradients_do_not_depend_on_the_mini_batches(task: str, model, collection, tmp_path) -> None:
    torch.set_num_threads(1)
    found = []
    for tokens in (10_000, 300, 60):
        chosen = recipe(model, collection, tmp_path / str(tokens), task, machine={"microbatch_tokens": tokens})
        run = RankerTraining(chosen, read_examples(chosen), None, 0, ALONE)
        for module in run.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # dropout depends on the mini-batches
        batch = run.batches(0)[0]
        loss = run.objective.backward([run.items[index] for index in batch], seed=1, progress=1.0)
        found.append((loss, [p.grad for p in run.model.parameters() if p.grad is not None]))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        for ours, theirs in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_dense_ranker_can_begin_with_whitened_vectors(model, collection, tmp_path) -> None:
    few = recipe(model, collection, tmp_path / "few", "embed", settings={"whitening": 0.5})
    examples = read_examples(few)
    with pytest.raises(ConfigError, match=r"at least 128 different training documents .* but there are 30; leave it"):
        RankerTraining(few, examples, None, 0, ALONE)
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": " and ".join(words), "positive": "the {} of a {} has a {} and a {}".format(*words)}
        for words in combinations(WORDS, 4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "collections": [], "hard_negatives": 0}
    changes = {"settings": {"whitening": 0.5}, "data": data}
    begin = recipe(model, collection, tmp_path / "begin", "embed", **changes)
    run = RankerTraining(begin, read_examples(begin), None, 0, ALONE)
    texts = list({text: None for item in run.items for text in item.document_texts})
    settings = run.ranker.settings.model_copy(update={"projections": (), "normalize": False})
    pooled = Embedder(DenseEncoder.from_pretrained(model, settings=settings), run.tokenizer, 48).encode_document(texts)
    begun = run.ranker.settings.model_copy(update={"normalize": False})
    unnormalized = DenseEncoder(run.ranker.config, begun)
    unnormalized.load_state_dict(run.ranker.state_dict())
    found = torch.from_numpy(Embedder(unnormalized.eval(), run.tokenizer, 48).encode_document(texts))
    variances = torch.from_numpy(pooled).double().T.cov(correction=0)
    expected = torch.linalg.eigvalsh(variances).flip(0).sqrt()
    covariance = found.double().T.cov(correction=0)
    torch.testing.assert_close(covariance.diagonal()[:8], expected[:8], rtol=0.02, atol=0)
    assert found.mean(0).abs().max() < 1e-3 * found.abs().max()
    train_ranker(recipe(model, collection, tmp_path / "out", "embed", **changes))
    trained = Embedder.from_pretrained(tmp_path / "out")
    layer = trained.model.projections[0].linear
    assert not torch.equal(layer.weight, run.ranker.projections[0].linear.weight)  # it has learned
    further = recipe(tmp_path / "out", collection, tmp_path / "further", "embed", **changes)
    kept = RankerTraining(further, read_examples(further), None, 0, ALONE).ranker.projections[0].linear
    assert torch.equal(kept.weight, layer.weight)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_gives_variances_a_power(power: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    weight, bias = whitening(rows, power)
    found = (rows @ weight.T + bias).double()
    expected = torch.linalg.eigvalsh(rows.double().T.cov(correction=0)).flip(0) ** (1 - power)
    torch.testing.assert_close(found.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.T.cov(correction=0), expected.diag(), rtol=1e-3, atol=1e-3)
    flat = torch.cat([rows, torch.zeros(500, 2)], 1)  # two dimensions do not vary at all
    weight, bias = whitening(flat, power)
    torch.testing.assert_close((flat @ weight.T + bias)[:, :6].abs(), found.abs().float(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="at least 12 different training documents"):
        whitening(rows[:11], power)


def test_pairs_of_a_file_get_negatives_of_the_file(model, collection, tmp_path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": f"the week with {word}", "positive": f"the {word} of the week"} for word in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "collections": [], "hard_negatives": 2, "random_negatives": 3}
    examples = read_examples(recipe(model, collection, tmp_path / "out", "rerank", data=data))
    positives = {row["positive"] for row in rows}
    for row, example in zip(rows, examples, strict=True):
        assert (example.query, example.documents[0]) == (row["query"], row["positive"])
        assert len(set(example.documents)) == len(example.documents) == 6
        assert set(example.documents) <= positives
    further = {"query": rows[0]["query"], "positive": rows[1]["positive"], "negative": "no week"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:4], further]))
    examples = read_examples(recipe(model, collection, tmp_path / "out", "rerank", data=data))
    assert examples[-1].documents == (rows[1]["positive"], "no week")
    assert set(examples[0].documents) == {rows[0]["positive"], rows[2]["positive"], rows[3]["positive"], "no week"}
    path.write_text("".join(json.dumps(row | {"negative": "no week"}) + "\n" for row in rows))
    examples = read_examples(recipe(model, collection, tmp_path / "out", "rerank", data=data))
    assert {example.documents[1:] for example in examples} == {("no week",)}


@pytest.mark.parametrize("table", ["idf", "learned"])
def test_a_sparse_ranker_can_use_a_query_table(table: str, model, collection, tmp_path) -> None:
    torch.set_num_threads(1)
    changes = {"settings": {"query_table": table, "query_prompt": ""}}
    begin = recipe(model, collection, tmp_path / "begin", "sparse", **changes)
    examples = read_examples(begin)
    run = RankerTraining(begin, examples, None, 0, ALONE)
    idf = run.ranker.query_table.detach().clone()
    documents = {text for example in examples for text in example.documents}
    [common], [rare] = (run.tokenizer.encode(word, add_special_tokens=False).ids[:1] for word in (" the", " month"))
    assert idf[common] == pytest.approx(np.log1p(0.5 / (len(documents) + 0.5)))
    assert 0 < idf[common] < idf[rare] < idf.max() == pytest.approx(np.log1p((len(documents) + 0.5) / 0.5))
    train_ranker(recipe(model, collection, tmp_path / "out", "sparse", **changes))
    predictor = SparseEmbedder.from_pretrained(tmp_path / "out")
    found = predictor.model.query_table.detach()
    assert torch.equal(found, idf) == (table == "idf")
    with torch.no_grad():
        expected = (
            run.objective._embed(MiniBatch("query", tuple(item.query for item in run.items[:5]), (0,) * 5))
            * found
            / idf
        )
    names = [item.query_text for item in run.items[:5]]
    torch.testing.assert_close(predictor.encode_query(names).to_dense(), expected, rtol=1e-5, atol=1e-6)
    further = recipe(tmp_path / "out", collection, tmp_path / "further", "sparse", **changes)
    assert torch.equal(RankerTraining(further, examples, None, 0, ALONE).ranker.query_table.detach(), found)
    again = recipe(tmp_path / "out", collection, tmp_path / "again", "sparse", random_weights=True, **changes)
    assert torch.equal(RankerTraining(again, examples, None, 0, ALONE).ranker.query_table.detach(), idf)


def test_no_entry_of_the_vocabulary_outweighs_the_others_when_a_sparse_ranker_begins(model) -> None:
    ranker = SparseEncoder.from_pretrained(model, dtype=torch.float32)
    ranker.decoder.bias.data[7] = 100.0  # in every document
    documents = [np.arange(n, n + 9, dtype=np.int32) for n in range(20, 60)]
    initialize_sparse(ranker, documents, 12)
    tokens, sequences = torch.from_numpy(np.concatenate(documents)), Sequences.from_lengths([9] * len(documents))
    with torch.no_grad():
        hidden = ranker.head(ranker.model(tokens, sequences))
        logits = highest_logits(hidden, ranker.decoder.weight, ranker.decoder.bias, sequences)
    assert float((logits > 0).sum(1).float().median()) == 12
    torch.testing.assert_close(logits.mean(0), logits.mean().expand(logits.shape[1]), rtol=1e-4, atol=1e-4)


def test_a_sparse_ranker_begins_with_sparse_vectors(model, collection, tmp_path) -> None:
    def active(task_model: Path, **changes: Any) -> torch.Tensor:
        one = recipe(task_model, collection, tmp_path / "begin", "sparse", **changes)
        run = RankerTraining(one, read_examples(one), None, 0, ALONE)
        run.ranker.eval()
        documents = tuple({item.document_texts[0]: item.documents[0] for item in run.items}.values())
        with torch.no_grad():
            vectors = run.objective._embed(MiniBatch("document", documents, (0,) * len(documents)))
        return (vectors > 0).sum(1)

    assert active(model, settings={"active_entries": None}).float().mean() > 40
    assert 5 <= active(model, settings={"active_entries": 10}).float().median() <= 15
    train_ranker(recipe(model, collection, tmp_path / "out", "sparse", settings={"active_entries": 30}))
    trained = active(tmp_path / "out", settings={"active_entries": None})
    assert torch.equal(active(tmp_path / "out", settings={"active_entries": 2}), trained)  # a retriever stays as it is


@pytest.mark.parametrize("table", ["idf", "learned"])
def test_gradients_of_a_query_table_do_not_depend_on_the_mini_batches(table: str, model, collection, tmp_path) -> None:
    torch.set_num_threads(1)
    found = []
    for tokens in (10_000, 300, 60):
        changes = {"machine": {"microbatch_tokens": tokens}, "settings": {"query_table": table}}
        chosen = recipe(model, collection, tmp_path / str(tokens), "sparse", **changes)
        run = RankerTraining(chosen, read_examples(chosen), None, 0, ALONE)
        for module in run.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batch = run.batches(0)[0]
        run.objective.backward([run.items[index] for index in batch], seed=1, progress=1.0)
        found.append({name: p.grad for name, p in run.ranker.named_parameters() if p.grad is not None})
    assert ("query_table" in found[0]) == (table == "learned")
    for gradients in found[1:]:
        assert gradients.keys() == found[0].keys()
        for name, ours in gradients.items():
            torch.testing.assert_close(ours, found[0][name], rtol=1e-4, atol=1e-5)


class _After:
    """Requests a stop after a number of checks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_a_stopped_run_resumes_to_the_same_weights(model, collection, tmp_path) -> None:
    torch.set_num_threads(1)
    whole = recipe(model, collection, tmp_path / "whole", "embed")
    examples = read_examples(whole)
    one = RankerTraining(whole, examples, None, 3, ALONE)
    assert one.train(StopRequest())
    cut = recipe(model, collection, tmp_path / "cut", "embed")
    assert not RankerTraining(cut, examples, None, 3, ALONE).train(_After(4))  # type: ignore[arg-type]
    other = RankerTraining(cut, examples, None, 3, ALONE)
    assert 0 < other.progress.step < one.progress.step
    assert other.train(StopRequest())
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [line["step"] for line in one.metrics.read()][-1] == one.progress.step


@pytest.mark.slow
def test_scored_examples_are_learned_with_kl_and_other_losses(model, collection, tmp_path) -> None:
    lines = [
        {"query": f"{one} {other}", "documents": [f"{one} is {other}", f"no {other}", "nothing"][: 2 + n % 2],
         "scores": [2.0, 1.0, -1.0][: 2 + n % 2]}
        for n, (one, other) in enumerate(pairwise(WORDS))
    ]  # fmt: skip
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    losses = {
        "embed": ("kl", "margin-mse", "cosent", "angle", "mse"),
        "multi-vector": ("kl", "margin-mse"),
        "sparse": ("kl", "margin-mse"),
        "rerank": ("mse", "margin-mse", "kl", "lambda"),
    }
    for task, names in losses.items():
        for name in names:
            changes = {
                "data": {"train": str(path), "collections": [], "hard_negatives": 0},
                "loss": {"name": name},
                "training": {"learning_rate": 2e-4, "batch_examples": 9, "epochs": 4},
            }
            chosen = recipe(model, collection, tmp_path / f"{task}-{name}", task, **changes)
            run = RankerTraining(chosen, read_examples(chosen), None, 0, ALONE)
            before = run.objective.backward(run.items, seed=1, progress=0.0)
            assert run.train(StopRequest())
            after = run.objective.backward(run.items, seed=1, progress=0.0)
            assert after < before, (task, name)


def test_only_the_encoder_of_another_kind_of_ranker_is_used(model, collection, tmp_path) -> None:
    dense = train_ranker(recipe(model, collection, tmp_path / "embed", "embed", training={"epochs": 1}))
    for task in ("multi-vector", "rerank"):
        chosen = recipe(dense, collection, tmp_path / task, task, max_length=40)
        ranker, _, length = load_ranker(chosen)
        assert length == 40
        assert ranker.settings.prompts == {"query": "search_query: ", "document": "search_document: "}
        own = load_ranker(recipe(dense, collection, tmp_path / "again", "embed"))[0].model.state_dict()
        for name, value in ranker.model.state_dict().items():
            torch.testing.assert_close(value, own[name], rtol=0, atol=0)


def test_a_batch_has_one_source_if_the_recipe_requires_it(model, collection, tmp_path) -> None:
    data = {"documents": [str(collection)], "unlabelled": {"kinds": ["sentence"], "per_document": 1}}
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": f"q {n}", "positive": f"p {n}"}) + "\n" for n in range(20)))

    def mixtures(apart: bool) -> list[int]:
        more = {"train": str(pairs), "one_source_per_batch": apart}
        run = recipe(model, collection, tmp_path / "run", "embed", data=data | more)
        examples = read_examples(run)
        training = RankerTraining(run, examples, None, 0, ALONE)
        batches = training.batches(0)
        assert batches == training.batches(0)
        assert batches != training.batches(1)
        chosen = [index for batch in batches for index in batch]
        assert len(chosen) == len(set(chosen)) > 40
        return [len({examples[index].source for index in batch}) for batch in batches]

    assert max(mixtures(False)) == 2
    assert set(mixtures(True)) == {1}


def test_a_guide_and_matryoshka_are_part_of_the_loss(model, collection, tmp_path) -> None:
    plain = recipe(model, collection, tmp_path / "plain", "embed")
    changes = {"loss": {"margin": 0.0, "guide": str(model), "matryoshka": (32, 16)}}
    guided = recipe(model, collection, tmp_path / "guided", "embed", **changes)
    values = []
    for chosen in (plain, guided):
        run = RankerTraining(chosen, read_examples(chosen), None, 0, ALONE)
        values.append(run.objective.backward(run.items[:6], seed=1, progress=0.0))
    assert values[0] != values[1]
    run.guide = None
    assert run.objective.guide is not None
    assert run.objective.guide(run.items[:2]).shape == (2, sum(len(one.documents) for one in run.items[:2]))


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("embed", {"loss": {"name": "kl"}}, "loss.name is 'kl', which needs a column of scores"),
        ("embed", {"loss": {"name": "lambda"}}, "'lambda', which 'embed' does not have"),
        ("sparse", {"loss": {"matryoshka": (16,)}}, "loss.matryoshka is for the task 'embed'"),
        (
            "rerank",
            {"data": {"hard_negatives": 0}, "loss": {"name": "lambda"}},
            "has one document, but the loss 'lambda'",
        ),
        ("embed", {"max_length": 4096}, "max_length is 4096, but .* reads 128 tokens"),
    ],
)
def test_invalid_recipes_are_an_error(task: str, changes, message: str, model, collection, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        train_ranker(recipe(model, collection, tmp_path / "out", task, **changes))


def test_one_command_trains_an_embedder_from_a_csv_of_pairs(model, tmp_path, monkeypatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    rows = "".join(f"what is a {word}?,a {word} is a thing\n" for word in WORDS)
    Path("pairs.csv").write_text(f"question,passage\n{rows}")
    assert is_ranking(Path("pairs.csv"), ["task=embed"])
    assert not is_ranking(Path("pairs.csv"), ["model=x"])
    assert read_ranking_recipe(Path("pairs.csv"), ["task=sparse"]).task == "sparse"
    command = [
        "finetune",
        "pairs.csv",
        "task=embed",
        f"model={model}",
        "training.batch_examples=5",
        "machine.device=cpu",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout.split()[-1] == "output/pairs"
    assert Embedder.from_pretrained("output/pairs").encode_query(["what is a week?"]).shape == (1, 64)


def test_the_reranker_is_validated_on_the_results_of_bm25(model, collection, tmp_path) -> None:
    chosen = recipe(model, collection, tmp_path / "out", "rerank", data={"validation": str(collection)})
    found = read_validation(chosen)
    assert found is not None
    _, first = found
    assert first is not None
    assert all(len(ranked) > 0 for ranked in first)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_report_compares_the_model_with_bm25_and_the_start(model, collection, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(finetuning, "save", style.save)  # with its figure
    data = {"validation": str(collection)}
    chosen = recipe(model, collection, tmp_path / "run", "embed", data=data, seeds=[0, 1])
    train_ranker(chosen)
    assert not (tmp_path / "run" / "training").exists()
    assert (tmp_path / "run" / "learning-curve.png").stat().st_size > 5000
    page = (tmp_path / "run" / "report.md").read_text()
    values = json.loads((tmp_path / "run" / "report.json").read_text())
    kept = next(one for one in values["seeds"] if one["seed"] == values["best_seed"])
    reached = values["validation"]["trained"]["nDCG@10"]["value"]
    assert reached == pytest.approx(kept["validation_ndcg_at_10"])
    for name in ("BM25", "before training", "trained"):
        found = values["validation"][name]["nDCG@10"]
        assert 0 < found["low"] <= found["value"] <= found["high"] <= 1
        assert f"| {name} | {100 * found['value']:.1f} (" in page
    assert "nDCG@10 of 2 seeds" in page
    assert "## Queries with the lowest scores" in page
    [result] = evaluate_retrieval(str(collection), [tmp_path / "run"], split="validation", device="cpu").systems[1:2]
    assert result.quality["nDCG@10"].value == pytest.approx(reached, abs=1e-6)
    assert sum(values["sources"].values()) == values["examples"]


def test_a_run_with_a_changed_collection_is_refused(model, collection, tmp_path) -> None:
    own = tmp_path / "collection"
    shutil.copytree(collection, own)
    chosen = recipe(model, own, tmp_path / "run", "embed")
    assert train_ranker(chosen) == train_ranker(chosen)
    with (own / "qrels" / "train.tsv").open("a") as file:
        file.write("q1\td2\t1\n")
    with pytest.raises(ConfigError, match=f"a run whose {own} changed since; choose another output"):
        train_ranker(chosen)
    train_ranker(chosen, overwrite=True)


def test_an_embedder_is_trained_from_rows_in_python(model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"query": f"what is a {word}?", "positive": f"a {word} is a thing"} for word in WORDS]
    chosen = {"batch_examples": 5, "device": "cpu", "epochs": 1, "loss": {"temperature": 0.1}}
    embedder = finetune(model=model, task="embed", train=rows, **chosen)
    assert isinstance(embedder, Embedder)
    assert embedder.encode_query("what is a week?").shape == (64,)
    with pytest.raises(ConfigError, match="needs a collection for validation"):
        finetune(model=model, task="embed", train=rows, validation=rows, output="other")


def test_training_improves_ndcg_on_other_queries(model, collection, tmp_path) -> None:
    """End to end: pairs, loss, folder, predictor, measure. Documents differ in two words, in any order."""

    def ndcg(folder: Path) -> float:
        table = evaluate_retrieval(
            str(collection), [str(folder)], split="validation", bm25=False, device="cpu", max_length=48
        )
        return table.systems[0].quality["nDCG@10"].value

    changes = {
        "data": {"hard_negatives": 0},
        "settings": {"query_prompt": "", "document_prompt": ""},
        "training": {"epochs": 25, "batch_examples": 11, "learning_rate": 1e-3},
    }
    train_ranker(recipe(model, collection, tmp_path / "out", "embed", **changes))
    before, after = ndcg(model), ndcg(tmp_path / "out")
    print(before, after)
    assert after > before + 0.2
