"""An index of texts: search results, stopped builds, and wrong arguments."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from modernbert import Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from modernbert.errors import ConfigError, DataError
from modernbert.model import retrieval
from modernbert.search import build
from modernbert.search.build import Models, build_index
from modernbert.search.index import Index
from modernbert.search.passages import split_by_characters
from modernbert.search.stages import STAGES
from modernbert.text.bm25 import words_of
from retrieval import QUERIES, TEXTS, base_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the four kinds."""
    folder = tmp_path_factory.mktemp("models")
    base = base_folder(folder)
    for name, kind in (("late", retrieval.MultiVectorEncoder), ("rerank", retrieval.CrossEncoder)):
        torch.manual_seed(0)
        kind.from_pretrained(base).save_pretrained(folder / name)
    return {"dense": str(base), "sparse": str(base), "late": str(folder / "late"), "rerank": str(folder / "rerank")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (folder / "b.txt").write_text("電池はどのくらい持ちますか。\n返品の方法を教えてください。")
    return folder


@pytest.fixture(scope="module")
def index(models, corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("index") / "all"
    build_index([str(corpus)], output, Models(models["dense"], models["sparse"], models["late"]))
    return Index.open(output)


def texts_of(index):
    return [passage.text for passage in index.passages]


def expected_scores(method, folder, queries, texts):
    kind = {"dense": Embedder, "sparse": SparseEmbedder, "late": MultiVectorEmbedder}[method]
    model = kind.from_pretrained(folder)
    return model.similarity(model.encode_query(queries), model.encode_document(texts))


@pytest.mark.parametrize("method", ["dense", "sparse", "late"])
def test_a_search_finds_what_all_similarities_say(method, index, models):
    scores = expected_scores(method, models[method], QUERIES, texts_of(index))
    for hits, row in zip(index.search(QUERIES, method, top_k=4), scores, strict=True):
        assert [hit.number for hit in hits] == row.argsort(descending=True)[:4].tolist()
        np.testing.assert_allclose([hit.score for hit in hits], row.sort(descending=True).values[:4], rtol=2e-3)


def test_words_are_found_in_every_script(index):
    [[hit, *_], [other, *_], nothing] = index.search(["電池の持ち", "group", "zzz"], "bm25")
    assert "電池" in hit.passage.text
    assert "group" in other.passage.text
    assert nothing == []


def test_english_words_are_found_in_other_forms(tmp_path):
    (tmp_path / "english.txt").write_text("The batteries of the car are old.\n")
    (tmp_path / "german.txt").write_text(
        "Die Batterien des Wagens sind schon seit vielen Jahren alt, was uns ärgert.\n"
    )
    for name, found, missing in (("english", "battery", "the"), ("german", "was", "batterie")):
        build_index([str(tmp_path / f"{name}.txt")], tmp_path / name, Models())
        hits, none = Index.open(tmp_path / name).search([found, missing], "bm25")
        assert len(hits) == 1
        assert none == []
    (tmp_path / "english" / "bm25" / "language.txt").unlink()  # an index of an earlier version, but for its words
    with pytest.raises(DataError, match=r"language.txt is missing or damaged"):
        Index.open(tmp_path / "english").search(["battery"], "bm25")


def test_hybrid_adds_up_reciprocal_ranks(index):
    ranked = {}
    for method in index.methods:
        [hits] = index.search(QUERIES[:1], method, top_k=100)
        for hit in hits:
            ranked[hit.number] = ranked.get(hit.number, 0) + 1 / (60 + hit.rank)
    [hits] = index.search(QUERIES[:1], "hybrid", top_k=100)
    assert {hit.number: pytest.approx(hit.score) for hit in hits} == ranked
    assert [hit.score for hit in hits] == sorted(ranked.values(), reverse=True)
    [bm25] = index.search(QUERIES[:1], "bm25", top_k=100)
    weighted = dict(ranked)
    for hit in bm25:
        weighted[hit.number] += 2 / (60 + hit.rank)
    [hits] = index.search(QUERIES[:1], "hybrid", top_k=100, bm25_weight=3)
    assert {hit.number: pytest.approx(hit.score) for hit in hits} == weighted
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="it must be a positive number"):
            index.search(QUERIES[:1], "hybrid", bm25_weight=weight)


def test_a_hybrid_by_scores_weighs_scaled_scores(index):
    scaled = {}
    for method in index.methods:
        [hits] = index.search(QUERIES[:1], method, top_k=100)
        highest, lowest = hits[0].score, hits[-1].score
        for hit in hits:
            part = (hit.score - lowest) / (highest - lowest) if highest > lowest else 1.0
            scaled[hit.number] = scaled.get(hit.number, 0) + part / len(index.methods)
    [hits] = index.search(QUERIES[:1], "hybrid", top_k=100, fusion="scores")
    assert {hit.number: pytest.approx(hit.score) for hit in hits} == scaled
    assert [hit.score for hit in hits] == sorted(scaled.values(), reverse=True)
    [bm25] = index.search(QUERIES[:1], "bm25", top_k=100)
    [hits] = index.search(QUERIES[:1], "hybrid", top_k=100, fusion="scores", bm25_weight=1e9)
    assert [hit.number for hit in hits][: len(bm25) - 1] == [hit.number for hit in bm25][:-1]
    with pytest.raises(ConfigError, match="There is no fusion 'sum'"):
        index.search(QUERIES[:1], "hybrid", fusion="sum")


def test_a_reranker_may_keep_a_part_of_the_first_scores(index, models):
    reranker = Reranker.from_pretrained(models["rerank"])
    [first] = index.search(QUERIES[:1], "dense", top_k=3)
    [hits] = index.search(QUERIES[:1], "dense", reranker=reranker, candidates=3, first_stage_weight=1e6)
    assert [hit.number for hit in hits] == [hit.number for hit in first]
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="it must be 0 or a positive number"):
            index.search(QUERIES[:1], "dense", reranker=reranker, first_stage_weight=weight)


def test_a_reranker_orders_the_best_anew(index, models):
    reranker = Reranker.from_pretrained(models["rerank"])
    [hits] = index.search(QUERIES[:1], "dense", reranker=reranker, candidates=3)
    [first] = index.search(QUERIES[:1], "dense", top_k=3)
    assert {hit.number for hit in hits} == {hit.number for hit in first}
    ranked = reranker.rank(QUERIES[0], [hit.passage.text for hit in first])
    assert [hit.number for hit in hits] == [first[one["corpus_id"]].number for one in ranked]


def test_passages_cover_a_long_text_and_share_some_of_it(models, tmp_path):
    text = " ".join(f"word{number}" for number in range(400))
    (tmp_path / "long.txt").write_text(text)
    for models_given in (Models(models["dense"], bm25=False), Models()):
        output = tmp_path / f"index-{models_given.bm25}"
        build_index([str(tmp_path / "long.txt")], output, models_given, chunk_tokens=48 if models_given.dense else None)
        parts = texts_of(Index.open(output))
        assert len(parts) > 2
        assert {word for part in parts for word in part.split()} >= set(text.split())
        assert all(part in text for part in parts)
        assert sum(map(len, parts)) > len(text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("passages.offsets.npy", b""),
        ("passages.offsets.npy", b"not numpy"),
        ("passages.offsets.npy", None),
        ("passages.jsonl", b""),
        ("manifest.json", b'{"format": 1, "models": {}}'),
        (
            "manifest.json",
            b'{"format": 1, "models": {}, "bm25": true, "int8": false, "approximate": false, "passages": 9}',
        ),
    ],
)
def test_a_damaged_index_is_one_sentence(name, content, tmp_path):
    (tmp_path / "t.txt").write_text("one text")
    build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())
    if content is None:
        (tmp_path / "index" / name).unlink()
    else:
        (tmp_path / "index" / name).write_bytes(content)
    with pytest.raises(DataError, match="is damaged: its passages are not those of its manifest"):
        Index.open(tmp_path / "index")


@pytest.mark.parametrize("method", ["dense", "sparse", "late", "bm25", None])
def test_each_damaged_or_missing_file_of_a_stage_is_one_sentence(method, index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    names = STAGES[method].files if method else ("passages.jsonl",)
    files = [name for name in index.manifest["files"] if name.partition("/")[0] in names]
    assert files
    for name in files:
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DataError, match=f"{path.name} is missing or damaged; copy it again"):
            Index.open(folder).search(["text"], method or "bm25")
        path.unlink()
        with pytest.raises(DataError, match="damaged"):
            Index.open(folder).search(["text"], method or "bm25")
        path.write_bytes(content)
    Index.open(folder).search(["text"], method or "bm25")


def test_an_index_of_an_earlier_version_is_not_checked(index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert Index.open(folder).search(["text"], "bm25") == index.search(["text"], "bm25")


def test_names_and_texts_that_are_no_unicode_do_not_stop_an_index(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"_id": "\\ud83d", "text": "one text"}\n{"text": "half \\ud83d"}\n{"title": "\\ud83d", "text": "two"}\n'
    )
    sources = [str(tmp_path / "x.jsonl")]
    try:
        (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("another text")
        sources.append(str(tmp_path / os.fsdecode(b"bad\xff.txt")))
    except OSError:
        pass  # a file system of Unicode alone
    for _ in range(2):  # the second time it is complete
        build_index(sources, tmp_path / "index", Models())
    passages = list(Index.open(tmp_path / "index").passages)
    assert [one.text for one in passages] == ["one text", "another text"][: len(sources)]
    assert passages[0].id == "\ufffd"


def test_passages_without_a_tokenizer_hold_whole_characters():
    family = "👨\u200d👩\u200d👧"
    text = family * 700
    parts = split_by_characters(text)
    assert all(len(part) % len(family) == 0 and part.startswith("👨") for part in parts)
    assert parts[-1].endswith("👧")
    assert 1 < len(split_by_characters("a" + "\u0301" * 5000)) < 10


def test_a_graph_finds_what_comparing_all_finds(index, models, corpus, tmp_path):
    build_index([str(corpus)], tmp_path / "graph", Models(models["dense"], bm25=False), approximate=True)
    found, expected = Index.open(tmp_path / "graph").search(QUERIES), index.search(QUERIES, "dense")
    for hits, exact in zip(found, expected, strict=True):
        assert [hit.number for hit in hits] == [hit.number for hit in exact]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in exact], rtol=1e-4)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_build_resumes_and_gives_the_same_bytes(models, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SHARD_PASSAGES", 2)
    given = Models(models["dense"], models["sparse"])
    build_index([str(corpus)], tmp_path / "whole", given)
    real, calls = build.atomic_write, []

    def stops(path):
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(build, "atomic_write", stops)
    with pytest.raises(KeyboardInterrupt):
        build_index([str(corpus)], tmp_path / "parts", given)
    monkeypatch.setattr(build, "atomic_write", real)
    with pytest.raises(DataError, match="not complete"):
        Index.open(tmp_path / "parts")
    with pytest.raises(DataError, match="started with other"):
        build_index([str(corpus)], tmp_path / "parts", Models(models["dense"]))
    build_index([str(corpus)], tmp_path / "parts", given)
    assert files(tmp_path / "whole") == files(tmp_path / "parts")


def test_an_index_depends_on_the_bytes_of_its_files_and_not_on_their_times(tmp_path):
    (tmp_path / "t.txt").write_text("one text")
    build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())
    os.utime(tmp_path / "t.txt", ns=(1, 1))
    build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())
    (tmp_path / "t.txt").write_text("two text")
    os.utime(tmp_path / "t.txt", ns=(1, 1))
    with pytest.raises(DataError, match="other texts or models"):
        build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())


def test_an_index_of_an_earlier_version_identifies_its_files_by_their_times(tmp_path):
    (tmp_path / "t.txt").write_text("one text")
    manifest = build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())
    manifest["sources"] = [record[:3] for record in manifest["sources"]]
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
    build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())
    os.utime(tmp_path / "t.txt", ns=(1, 1))
    with pytest.raises(DataError, match="other texts or models"):
        build_index([str(tmp_path / "t.txt")], tmp_path / "index", Models())


def test_wrong_arguments_are_reported(index, models, corpus, tmp_path):
    with pytest.raises(DataError, match="holds files that are not an index"):
        build_index([str(corpus)], corpus, Models())
    with pytest.raises(DataError, match="no file"):
        build_index([str(tmp_path / "none")], tmp_path / "i", Models())
    with pytest.raises(ConfigError, match="do not fit"):
        build_index([str(corpus)], tmp_path / "i", Models(models["dense"]), chunk_tokens=10_000)
    with pytest.raises(DataError, match="manifest"):
        Index.open(tmp_path)
    build_index([str(corpus)], tmp_path / "words", Models())
    with pytest.raises(ConfigError, match="has no 'dense'"):
        Index.open(tmp_path / "words").search(QUERIES, "dense")
    for options in ({"top_k": -1}, {"top_k": 0}, {"candidates": -1}):
        with pytest.raises(DataError, match="ask for at least one passage"):
            Index.open(tmp_path / "words").search(QUERIES, **options)
    with pytest.raises(DataError, match="should be a text, or a list of texts"):
        Index.open(tmp_path / "words").search("battery")
    with pytest.raises(DataError, match="other texts or models"):
        build_index([str(corpus / "b.txt")], tmp_path / "words", Models())


def test_a_model_that_has_changed_is_not_used(corpus, tmp_path):
    base = base_folder(tmp_path / "model")
    build_index([str(corpus)], tmp_path / "index", Models(str(base), bm25=False))
    retrieval.DenseEncoder.from_pretrained(base).save_pretrained(base)
    with pytest.raises(DataError, match="has changed"):
        Index.open(tmp_path / "index").search(QUERIES)


def test_words_of_scripts_without_spaces_are_pairs_of_characters():
    assert words_of("Ein Test") == ["ein", "test"]
    assert words_of("東京都のPython3入門") == ["東京", "京都", "都の", "python3", "入門"]
    assert words_of("木") == ["木"]


def test_overwriting_an_index_keeps_other_files(corpus, tmp_path):
    build_index([str(corpus)], tmp_path / "index", Models())
    for name in ("notes.txt", "building/thesis.txt"):
        (tmp_path / "index" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "index" / name).write_text("mine")
    build_index([str(corpus / "b.txt")], tmp_path / "index", Models(), overwrite=True)
    assert len(Index.open(tmp_path / "index").passages) == 1
    assert (tmp_path / "index" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "index" / "building" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["{}", '{"format": 1}', '{"name": "an extension", "models": []}', "[1]", "{", "[" * 9999]
)
def test_a_manifest_of_something_else_is_never_removed(content, corpus, tmp_path):
    """Token shards and browser extensions have a manifest.json too."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text(content)
    (tmp_path / "mine" / "a.ds").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="is not the manifest of an index"):
            build_index([str(corpus)], tmp_path / "mine", Models(), overwrite=overwrite)
    with pytest.raises(DataError, match="is not the manifest of an index"):
        Index.open(tmp_path / "mine")
    assert (tmp_path / "mine" / "manifest.json").read_text() == content
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["a.ds", "manifest.json"]


def test_a_users_folder_named_building_is_not_an_index(corpus, tmp_path):
    (tmp_path / "house" / "building").mkdir(parents=True)
    with pytest.raises(DataError, match="holds files that are not an index"):
        build_index([str(corpus)], tmp_path / "house", Models(), overwrite=True)
    assert (tmp_path / "house" / "building").is_dir()
