import html
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from corpora import make_tokenizer
from modernbert.corpus.build import CorpusRecipe, build_corpus
from modernbert.corpus.report import write_report
from modernbert.installation import install_command


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tokenizer = make_tokenizer(folder / "tokenizer")
    letters = [{"text": f"<script>alert({i})</script> & the tide"} for i in range(12)]
    lines = [*map(json.dumps, [*letters, letters[0], {"text": "<b>"}]), "broken"]
    (folder / "letters.jsonl").write_text("\n".join(lines))
    (folder / "手紙.jsonl").write_text(json.dumps({"text": "港は川の河口にある。"}))
    sources = [
        {
            "name": "letters",
            "paths": [str(folder / "letters.jsonl")],
            "deduplicate": "exact",
            "min_characters": 4,
        },
        {"name": "手紙", "paths": [str(folder / "手紙.jsonl")]},
    ]
    values = {"tokenizer": str(tokenizer), "output": folder / "shards", "workers": 1, "sources": sources}
    return CorpusRecipe.model_validate(values)


@pytest.fixture(scope="module")
def manifests(recipe):
    return build_corpus(recipe)


class Page(HTMLParser):
    """The cells of tables, the texts of samples, and every element that was opened and not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.samples, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "path", "use", "rect"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        if self.open and self.open[-1] == "pre":
            self.samples.append(data)


def test_the_counts_of_the_report_equal_those_of_the_manifests(recipe, manifests):
    page = Page(write_report(recipe, manifests).read_text())
    assert page.open == []
    [letters, other] = manifests
    [row] = [row for row in page.rows if row[:1] == ["letters"]]
    assert row[1:3] + row[-2:] == ["12", f"{letters.tokens:,}", "2", "1"]
    assert row[5] == f"{letters.bytes / letters.tokens:.2f}"
    [total] = [row for row in page.rows if row[:1] == ["all"]]
    assert total[1:3] == ["13", f"{letters.tokens + other.tokens:,}"]
    assert ["broken line", "1", "6.7%"] in page.rows
    assert ["too short", "1", "6.7%"] in page.rows
    assert ["duplicate", "1", "6.7%"] in page.rows
    assert ["kept", "12", "80.0%"] in page.rows


def test_kept_and_refused_texts_are_shown_and_escaped(recipe, manifests):
    page = Page(write_report(recipe, manifests).read_text())
    assert "script" not in page.tags
    assert "港は川の河口にある。" in page.samples
    assert "<b>" in page.samples
    assert sum(text.startswith("<script>alert(") for text in page.samples) == 5 + 1
    assert "(no text)" in page.samples


def test_the_report_is_self_contained_and_deterministic(recipe, manifests):
    first = write_report(recipe, manifests).read_text()
    assert not re.search(r"(src|href)=[\"'](?!#)", first)
    assert "<svg" in first
    assert write_report(recipe, manifests).read_text() == first
    assert not [path.name for path in recipe.output.iterdir() if path.name.startswith(".")]


def test_without_matplotlib_a_sentence_replaces_the_plots(recipe, manifests, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = write_report(recipe, manifests).read_text()
    assert f"There are no plots, as matplotlib is not installed: {html.escape(install_command('plot'))}." in page
    assert "<svg" not in page
    Page(page)


def test_the_command_writes_the_report_and_prints_its_path(recipe, manifests, tmp_path):
    from typer.testing import CliRunner

    from modernbert.cli import app
    from modernbert.config import dump

    (tmp_path / "corpus.toml").write_text(dump(recipe))
    (recipe.output / "report.html").unlink(missing_ok=True)
    result = CliRunner().invoke(app, ["corpus", str(tmp_path / "corpus.toml")])
    assert result.exit_code == 0, result.output
    assert f"report: {recipe.output / 'report.html'}" in result.stdout
    assert (recipe.output / "report.html").is_file()
