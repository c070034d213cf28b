"""The site: generated parts of docs/ are up to date, and all pages are in the navigation."""

import importlib.util
import re
import sys

import pytest

from docs.test_docs import ROOT

DOCS = ROOT / "docs"


def script(path, monkeypatch):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_settings_are_those_of_the_types(monkeypatch):
    settings = script(DOCS / "site" / "settings.py", monkeypatch)
    for path in settings.PAGES:
        assert settings.page(path) == path.read_text(encoding="utf-8"), "run: python docs/site/settings.py"


def test_each_setting_is_described(monkeypatch):
    settings = script(DOCS / "site" / "settings.py", monkeypatch)
    finetuning, ranking = settings.finetuning_tables(), settings.ranking_tables()
    for name in ("learning_rate", "held_out", "validation", "joined_by", "microbatch_tokens", "trials"):
        assert f"`{name}`" in finetuning
    for name in ("collections", "positive", "crop", "query_length", "temperature", "max_length"):
        assert f"`{name}`" in ranking
    assert not [row for row in (finetuning + ranking).splitlines() if row.endswith("|  |")]


def test_each_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    lines = [line for line in navigation.splitlines() if not line.lstrip().startswith("#")]
    assert pages == set(re.findall(r"(?:: |- )([\w/-]+\.md)$", "\n".join(lines), re.MULTILINE))


@pytest.mark.slow
def test_the_pictures_are_up_to_date(monkeypatch, tmp_path):
    draw = script(DOCS / "pictures" / "draw.py", monkeypatch)
    before = {path.name: path.read_bytes() for path in (DOCS / "pictures").glob("*.svg")}
    monkeypatch.setattr(draw, "FOLDER", tmp_path)
    monkeypatch.setattr(draw, "ROOT", ROOT)
    with draw.matplotlib.rc_context(draw.STYLE):
        for picture in (draw.packing, draw.attention, draw.phases):
            picture().savefig(tmp_path / f"{picture.__name__}.svg", metadata={"Date": None})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
