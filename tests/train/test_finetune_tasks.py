"""What the tasks learn from files, and that their folders read texts as in training."""

import pytest

from labelled import predicted, recipe, report, sentences, write_csv, write_lines
from modernbert import Classifier, QuestionAnswerer, TokenClassifier
from modernbert.train.finetune import finetune
from modernbert.train.finetune_data import prepare

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.slow
def test_numbers_of_any_size_are_learned_and_come_back_as_such(model, tmp_path):
    worth = {"red": 1000.0, "green": 3000.0, "blue": 8000.0}
    rows = [(text, worth[label]) for text, label in sentences(200, 1)]
    data = {"train": str(write_csv(tmp_path / "x.csv", rows, ("text", "price"))), "label": "price"}
    folder = finetune(recipe(model, tmp_path / "run", "regress", data=data, training={"metric": "error"}))
    found = report(folder)["metrics"]["validation"]
    assert found["pearson"]["value"] > 0.95
    assert found["error"]["value"] < 0.2 * found["error"]["baseline"]
    classifier = Classifier.from_pretrained(folder, device="cpu")
    for line in predicted(folder)[:5]:
        [number] = classifier(line["text"])
        assert number.label == "price"
        assert number.score == pytest.approx(line["predicted"], rel=1e-3)


@pytest.mark.slow
def test_several_labels_at_once(model, tmp_path):
    pairs = zip(sentences(250, 1), sentences(250, 2), strict=True)
    rows = [(f"{one} {other}", ";".join({first, second})) for (one, first), (other, second) in pairs]
    data = {"train": str(write_csv(tmp_path / "x.csv", rows)), "separator": ";"}
    folder = finetune(recipe(model, tmp_path / "run", "multi-label", data=data, training={"epochs": 12}))
    assert report(folder)["metrics"]["validation"]["f1_micro"]["value"] > 0.95
    [line, *_] = predicted(folder)
    scores = {one.label: one.score for one in Classifier.from_pretrained(folder, device="cpu")(line["text"])}
    assert scores == pytest.approx(line["scores"], abs=1e-5)
    assert sorted(name for name, score in scores.items() if score >= 0.5) == line["predicted"]


@pytest.mark.slow
def test_answers_are_found_in_long_contexts_or_not_at_all(model, tmp_path):
    questions = []
    for number, (text, _) in enumerate(sentences(200, 1)):
        number_text = f"{1000 + 37 * number % 9000}"
        answered = number % 4 != 0
        context = f"{text} default {number_text} values" if answered else f"{text} line"
        answers = [{"text": number_text, "answer_start": context.index(number_text)}] if answered else []
        questions.append({"id": str(number), "question": "number", "context": context, "answers": answers})
    data = {"train": str(write_lines(tmp_path / "x.jsonl", questions))}
    options = {"data": data, "max_answer_tokens": 8, "training": {"epochs": 20}}
    folder = finetune(recipe(model, tmp_path / "run", "answer", **options))
    assert report(folder)["metrics"]["validation"]["exact"]["value"] > 0.7
    ask = QuestionAnswerer.from_pretrained(folder, device="cpu", max_length=40)
    told = next(line for line in predicted(folder) if line["predicted"] and line["predicted"] in line["expected"])
    context = next(one["context"] for one in questions if one["id"] == told["id"])
    assert ask("number", context)[0].text == told["predicted"]
    long = f"{'line group ' * 60}{context}"
    best = next(reply for reply in ask("number", long) if reply.text)
    assert long[best.begin : best.end] == best.text
    assert any(reply.text == "" for reply in ask("number", "group line"))


def test_a_folder_reads_as_its_recipe_did(model, tmp_path):
    """What is cut, where windows end and how long an answer may be decide every one of these predictions."""
    from transformers import AutoModelForQuestionAnswering

    draw = sentences(400, 1)
    texts = [" ".join(text for text, _ in draw[10 * number : 10 * number + 10]) for number in range(40)]
    words = [text.split()[-1] for text in texts]
    records = [
        {
            "text": f"{text} {number}",
            "label": ("red", "green")[number % 2],
            "entities": [[len(text) - len(word), len(text), "LAST"]],
            "question": "last",
            "context": text,
            "answers": [{"text": word, "answer_start": len(text) - len(word)}],
            "id": str(number),
        }
        for number, (text, word) in enumerate(zip(texts, words, strict=True))
    ]
    data = {"train": str(write_lines(tmp_path / "x.jsonl", records)), "test": str(tmp_path / "x.jsonl")}
    short = {"max_length": 24, "overlap_tokens": 3, "max_answer_tokens": 1, "training": {"epochs": 1}}
    folders = {
        task: finetune(recipe(model, tmp_path / task, task, data=data, **short))
        for task in ("classify", "tokens", "answer")
    }
    for line, found in zip(
        predicted(folders["classify"]),
        Classifier.from_pretrained(folders["classify"], device="cpu")([one["text"] for one in records]),
        strict=True,
    ):
        assert {one.label: one.score for one in found} == pytest.approx(line["scores"], abs=1e-5)
    for line, spans in zip(
        predicted(folders["tokens"]),
        TokenClassifier.from_pretrained(folders["tokens"], device="cpu")([one["text"] for one in records]),
        strict=True,
    ):
        assert [one.begin for one in spans] == [one["begin"] for one in line["predicted"]]
        assert [one.score for one in spans] == pytest.approx([one["score"] for one in line["predicted"]], abs=1e-5)
    ask = QuestionAnswerer.from_pretrained(folders["answer"], device="cpu")
    for line, replies in zip(predicted(folders["answer"]), ask(["last"] * len(texts), texts), strict=True):
        assert (replies[0].text, replies[0].begin) == (line["predicted"], line["begin"])
        assert replies[0].probability == pytest.approx(line["score"], abs=1e-5)
    assert ask.max_length == 24
    assert QuestionAnswerer.from_pretrained(folders["answer"], device="cpu", max_length=30).max_length == 30
    theirs = AutoModelForQuestionAnswering.from_pretrained(folders["answer"]).config
    assert theirs.modernbert_task["max_answer_tokens"] == 1
    again = recipe(folders["answer"], tmp_path / "again", "answer", data=data)
    assert "max_length" not in prepare(again)[0].config_updates()["modernbert_task"]
