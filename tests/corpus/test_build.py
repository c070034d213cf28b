import gzip
import json
import os
import sys
from pathlib import Path

import pytest

from corpora import interrupt_second_task, make_tokenizer
from modernbert.corpus import build
from modernbert.corpus.build import CorpusRecipe, build_corpus
from modernbert.errors import ConfigError, DataError
from modernbert.files import LOCK, in_use
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(make_tokenizer(tmp_path_factory.mktemp("corpus") / "tokenizer"))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "code").mkdir(parents=True)
    lines = [json.dumps({"text": f"document {i} of the first file"}) for i in range(30)]
    (folder / "a.jsonl").write_text("\n".join([*lines, "broken", '{"text": ""}', '{"title": "x"}']))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a [MASK] and [CLS] in a text"}\n'))
    (folder / "code" / "x.py").write_text("import sys\n")
    (folder / "code" / "y.py").write_bytes(b"\xff\xfe")
    return folder


def recipe(texts, tokenizer, output, **changes):
    source = {"name": "mixed", "paths": [str(texts / "*.jsonl*"), str(texts / "code")]} | changes.pop("source", {})
    return CorpusRecipe.model_validate({"tokenizer": tokenizer, "output": output, "sources": [source], **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".ds", ".index")}


def test_all_documents_are_in_order_and_skipped_ones_are_counted(texts, tokenizer, tmp_path):
    [manifest] = build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1))
    shards, ids = Shards.open(tmp_path / "out" / "mixed"), load_tokenizer(tokenizer)
    decoded = [ids.decode(shards.document(i).tolist(), skip_special_tokens=False) for i in range(shards.num_documents)]
    assert decoded == [f"document {i} of the first file" for i in range(30)] + [
        "a [MASK] and [CLS] in a text",
        "import sys\n",
    ]
    assert manifest.skipped == {"broken line": 1, "empty text": 1, "not a text": 1, "not UTF-8": 1}
    assert manifest.bytes == sum(len(text.encode()) for text in decoded)
    assert sum(file.documents for file in manifest.files) == manifest.documents == 32


def test_ids_have_no_special_token_even_if_the_text_contains_one(texts, tokenizer, tmp_path):
    build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1))
    shards, mask = Shards.open(tmp_path / "out" / "mixed"), load_tokenizer(tokenizer).token_to_id("[MASK]")
    assert all(mask not in shards.document(i) for i in range(shards.num_documents))


def test_the_result_does_not_depend_on_the_number_of_workers(texts, tokenizer, tmp_path):
    for workers in (1, 2):
        build_corpus(recipe(texts, tokenizer, tmp_path / str(workers), workers=workers))
    assert contents(tmp_path / "1" / "mixed") == contents(tmp_path / "2" / "mixed")


def test_a_finished_source_is_unchanged(texts, tokenizer, tmp_path):
    first = build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1))
    before = (tmp_path / "out" / "mixed" / "manifest.json").stat().st_mtime_ns
    assert build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1)) == first
    assert (tmp_path / "out" / "mixed" / "manifest.json").stat().st_mtime_ns == before


def test_other_options_for_a_finished_source_are_refused(texts, tokenizer, tmp_path):
    build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1))
    with pytest.raises(DataError, match="built from other files, options or tokenizer"):
        build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1, source={"min_characters": 3}))


def test_an_interrupted_source_resumes_with_the_unfinished_tasks(texts, tokenizer, tmp_path, monkeypatch):
    from modernbert.corpus import steps

    original, tasks = steps.TokenShardWriter.run, []

    def run(self, data, rank=0, world_size=1):
        tasks.append(rank)
        if rank == 1 and len(tasks) == 2:
            (self.folder / "mixed-00001.ds").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        yield from original(self, data, rank, world_size)

    monkeypatch.setattr(steps.TokenShardWriter, "run", run)
    corpus_recipe = recipe(texts, tokenizer, tmp_path / "out", workers=1)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(corpus_recipe)
    assert not (tmp_path / "out" / "mixed").exists()
    build_corpus(corpus_recipe)
    assert tasks == [0, 1, 1, 2]
    monkeypatch.undo()
    build_corpus(recipe(texts, tokenizer, tmp_path / "whole", workers=1))
    assert contents(tmp_path / "out" / "mixed") == contents(tmp_path / "whole" / "mixed")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mixed"]


def edit(path, old=b"first", new=b"other"):
    """Change a file, but not its size."""
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize("deduplicate", [None, "exact"])
def test_a_source_restarts_if_a_file_was_edited(deduplicate, texts, tokenizer, tmp_path, monkeypatch):
    interrupt_second_task(monkeypatch)
    options = {"source": {"deduplicate": deduplicate}, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        build_corpus(recipe(texts, tokenizer, tmp_path / "out", **options))
    monkeypatch.undo()
    edit(texts / "a.jsonl")
    build_corpus(recipe(texts, tokenizer, tmp_path / "out", **options))
    build_corpus(recipe(texts, tokenizer, tmp_path / "whole", **options))
    assert contents(tmp_path / "out" / "mixed") == contents(tmp_path / "whole" / "mixed")


def test_an_edit_that_keeps_the_size_is_detected_in_a_finished_source(texts, tokenizer, tmp_path):
    corpus_recipe = recipe(texts, tokenizer, tmp_path / "out", workers=1)
    build_corpus(corpus_recipe)
    edit(texts / "code" / "x.py", b"sys", b"ast")
    with pytest.raises(DataError, match=r"was built before .*x\.py changed"):
        build_corpus(corpus_recipe)


def test_copies_with_the_same_bytes_are_the_same_source(texts, tokenizer, tmp_path):
    corpus_recipe = recipe(texts, tokenizer, tmp_path / "out", workers=1)
    first = build_corpus(corpus_recipe)
    for path in (texts / "a.jsonl", texts / "code" / "x.py"):
        os.utime(path, ns=(1, 1))
    assert build_corpus(corpus_recipe) == first
    (tmp_path / "out" / "mixed" / "inputs.json").unlink()  # earlier versions did not write it
    assert build_corpus(corpus_recipe) == first


def test_another_language_model_with_the_same_name_is_detected(tmp_path):
    (tmp_path / "lid.bin").write_bytes(b"one")
    source = build.Source(name="a", paths=("x",), language="en", language_model=str(tmp_path / "lid.bin"))
    build._record_language_model(source, tmp_path)
    assert build._changed([], source, build._read_records(tmp_path)) is None
    (tmp_path / "lid.bin").write_bytes(b"two")
    assert build._changed([], source, build._read_records(tmp_path)) == tmp_path / "lid.bin"


def test_an_empty_result_is_an_error_and_leaves_no_folder(tokenizer, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "text"}\n')
    corpus_recipe = recipe(
        tmp_path, tokenizer, tmp_path / "out", workers=1, source={"paths": [str(tmp_path / "x.jsonl")]}
    )
    with pytest.raises(DataError, match="no usable document \\(1 x not a text\\); check paths and text_key"):
        build_corpus(corpus_recipe)
    assert list((tmp_path / "out").iterdir()) == []


def test_documents_can_be_limited(texts, tokenizer, tmp_path):
    limits = {"limit_documents": 5, "min_characters": 12}
    [manifest] = build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1, source=limits))
    assert manifest.documents == 5 + 1
    assert manifest.skipped["too short"] == 1


def test_two_sources_with_the_same_name_are_refused(texts, tokenizer, tmp_path):
    from modernbert.config import parse

    values = recipe(texts, tokenizer, tmp_path).model_dump(mode="json")
    with pytest.raises(ConfigError, match="two sources have the same name"):
        parse(CorpusRecipe, values | {"sources": values["sources"] * 2}, "recipe")


def test_missing_datatrove_is_an_error_with_the_remedy(texts, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove", None)
    with pytest.raises(DataError, match=r"pip install .*\[corpus\]'"):
        build_corpus(recipe(texts, tokenizer, tmp_path / "out"))


def test_folders_of_the_user_with_similar_names_stay(texts, tokenizer, tmp_path):
    mine = [".mixed.partial/thesis.txt", ".mixed.0123.partial/fingerprint", ".mixed.0123456789ab.partial/thesis.txt"]
    for name in mine:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1))
    assert [(tmp_path / "out" / name).read_text() for name in mine] == ["mine"] * 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["mixed", *(name.partition("/")[0] for name in mine)]
    )


def begun(corpus_recipe, monkeypatch):
    """The folder of an interrupted build."""
    with monkeypatch.context() as patched:
        patched.setattr(build, "_summary", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(corpus_recipe)
    return max(corpus_recipe.output.glob(".mixed.*.partial"), key=lambda path: path.stat().st_ctime_ns)


def test_unfinished_folders_with_other_options_are_removed_unless_in_use(texts, tokenizer, tmp_path, monkeypatch):
    partial = begun(recipe(texts, tokenizer, tmp_path / "out", workers=1), monkeypatch)
    other = recipe(texts, tokenizer, tmp_path / "out", workers=1, source={"min_characters": 3})
    with in_use(partial):
        another = begun(other, monkeypatch)
        assert partial.is_dir()
    assert another != partial
    build_corpus(other)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mixed"]
    assert not (tmp_path / "out" / "mixed" / LOCK).exists()


def test_a_source_in_use_is_refused_with_the_process_id(texts, tokenizer, tmp_path, monkeypatch):
    corpus_recipe = recipe(texts, tokenizer, tmp_path / "out", workers=1)
    partial = begun(corpus_recipe, monkeypatch)
    with in_use(partial), pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on "):
        build_corpus(corpus_recipe)


def test_shards_are_flushed_to_disk_before_the_folder_is_renamed(texts, tokenizer, tmp_path, monkeypatch):
    synced, missing, fsync, rename = set(), [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda number: (synced.add(os.fstat(number).st_ino), fsync(number)))

    def renamed(source, target):
        if Path(target).name == "mixed":
            missing.extend(path.name for path in Path(source).rglob("*") if path.stat().st_ino not in synced)
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    build_corpus(recipe(texts, tokenizer, tmp_path / "out", workers=1))
    assert missing == []
    assert (tmp_path / "out").stat().st_ino in synced
