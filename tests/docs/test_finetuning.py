"""The pages on tasks run as written."""

import json
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from corpora import make_model
from docs.test_docs import ROOT, blocks
from labelled import WORDS, sentences, write_csv
from modernbert.config import parse
from modernbert.tasks.answer.reading import read_questions
from modernbert.tasks.tokens.reading import read_spans
from modernbert.text.records import Source
from modernbert.train.finetune_recipe import FinetuneRecipe

TEXTS, ENTITIES, ANSWERS = (ROOT / "docs" / f"{name}.md" for name in ("finetuning", "entities", "answers"))
HUB = "answerdotai/ModernBERT-base"


def run_page(page, folder):
    """Run all commands and programs of a page in `folder`, with a tiny model in place of the one of the hub."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": environment, "check": True, "timeout": 280, "capture_output": True, "text": True}
    scripts = [script.replace(HUB, "model") for script in blocks(page, "sh")]
    outputs = [subprocess.run(["bash", "-ec", script], **options).stdout for script in scripts]
    return outputs + [subprocess.run([sys.executable, "-c", code], **options).stdout for code in blocks(page, "python")]


def make_models(folder, *places):
    """The tiny model at each of these places."""
    model = make_model(folder, max_position_embeddings=1024)  # the pages use windows of 512
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for place in places:
        (folder / place).parent.mkdir(parents=True)
        (folder / place).symlink_to(model)


def test_the_recipe_of_the_page_is_one():
    [text] = blocks(TEXTS, "toml")
    assert HUB in text
    assert parse(FinetuneRecipe, tomllib.loads(text), "the page").task == "classify"


def test_the_example_of_the_page_is_a_csv_with_a_header():
    [text] = blocks(TEXTS, "csv")
    assert [len(line.split(",")) for line in text.strip().splitlines()] == [2, 2, 2]


def test_the_examples_of_the_pages_are_read(tmp_path):
    [conll], [spans], [squad] = blocks(ENTITIES, "conll"), blocks(ENTITIES, "json"), blocks(ANSWERS, "json")
    for name, text in (("words.conll", conll), ("spans.jsonl", spans), ("squad.json", squad)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    [english] = read_spans(Source(path=str(tmp_path / "words.conll")))
    assert [english.text[span.begin : span.end] for span in english.spans] == ["Angela Merkel", "Tony Blair"]
    [japanese] = read_spans(Source(path=str(tmp_path / "spans.jsonl")))
    assert [japanese.text[span.begin : span.end] for span in japanese.spans] == ["山田花子", "京都"]
    [question] = read_questions(Source(path=str(tmp_path / "squad.json"), format="squad"))
    assert [answer.text for answer in question.answers] == ["Tyrol"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_texts_are_classified_as_written(tmp_path):
    """Uses more examples than the page shows."""
    make_models(tmp_path)
    write_csv(tmp_path / "texts.csv", sentences(300, 1))
    [recipe] = blocks(TEXTS, "toml")
    (tmp_path / "texts.toml").write_text(recipe.replace(HUB, "model"))
    outputs = run_page(TEXTS, tmp_path)
    assert re.search(r"Validation set, [23]\d examples", outputs[0])  # a tenth, with all duplicates of its texts
    assert "a long day at the sea" in outputs[0]
    for name in ("report.md", "report.json", "predictions.jsonl", "confusion.png", "learning-curve.png", "config.json"):
        assert (tmp_path / "output" / "texts" / name).exists()
    assert len(json.loads((tmp_path / "output" / "searched-search" / "search.json").read_text())) == 2 * 1 * 2
    assert json.loads((tmp_path / "output" / "longer" / "report.json").read_text())["seeds"] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_entities_are_found_as_written(tmp_path):
    """Uses small files in the format of the data sets."""
    make_models(tmp_path, "output/mini/run/final", "output/japanese-mini/run/final")
    draw = random.Random(0)
    for folder in ("conll2003", "ja_ner_wikipedia"):
        (tmp_path / folder).mkdir()
    for name in ("train", "valid", "test"):
        lines = [f"{draw.choice(WORDS)}\tO\n{draw.choice(['Berlin', 'London'])}\tB-LOC\n" for _ in range(40)]
        (tmp_path / "conll2003" / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    towns = [draw.choice(["京都", "大阪"]) for _ in range(60)]
    records = [
        {
            "curid": str(number),
            "text": f"{town}の{number}番地。",
            "entities": [{"name": town, "span": [0, 2], "type": "地名"}],
        }
        for number, town in enumerate(towns)
    ]
    (tmp_path / "ja_ner_wikipedia" / "ner.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    outputs = run_page(ENTITIES, tmp_path)
    assert "Angela Merkel met Tony Blair" in outputs[0]
    for name in ("conll2003", "japanese-entities"):
        assert (tmp_path / "output" / "tasks" / name / "confusion.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_questions_are_answered_as_written(tmp_path):
    """Uses small files in the format of the data set, and a document longer than the maximum of the model."""
    make_models(tmp_path, "output/japanese-mini/run/final")
    for folder in ("train", "dev"):
        (tmp_path / "jaquad" / folder).mkdir(parents=True)
        paragraphs = [
            {
                "context": f"彼は{year}年に生まれた。",
                "qas": [
                    {"id": f"{folder}{year}", "question": "いつ?", "answers": [{"text": str(year), "answer_start": 2}]}
                ],
            }
            for year in range(1900, 1960)
        ]
        document = {"data": [{"title": "人", "paragraphs": paragraphs}]}
        (tmp_path / "jaquad" / folder / "part.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "article.txt").write_text("田中花子は1921年に京都で生まれた。", encoding="utf-8")
    (tmp_path / "novel.txt").write_text("田中花子は1921年に京都で生まれた。" * 200, encoding="utf-8")
    outputs = run_page(ANSWERS, tmp_path)
    assert "田中花子は何年に生まれましたか。" in outputs[1]
    replies = outputs[-1].strip().splitlines()
    assert len(replies) == 3
    assert all(re.fullmatch(r"\d+\.\d% .+", reply) for reply in replies)
