import json
import random

import pytest

from corpora import make_tokenizer
from modernbert.corpus import samples
from modernbert.corpus.build import CorpusRecipe, build_corpus
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import load_tokenizer

WORDS = ["the", "of", "and", "in", "harbour", "river", "town", "boat", "market", "tide", "captain", "gull", "moon"]


def text(seed, words=120):
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) + str(chosen.randrange(100)) for _ in range(words))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(make_tokenizer(tmp_path_factory.mktemp("deduplication") / "tokenizer"))


def write(folder, *files):
    folder.mkdir(exist_ok=True)
    for number, texts in enumerate(files):
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def recipe(folder, tokenizer, output, workers=1, **options):
    source = {"name": "web", "paths": [str(folder / "*.jsonl")], **options}
    values = {"tokenizer": tokenizer, "output": output, "workers": workers, "sources": [source]}
    return CorpusRecipe.model_validate(values)


def decoded(folder, tokenizer):
    shards, ids = Shards.open(folder), load_tokenizer(tokenizer)
    return [ids.decode(shards.document(i).tolist()) for i in range(shards.num_documents)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_of_equal_documents_the_first_is_kept_in_any_file(tokenizer, tmp_path):
    a, b, c, d = (text(seed) for seed in range(4))
    write(tmp_path / "texts", [a, b, a], [c, c, b], [d, a])
    [manifest] = build_corpus(recipe(tmp_path / "texts", tokenizer, tmp_path / "out", deduplicate="exact"))
    assert decoded(tmp_path / "out" / "web", tokenizer) == [a, b, c, d]
    assert manifest.skipped == {"duplicate": 4}
    assert [file.documents for file in manifest.files] == [2, 1, 1]
    assert {found for _, found in samples.read(tmp_path / "out" / "web")["duplicate"]} <= {
        t[: samples.CHARACTERS] for t in (a, b, c)
    }


def test_exact_deduplication_removes_only_equal_texts(tokenizer, tmp_path):
    a = text(0)
    write(tmp_path / "texts", [a, a + ".", a.upper()])
    [manifest] = build_corpus(recipe(tmp_path / "texts", tokenizer, tmp_path / "out", deduplicate="exact"))
    assert manifest.documents == 3


def test_one_of_near_duplicates_is_kept_and_no_other_document_is_removed(tokenizer, tmp_path):
    different = [text(seed) for seed in range(8)]
    near = [f"{different[0]} and more", different[0].replace(" ", ", "), f"Well, {different[3]}!"]
    write(tmp_path / "texts", different[:4] + near[:1], different[4:] + near[1:])
    [manifest] = build_corpus(recipe(tmp_path / "texts", tokenizer, tmp_path / "out", deduplicate="minhash"))
    kept = decoded(tmp_path / "out" / "web", tokenizer)
    assert manifest.skipped == {"near duplicate": 3}
    assert set(different) - {different[0], different[3]} < set(kept)
    assert len(set(kept) & {different[0], *near[:2]}) == len(set(kept) & {different[3], near[2]}) == 1


def test_the_options_set_the_similarity_of_near_duplicates(tokenizer, tmp_path):
    """Half of two documents is equal: too little for the defaults, enough for many small buckets."""
    same = text(0, 100)
    write(tmp_path / "texts", [f"{same} {text(1, 40)}", f"{same} {text(2, 40)}", text(3)])
    [strict] = build_corpus(
        recipe(
            tmp_path / "texts",
            tokenizer,
            tmp_path / "strict",
            deduplicate="minhash",
            minhash={"buckets": 1, "hashes_per_bucket": 40},
        )
    )
    [loose] = build_corpus(
        recipe(
            tmp_path / "texts",
            tokenizer,
            tmp_path / "loose",
            deduplicate="minhash",
            minhash={"buckets": 40, "hashes_per_bucket": 1},
        )
    )
    assert (strict.documents, loose.documents) == (3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "minhash"])
def test_the_result_does_not_depend_on_the_number_of_workers(kind, tokenizer, tmp_path):
    texts = [text(seed) for seed in range(20)]
    write(tmp_path / "texts", texts[:12], texts[8:], [*texts[3:5], "x"])
    options = {"deduplicate": kind, "minhash": {"buckets": 3}, "min_characters": 2}
    for workers in (1, 2):
        build_corpus(recipe(tmp_path / "texts", tokenizer, tmp_path / str(workers), workers, **options))
    assert contents(tmp_path / "1" / "web") == contents(tmp_path / "2" / "web")
    manifest = json.loads((tmp_path / "1" / "web" / "manifest.json").read_text())
    assert manifest["documents"] == 20
    assert manifest["skipped"]["too short"] == 1


def test_a_refused_document_does_not_make_others_duplicates(tokenizer, tmp_path):
    """Otherwise both would be removed: the first by a filter, the second as its duplicate."""
    a = text(0)
    write(tmp_path / "texts", ["few words", a, "few words", a])
    options = {"filters": ["gopher-quality"], "filter_options": {"gopher-quality": {"min_stop_words": 0}}}
    [manifest] = build_corpus(recipe(tmp_path / "texts", tokenizer, tmp_path / "out", deduplicate="exact", **options))
    assert manifest.skipped == {"duplicate": 1, "gopher-quality: gopher_short_doc": 2}


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", ["MinhashDedupSignature", "MinhashDedupCluster", "TokenShardWriter"])
def test_an_interrupted_source_resumes_at_its_stage(stopped_in, tokenizer, tmp_path, monkeypatch):
    from modernbert.corpus import deduplication, steps

    ran = []
    for module, name in (
        (deduplication, "MinhashDedupSignature"),
        (deduplication, "MinhashDedupBuckets"),
        (deduplication, "MinhashDedupCluster"),
        (steps, "TokenShardWriter"),
    ):
        kind = getattr(module, name)

        def watched(self, data, rank=0, world_size=1, *, name=name, run=kind.run):
            ran.append((name, rank))
            if name == stopped_in and [entry[0] for entry in ran].count(name) == 1:
                raise KeyboardInterrupt
            return run(self, data, rank, world_size)

        monkeypatch.setattr(kind, "run", watched)
    texts = [text(seed) for seed in range(6)]
    write(tmp_path / "texts", texts[:4], texts[2:])
    corpus_recipe = recipe(
        tmp_path / "texts", tokenizer, tmp_path / "out", deduplicate="minhash", minhash={"buckets": 2}
    )
    with pytest.raises(KeyboardInterrupt):
        build_corpus(corpus_recipe)
    assert not (tmp_path / "out" / "web").exists()
    build_corpus(corpus_recipe)
    assert len(ran) == 2 + 2 + 1 + 2 + 1
    assert len(set(ran)) == len(ran) - 1
    monkeypatch.undo()
    build_corpus(corpus_recipe.model_copy(update={"output": tmp_path / "whole"}))
    assert contents(tmp_path / "out" / "web") == contents(tmp_path / "whole" / "web")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["web"]
