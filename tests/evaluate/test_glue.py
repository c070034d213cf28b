"""Specifications of GLUE and other tasks: files, settings, initial models, scores. The trained model is tiny."""

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from corpora import make_model
from modernbert.cli import app
from modernbert.errors import ConfigError, DataError
from modernbert.evaluate import task_specs
from modernbert.evaluate import tasks as others
from modernbert.evaluate.glue import PUBLISHED, PUBLISHED_SCORES, TASKS, GlueReport, evaluate_glue
from modernbert.evaluate.task_specs import Score, missing_files, recipe_for
from modernbert.evaluate.tasks import evaluate_tasks, split_entities
from modernbert.tasks.answer.reading import read_questions
from modernbert.tasks.choose import read_choices
from modernbert.tasks.metrics import binary_f1
from modernbert.tasks.texts import read_texts_with_labels
from modernbert.tasks.tokens.reading import read_spans

pytestmark = pytest.mark.usefixtures("no_pictures")
FAST = ("training.epochs=1", "training.learning_rate=1e-3", "max_length=32")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("glue"), num_hidden_layers=1, max_position_embeddings=64))


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """MNLI, CoLA and MRPC with a few lines each and the columns of the original files."""
    base = tmp_path_factory.mktemp("data") / "glue"
    header = "index\tpromptID\tsentence1\tsentence2\tgold_label\n"
    labels = ("entailment", "neutral", "contradiction")
    for name in ("train", "dev_matched", "dev_mismatched"):
        lines = [f'{i}\t{i}\tthe "cat {i}\ta dog\t{labels[i % 3]}\n' for i in range(12)]
        write(base / "MNLI" / f"{name}.tsv", header + "".join(lines))
    for name in ("train", "dev"):
        lines = [f"gj04\t{i % 2}\t*\t{'the cat sat' if i % 2 else 'cat the'} {i}\n" for i in range(12)]
        write(base / "CoLA" / f"{name}.tsv", "".join(lines))
        lines = [f'{int(i % 3 > 0)}\t{i}\t{i}\tthe cat {i}\ta "dog\n' for i in range(12)]
        write(base / "MRPC" / f"{name}.tsv", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "".join(lines))
    write(base / "QNLI" / "dev.tsv", "index\tquestion\tsentence\tlabel\n")
    return base


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def report(model, glue, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    found = evaluate_glue(model, str(glue), output, seeds=(0, 1), overrides=FAST)
    assert found is not None
    return found, output


@pytest.mark.slow
def test_every_task_with_data_is_scored_and_the_others_are_named(report):
    found, _ = report
    assert [score.task for score in found.scores] == ["MNLI", "CoLA", "MRPC"]
    assert list(found.missing) == ["SST-2", "STS-B", "QQP", "QNLI", "RTE", "WNLI"]
    assert found.missing["QNLI"] == ["QNLI/train.tsv"]
    assert found.average is None
    assert all(len(score.values) == 2 for score in found.scores)
    assert found.mean_of_measured == pytest.approx(100 * sum(score.value for score in found.scores) / 3)


def test_tasks_that_gain_by_it_start_from_the_mnli_model_of_their_seed(report):
    _, output = report
    starts = {}
    for name in ("mnli", "cola", "mrpc"):
        for seed in (0, 1):
            text = (output / name / f"seed-{seed}" / "report.json").read_text(encoding="utf-8")
            starts[name, seed] = json.loads(text)["model"]
    assert starts["mrpc", 0] == str(output / "mnli" / "seed-0")
    assert starts["mrpc", 1] == str(output / "mnli" / "seed-1")
    assert starts["cola", 0] == starts["mnli", 1]


def test_scores_are_those_of_the_predictions(report):
    found, output = report
    [mrpc] = [score for score in found.scores if score.task == "MRPC"]
    for seed in (0, 1):
        lines = (output / "mrpc" / f"seed-{seed}" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        expected, predicted = [one["expected"] for one in records], [one["predicted"] for one in records]
        assert mrpc.metrics["positive_f1"][seed] == binary_f1(predicted, expected, positive="1")
        right = sum(one == other for one, other in zip(predicted, expected, strict=True)) / len(records)
        assert mrpc.metrics["accuracy"][seed] == pytest.approx(right)
    assert mrpc.baseline == pytest.approx((2 / 3 + 0.8) / 2)  # always "1": accuracy, and F1 with precision 2/3
    [mnli] = [score for score in found.scores if score.task == "MNLI"]
    assert set(mnli.metrics) == {"validation/accuracy", "test/accuracy"}


def test_what_is_complete_is_not_run_again(report, model, glue, monkeypatch):
    found, output = report

    def forbidden(*_):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("modernbert.train.finetune.prepare", forbidden)
    again = evaluate_glue(model, str(glue), output, seeds=(0, 1), overrides=FAST)
    assert again == found


def test_predictions_are_read_by_the_line_whatever_their_texts_hold(tmp_path):
    records = [{"text": "a\u2028b\x0c\x85c", "predicted": "1"}, {"text": "d", "predicted": "0"}]
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    (tmp_path / "predictions.jsonl").write_text(lines, encoding="utf-8")
    assert task_specs._CompletedRun(None, None, tmp_path, {})._predictions() == records


def test_a_given_mnli_model_is_the_start(model, glue, tmp_path, monkeypatch):
    seen = []

    def finetune(recipe):
        seen.append(recipe.model)

    monkeypatch.setattr(task_specs, "finetune", finetune)
    assert evaluate_glue(model, str(glue), tmp_path, tasks=("mrpc",), mnli="elsewhere") is None
    assert seen == ["elsewhere"]


@pytest.mark.slow
def test_tasks_also_run_from_random_weights(model, glue, tmp_path):
    arguments = ["evaluate", "glue", model, "--data", str(glue), "--output", str(tmp_path), "--task", "CoLA", *FAST]
    result = CliRunner().invoke(app, [*arguments, "--seed", "0", "--seed", "1", "--random"])
    assert result.exit_code == 0, result.exception
    assert "random weights" in result.stdout
    found = evaluate_glue(model, str(glue), tmp_path, tasks=("cola",), seeds=(0, 1), overrides=FAST, beside_random=True)
    [score] = found.scores
    for seed in (0, 1):
        report = json.loads((tmp_path / "cola" / "random" / f"seed-{seed}" / "report.json").read_text(encoding="utf-8"))
        assert report["metrics"]["validation"]["matthews"]["value"] == score.random[seed]
    starts = {
        place: (tmp_path / "cola" / place / "seed-0" / "recipe.toml").read_text(encoding="utf-8")
        for place in ("", "random")
    }
    assert "random_weights = false" in starts[""]
    assert "random_weights = true" in starts["random"]


def test_the_published_settings_are_those_of_the_recipes(glue, tmp_path):
    by_name = {task.name: task for task in TASKS}
    for size, rate, epochs in (("base", 5e-5, 10), ("large", 8e-5, 2)):
        spec = by_name["MRPC"].spec(size, hub=False)
        training = recipe_for(spec, "model", glue, tmp_path, 0).training
        assert (training.learning_rate, training.epochs, training.batch_examples) == (rate, epochs, 64)
    changed = recipe_for(by_name["CoLA"].spec("base", hub=False), "model", glue, tmp_path, 0, ("skip_bad=true",))
    assert changed.skip_bad
    assert changed.training.metric == "matthews"
    with pytest.raises(ConfigError, match="not a known key"):
        recipe_for(by_name["CoLA"].spec("base", hub=False), "model", glue, tmp_path, 0, ("trainin.epochs=1",))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_has_columns_for_the_hub_too(task, tmp_path):
    data = recipe_for(task.spec("base", hub=True), "model", Path("hub"), tmp_path, 0).data
    assert (data.train.format, data.train.subset, data.train.split) == ("hub", task.subset, "train")
    assert data.label == "label"
    assert missing_files(task.spec("base", hub=True), Path("nowhere")) == []


def test_the_average_is_over_eight_tasks_in_percent():
    scores = tuple(Score(task.name, "validation", 1, {"x": (0.5, 0.7)}, None, None, "m", {}, "") for task in TASKS)
    whole = GlueReport("m", "base", scores, {})
    assert whole.average == pytest.approx(60)
    assert whole.as_record()["published_averages"] == PUBLISHED
    assert whole.as_record()["published_scores"] == PUBLISHED_SCORES
    assert scores[0].deviation == pytest.approx(0.1414, abs=1e-4)
    assert GlueReport("m", "base", scores[:-1], {}).average == pytest.approx(60)  # WNLI is not in it
    assert GlueReport("m", "base", scores[1:], {}).average is None


def test_the_published_scores_have_the_published_averages():
    assert PUBLISHED_SCORES.keys() == PUBLISHED.keys()
    for model, scores in PUBLISHED_SCORES.items():
        assert scores.keys() == {task.name for task in TASKS if task.counted}
        off = 0.2 if model == "DeBERTaV3 base" else 0.1  # a difference between two tables of the paper
        assert fmean(scores.values()) == pytest.approx(PUBLISHED[model], abs=off)


def test_mistakes_are_reported(model, glue, tmp_path):
    with pytest.raises(ConfigError, match="GLUE has no task 'SST'; it has MNLI, CoLA"):
        evaluate_glue(model, str(glue), tmp_path, tasks=("SST",))
    with pytest.raises(DataError, match="holds none of these tasks"):
        evaluate_glue(model, str(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="There is no task 'x'"):
        evaluate_tasks(model, tmp_path, tmp_path, tasks=("x",))
    with pytest.raises(DataError, match="holds none of these tasks"):
        evaluate_tasks(model, tmp_path, tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """CoNLL-2003, Japanese entities and multiple choice with a few lines each."""
    base = tmp_path_factory.mktemp("tasks")
    for name in ("train", "valid", "test"):
        write(base / "conll2003" / f"{name}.txt", "John\tB-PER\nsleeps\tO\n\nin\tO\nNew\tB-LOC\nYork\tI-LOC\n\n" * 4)
        lines = [
            json.dumps({"question": "q", **{f"choice{n}": f"c{n}" for n in range(5)}, "label": i % 5})
            for i in range(10)
        ]
        write(base / "jglue" / "jcommonsenseqa-v1.3" / f"{name}-v1.3.json", "\n".join(lines))
    records = [
        {"curid": str(i // 2), "text": f"東京{i}", "entities": [{"name": "東京", "span": [0, 2], "type": "地名"}]}
        for i in range(80)
    ]
    write(base / "ja_ner_wikipedia" / "ner.json", json.dumps(records, ensure_ascii=False))
    return base


def test_other_tasks_are_scored_on_their_test_sets(model, data, tmp_path):
    arguments = [
        "evaluate", "tasks", model, "--data", str(data), "--output", str(tmp_path), *FAST, "--json",
        "--task", "CoNLL-2003", "--task", "japanese ner", "--task", "JCommonsenseQA", "--task", "JNLI",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert [(one["task"], one["set"]) for one in found["tasks"]] == [
        ("CoNLL-2003", "test"), ("Japanese NER", "test"), ("JCommonsenseQA", "test"),
    ]  # fmt: skip
    assert list(found["missing"]) == ["JNLI"]
    table = CliRunner().invoke(app, [argument for argument in arguments if argument != "--json"]).stdout
    assert "| JCommonsenseQA |" in table
    assert "Not measured, as files are missing: JNLI (jglue/jnli-v1.3/train-v1.3.json" in table


def test_no_article_is_on_two_sides_of_the_cut(data, tmp_path):
    folder = split_entities(data, tmp_path / "work")
    articles = {
        name: {
            json.loads(line)["curid"] for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        }
        for name in ("train", "validation", "test")
    }
    assert not articles["train"] & articles["test"]
    assert not articles["train"] & articles["validation"]
    assert not articles["validation"] & articles["test"]
    assert sum(map(len, articles.values())) == 40
    assert split_entities(Path("nowhere"), tmp_path / "work") == folder  # it is split once


def test_glue_prints_a_table_and_the_missing_tasks(report, model, glue):
    _, output = report
    arguments = ["evaluate", "glue", model, "--data", str(glue), "--output", str(output), "--seed", "0", "--seed", "1"]
    table = CliRunner().invoke(app, [*arguments, *FAST]).stdout
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line[:1] == "|"]
    [cola] = [dict(zip(header, row, strict=True)) for row in rows if row[1] == "CoLA"]
    assert (cola["BERT base"], cola["ModernBERT base"]) == ("59.0", "65.1")
    assert "ModernBERT large" not in header
    assert "QNLI (QNLI/train.tsv)" in table
    assert "cannot be compared with the published averages" in table
    assert "| ModernBERT base, published " in table


@pytest.mark.slow
def test_the_task_files_are_those_that_are_declared(shared, tmp_path):
    """Every existing file of a task is read with the columns of its specification, without a bad line."""
    tasks = shared / "data" / "tasks"
    if not tasks.is_dir():
        pytest.skip("the task files are not beside this checkout")
    specs = [(task.spec("base", hub=False), tasks / "glue") for task in TASKS]
    specs += [(task, tasks) for task in others.TASKS]
    lacking = {one.name for one, folder in specs if missing_files(one, folder)}
    assert lacking == {"MNLI", "QQP", "QNLI", "JNLI"}
    for spec, folder in specs:
        if spec.name in lacking or spec.prepare is not None:
            continue
        data = recipe_for(spec, "model", folder, tmp_path, 0).data
        for source in (data.train, data.validation, data.test):
            if source is not None:
                assert sum(1 for _ in examples_of(spec.task, data, source)) > 50


def examples_of(task, data, source):
    if task in ("classify", "regress"):
        kind = "number" if task == "regress" else "class"
        return read_texts_with_labels(source, text=data.text, pair=data.pair, label=data.label, kind=kind)
    if task == "tokens":
        return read_spans(source)
    return read_questions(source) if task == "answer" else read_choices(source, choices=data.choices)
