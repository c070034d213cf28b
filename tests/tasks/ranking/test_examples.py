"""Examples of rankers: every usual format is read, errors have file and line, and batches repeat no text."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.errors import DataError
from modernbert.tasks.ranking.batches import batches_without_repeats
from modernbert.tasks.ranking.examples import RankingColumns, read_ranking, relevant_pairs
from modernbert.tasks.ranking.mining import Mining, mine, with_bm25_negatives, with_random_negatives
from modernbert.tasks.ranking.rankers import Bm25
from modernbert.tasks.ranking.unlabelled import Unlabelled, sentences, unlabelled_pairs
from modernbert.text.collection import Collection, Document
from modernbert.text.records import Source


def written(path: Path, *records: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return Source(path=str(path))


@pytest.mark.parametrize(
    ("record", "documents", "scores"),
    [
        ({"query": "q", "positive": "p"}, ("p",), None),
        ({"question": "q", "passage": "p"}, ("p",), None),
        ({"query": "q", "positive": "p", "negative": "n"}, ("p", "n"), None),
        ({"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}, ("p", "n", "m"), None),
        ({"query": "q", "positive": "p", "negative": ["n", "m"]}, ("p", "n", "m"), None),
        ({"query": "q", "documents": ["p", "n"], "scores": [2, -1.5]}, ("p", "n"), (2.0, -1.5)),
        ({"sentence1": "q", "sentence2": "p", "score": 0.4}, ("p",), (0.4,)),
        ({"query": "q", "positive": "p", "negative": "n", "label": [3, 1]}, ("p", "n"), (3.0, 1.0)),
    ],
)
def test_every_usual_format_of_examples_is_read(record, documents, scores, tmp_path: Path) -> None:
    (found,) = read_ranking(written(tmp_path / "data.jsonl", record), RankingColumns())
    assert (found.query, found.documents, found.scores) == ("q", documents, scores)


def test_a_csv_of_questions_and_passages_gives_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("question,passage\nwhy?,because\nhow?,so\n")
    found = read_ranking(Source(path=str(tmp_path / "pairs.csv")), RankingColumns())
    assert [(one.query, one.documents) for one in found] == [("why?", ("because",)), ("how?", ("so",))]


def test_identifiers_are_looked_up_in_their_files(tmp_path: Path) -> None:
    queries = written(tmp_path / "queries.jsonl", {"query_id": 7, "text": "q"})
    documents = written(
        tmp_path / "documents.jsonl", {"document_id": "a", "text": "x"}, {"document_id": "b", "text": "y"}
    )
    source = written(tmp_path / "train.jsonl", {"query_id": 7, "document_ids": ["b", "a"], "scores": [0.9, 0.1]})
    columns = RankingColumns(queries_from=queries, documents_from=documents)
    (found,) = read_ranking(source, columns)
    assert (found.query, found.documents, found.scores) == ("q", ("y", "x"), (0.9, 0.1))
    written(tmp_path / "train.jsonl", {"query_id": 7, "document_ids": ["c"], "scores": [1]})
    with pytest.raises(DataError, match=r"train.jsonl:1: document_ids has the identifier 'c', which has no text"):
        read_ranking(source, columns)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "q", "positive": " "}, "positive is empty"),
        ({"query": "", "positive": "p"}, "query is empty"),
        ({"query": "q", "documents": ["p", "n"], "scores": [1.0, float("nan")]}, "scores holds nan"),
        ({"query": "q", "documents": ["p", "n"], "scores": [1.0]}, "scores has 1 numbers for 2 documents"),
        ({"query": "q", "documents": []}, "documents should be a list of documents"),
        ({"query": "q", "positive": None}, "positive is None and should be a text"),
        ({"query": "q"}, "there is no column 'positive'"),
        ({"words": "q", "positive": "p"}, "there is no column 'query'"),
    ],
)
def test_an_invalid_record_is_an_error_with_file_and_line(record, message: str, tmp_path: Path) -> None:
    source = written(tmp_path / "data.jsonl", {"query": "q", "positive": "p"}, record)
    with pytest.raises(DataError, match=rf"data.jsonl:2: {message}"):
        read_ranking(source, RankingColumns())
    assert len(read_ranking(source, RankingColumns(), skip_bad=True)) == 1


@given(st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=3), max_size=40), st.integers(1, 8))
def test_no_text_is_repeated_in_a_batch_and_every_example_is_in_one(names: list[set[int]], size: int) -> None:
    batches = batches_without_repeats(range(len(names)), names, size)
    for batch in batches:
        assert 1 <= len(batch) <= size
        texts = [name for index in batch for name in names[index]]
        assert len(texts) == len(set(texts))
    assert sorted(index for batch in batches for index in batch) == list(range(len(names)))


def test_without_repeats_the_order_is_kept() -> None:
    assert batches_without_repeats([3, 1, 0, 2], [[0], [1], [2], [3]], 2) == [[3, 1], [0, 2]]
    assert batches_without_repeats(range(5), [[n] for n in range(5)], 2, last=False) == [[0, 1], [2, 3]]
    assert batches_without_repeats([0], [[0]], 2, last=False) == [[0]]


DOCUMENTS = {
    "a": Document("Wings", "A wing in a slipstream. The lift of the wing grows with speed. Tests were made."),
    "b": Document("", "Heat flows through slabs of metal. It is slow in composite slabs. Theory agrees."),
    "c": Document("Wings again", "A swept wing in a wind tunnel. The lift is measured. Results are shown."),
}


def test_queries_of_keywords_prefer_rare_words() -> None:
    names = ("lift", "drag", "mach", "chord", "sweep", "span")
    texts = [
        f"The wing of the plane has {', '.join(f'{name}{n}' for name in names)} of its own{' common parts' * (n % 2)}."
        for n in range(40)
    ]
    settings = Unlabelled(kinds=("keywords",), per_document=3, keywords=(2, 3))
    documents = [Document("", text) for text in texts]
    pairs = list(unlabelled_pairs(documents, settings, seed=0))
    assert len(pairs) == 3 * 40
    assert pairs == list(unlabelled_pairs(documents, settings, seed=0))
    common = 0
    for number, pair in enumerate(pairs):
        assert pair.documents == (texts[number // 3],)
        words = pair.query.split()
        assert len(set(words)) == len(words) in (2, 3)
        rare = {f"{name}{number // 3}" for name in names}
        assert set(words) <= rare | {"common", "parts"}  # no word that all documents have
        common += len(set(words) - rare)
    drawn = sum(len(pair.query.split()) for pair in pairs)
    assert 0 < common < drawn / 16  # they are two of eight words in half of the documents, but not rare
    japanese = ["手塚治虫は日本の東京のアニメーターである。", "漫画家の本名は不明。"]
    found = list(unlabelled_pairs([Document("", text) for text in japanese], settings, seed=0))
    assert len(found) == 3  # half of three rare words are too few for a pair
    assert {word for pair in found for word in pair.query.split()} <= {"手塚治虫", "日本", "東京", "アニメーター"}
    [hindi, _] = unlabelled_pairs(
        [Document("", "हिन्दी भाषा किताब पुस्तक"), Document("", "abc def ghi jkl")],
        Unlabelled(kinds=("keywords",), per_document=1, keywords=(2, 2)),
        0,
    )
    assert set(hindi.query.split()) <= {"हिन्दी", "भाषा", "किताब", "पुस्तक"}
    for keywords in ((12, 4), (1, 1)):
        with pytest.raises(ValueError, match="give two numbers of at least 2, the lower one first"):
            Unlabelled(keywords=keywords)


def test_unlabelled_pairs_depend_on_the_seed_and_are_parts_of_one_document() -> None:
    settings = Unlabelled(per_document=2)
    found = list(unlabelled_pairs(DOCUMENTS.values(), settings, seed=1))
    assert found == list(unlabelled_pairs(DOCUMENTS.values(), settings, seed=1))
    assert found != list(unlabelled_pairs(DOCUMENTS.values(), settings, seed=2))
    assert ("Wings", (DOCUMENTS["a"].text,)) in [(one.query, one.documents) for one in found]
    for one in found:
        (whole,) = one.relevant
        words = set(whole.split())
        assert set(one.query.split()) | set(one.documents[0].split()) <= words
    sentence = next(unlabelled_pairs([DOCUMENTS["b"]], Unlabelled(kinds=("sentence",), per_document=1), seed=0))
    assert sentence.query in sentences(DOCUMENTS["b"].text)


def test_japanese_has_sentences_and_crops_without_spaces() -> None:
    text = "日本の首都は東京です。人口は多いです。川が流れています。"
    assert sentences(text) == ["日本の首都は東京です。", "人口は多いです。", "川が流れています。"]
    (crop,) = unlabelled_pairs([Document("", text)], Unlabelled(kinds=("crop",), per_document=1), seed=0)
    assert crop.query in text
    assert crop.documents[0] in text


def collection() -> Collection:
    return Collection("small", DOCUMENTS, {"1": "lift of a wing"}, {"1": {"a": 1, "c": 1, "b": 0}})


def test_relevant_pairs_have_all_relevant_documents() -> None:
    first, second = relevant_pairs(collection(), {"1": ["b"]})
    assert first.documents == (DOCUMENTS["a"].content, DOCUMENTS["b"].content)
    assert second.documents[0] == DOCUMENTS["c"].content
    assert first.relevant == second.relevant == (DOCUMENTS["a"].content, DOCUMENTS["c"].content)


def test_a_relevant_document_is_never_a_negative() -> None:
    pytest.importorskip("bm25s")
    contents = [one.content for one in DOCUMENTS.values()]
    found = mine(relevant_pairs(collection()), contents, Bm25(), Mining(negatives=2, first=1, last=3))
    assert found.num_without_negatives == 2  # BM25 finds relevant ones alone
    assert found.left_out["known to be relevant"] == 4
    alone = Collection("small", DOCUMENTS, {"1": "lift of a wing"}, {"1": {"a": 1}})
    (mined,) = mine(relevant_pairs(alone), contents, Bm25(), Mining(negatives=2, first=1, last=3)).examples
    assert mined.documents == (DOCUMENTS["a"].content, DOCUMENTS["c"].content)
    near = Mining(negatives=2, first=1, last=3, margin=0.95)
    assert mine(relevant_pairs(alone), contents, Bm25(), near).left_out["too near to the positive"] == 1
    kept = with_bm25_negatives(relevant_pairs(collection()), contents, 1, 1)
    assert [one.documents for one in kept] == [(contents[0],), (contents[2],)]


def test_random_negatives_are_other_documents_that_are_not_relevant() -> None:
    contents = [one.content for one in DOCUMENTS.values()]
    alone = Collection("small", DOCUMENTS, {"1": "lift of a wing"}, {"1": {"a": 1}})
    [pair] = relevant_pairs(alone)
    seen = {with_random_negatives([pair], contents, 1, seed)[0].documents for seed in range(20)}
    assert seen == {(contents[0], contents[1]), (contents[0], contents[2])}
    repeated = [contents[0]] * 9 + contents[1:2]
    assert with_random_negatives([pair], repeated, 1)[0].documents == (contents[0], contents[1])
    [all_others] = with_random_negatives([pair], contents, 9)
    assert sorted(all_others.documents) == sorted(contents)
    [unchanged] = with_random_negatives([pair], contents, 0)
    assert unchanged == pair
    known = [one.documents for one in with_random_negatives(relevant_pairs(collection()), contents, 2)]
    assert known == [(contents[0], contents[1]), (contents[2], contents[1])]
    twice = [replace(pair, documents=(text,), relevant=()) for text in contents[:2]]
    assert [one.documents[1:] for one in with_random_negatives(twice, contents, 2)] == [(contents[2],)] * 2
    [hard] = with_random_negatives([replace(pair, documents=(contents[0], contents[1]))], contents, 1)
    assert hard.documents == (contents[0], contents[1], contents[2])


def test_a_cross_encoder_rejects_documents_that_it_rates_as_relevant() -> None:
    pytest.importorskip("bm25s")

    class Checker:
        def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
            return [0.9 if "wing" in document.lower() else 0.1 for _, document in pairs]

    alone = Collection("small", DOCUMENTS, {"1": "lift of a wing"}, {"1": {"a": 1}})
    contents = [one.content for one in DOCUMENTS.values()]
    settings = Mining(negatives=2, first=1, last=3)
    found = mine(relevant_pairs(alone), contents, Bm25(), settings, Checker())  # type: ignore[arg-type]
    assert found.left_out["relevant to the cross-encoder"] == 1
    assert found.num_without_negatives == 1
