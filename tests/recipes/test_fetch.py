"""recipes/fetch.py on small files in the format of its sources."""

import gzip
import importlib.util
import io
import json
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from modernbert.errors import DataError

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def fetch(monkeypatch):
    spec = importlib.util.spec_from_file_location("fetch", RECIPES / "fetch.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch", module)
    spec.loader.exec_module(module)
    return module


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def archive_of(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return io.BytesIO(stream.getvalue())


def test_an_archive_gives_its_files_that_match(fetch, tmp_path, monkeypatch):
    files = {
        "Python-3.11.7/Lib/json/a.py": "a = 1",
        "Python-3.11.7/Lib/empty.py": " ",
        "Python-3.11.7/README.rst": "no",
    }
    monkeypatch.setattr(fetch, "_opened", lambda address: archive_of(files))
    [document] = read(fetch.fetch("code-python", tmp_path))
    assert document == {"id": "Python-3.11.7/Lib/json/a.py", "title": "a.py", "text": "a = 1"}


def test_a_hub_data_set_gives_its_documents_up_to_the_limit(fetch, tmp_path, monkeypatch):
    rows = [
        {"text": f"本文{number}", "meta": {"文字遣い種別": "新字新仮名" if number % 2 else "旧字旧仮名"}}
        for number in range(4000)
    ]
    monkeypatch.setattr(fetch, "_stream", lambda name, subset, split: iter(rows))
    documents = read(fetch.fetch("literature-ja", tmp_path))
    assert len(documents) == 810
    assert documents[1]["text"] == "本文3"


def test_a_lead_is_the_text_before_the_first_break(fetch):
    assert fetch._lead({"text": "a" * 200 + "\n\nHistory\n\nmore"}) == "a" * 200
    assert fetch._lead({"text": "short\n\n" + "b" * 300}) is None


def test_a_source_without_documents_leaves_no_file(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_stream", lambda name, subset, split: iter([]))
    with pytest.raises(DataError, match="no documents"):
        fetch.fetch("news-en", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_pairs_of_glue_are_those_that_the_recipe_reads(fetch, tmp_path, monkeypatch):
    rows = [{"label": 1, "sentence1": 'He said "yes".', "sentence2": "tab\there"}]
    monkeypatch.setattr(fetch, "_stream", lambda name, subset, split: iter(rows))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("train", "dev"):
            archive.writestr(f"STS-B/{name}.tsv", "index\tfilename\tsentence1\tsentence2\tscore\n0\tnews\ta\tb\t3\n")
    monkeypatch.setattr(fetch, "_opened", lambda address: io.BytesIO(packed.getvalue()))
    fetch.fetch_glue(tmp_path)
    spec = importlib.util.spec_from_file_location("pairs", RECIPES / "mini-pairs" / "pairs.py")
    pairs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pairs)
    assert list(pairs.pairs(tmp_path)) == [
        ("mrpc/0", 'He said "yes".', "tab here"),
        ("rte/0", 'He said "yes".', "tab here"),
        ("sts-b/0", "a", "b"),
    ]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/corpus.toml")), ids=lambda path: path.parent.name)
def test_each_text_that_a_recipe_reads_can_be_fetched_as_its_comment_says(path, fetch):
    text = path.read_text(encoding="utf-8")
    read_names = {
        Path(name).name.removesuffix(".jsonl.gz")
        for source in tomllib.loads(text)["sources"]
        for name in source["paths"]
        if name.startswith("texts/") and name.endswith(".jsonl.gz") and "*" not in name
    }
    assert read_names <= fetch.SOURCES.keys()
    if read_names:
        [line] = [line for line in text.splitlines() if "recipes/fetch.py" in line and "glue" not in line]
        assert set(line.split("recipes/fetch.py ")[1].split()) == read_names
