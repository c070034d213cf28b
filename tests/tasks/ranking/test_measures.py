"""Measures equal those of trec_eval, intervals contain the mean, and fusions are of ranks or of scores."""

import math

import pytest

from modernbert.errors import ConfigError
from modernbert.tasks.ranking.fusion import fusion_named
from modernbert.tasks.ranking.measures import MEASURES, difference, evaluate_run, mean_with_interval, measure_run
from modernbert.tasks.ranking.rankers import Bm25, fuse_runs, interpolate_runs
from modernbert.text.bm25 import ENGLISH_STOP_WORDS, bm25_words, language_of
from modernbert.text.collection import Collection, Document

pytest.importorskip("ir_measures")

QRELS = {
    "1": {"a": 2, "b": 1, "c": 0, "d": 1},
    "2": {"x": 1},
    "3": {"a": 3, "x": 1},
}
RUN = {
    "1": {"c": 3.0, "a": 2.5, "e": 2.0, "b": 1.0},
    "2": {"a": 1.0, "b": 1.0, "x": 1.0},  # a tie, which trec_eval breaks by the name, in descending order
}


def test_measures_equal_pytrec_eval() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    names = {"nDCG@10": "ndcg_cut_10", "RR": "recip_rank", "R@10": "recall_10", "R@100": "recall_100", "AP@1000": "map"}
    assert set(names) == set(MEASURES)
    evaluator = pytrec_eval.RelevanceEvaluator(QRELS, {"ndcg_cut.10", "recip_rank", "recall.10,100", "map"})
    theirs = evaluator.evaluate(RUN)
    ours = measure_run(QRELS, RUN)
    for name, column in names.items():
        assert ours[name] == pytest.approx([theirs.get(query, {}).get(column, 0.0) for query in QRELS], abs=1e-9)


def test_measures_equal_a_manual_calculation() -> None:
    found = measure_run(QRELS, RUN)
    gain = 2 / math.log2(3) + 1 / math.log2(5)  # a second, b fourth
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["nDCG@10"][0] == pytest.approx(gain / ideal)
    assert found["RR"] == pytest.approx([1 / 2, 1.0, 0.0])  # x is the last name and comes first of equal scores
    assert found["AP@1000"][0] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert found["R@10"] == pytest.approx([2 / 3, 1.0, 0.0])  # a query without an answer counts


def test_an_interval_contains_the_mean_and_shrinks_with_more_queries() -> None:
    few, many = mean_with_interval([0.0, 1.0] * 5), mean_with_interval([0.0, 1.0] * 500)
    assert few.low < few.value == 0.5 < few.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_fusion_prefers_documents_that_both_rank_high() -> None:
    one, other = [[(0, 9.0), (1, 8.0), (2, 7.0)]], [[(2, 0.9), (0, 0.8)]]
    assert [place for place, _ in fuse_runs([one, other], 3)[0]] == [0, 2, 1]
    assert fuse_runs([one, other], 1)[0] == [(0, pytest.approx(1 / 61 + 1 / 62))]
    assert [place for place, _ in fuse_runs([one, other], 3, (1, 9))[0]] == [2, 0, 1]
    assert fuse_runs([one, other], 1, (1, 9))[0] == [(2, pytest.approx(1 / 63 + 9 / 61))]
    with pytest.raises(ValueError, match="zip"):
        fuse_runs([one, other], 1, (1,))


def test_fusion_by_scores_is_the_weighted_mean_of_scaled_scores() -> None:
    one, other = [[(0, 9.0), (1, 8.0), (2, 7.0)]], [[(2, 0.9), (3, 0.8)]]
    [found] = fuse_runs([one, other], 4, (3, 1), "scores")
    assert found == [(0, 0.75), (1, 0.375), (2, 0.25), (3, 0.0)]
    [found] = fuse_runs([one, [[(4, -2.0)]]], 4, (1, 3), "scores")
    assert found == [(4, 0.75), (0, 0.25), (1, 0.125), (2, 0.0)]  # one document: its scaled score is 1
    assert fuse_runs([[[]], [[]]], 4, (1, 3), "scores") == [[]]
    with pytest.raises(ValueError, match="zip"):
        fuse_runs([one, other], 1, (1,), "scores")
    with pytest.raises(ConfigError, match="no fusion 'sum'; choose rrf or scores"):
        fusion_named("sum")


def test_a_reranked_run_keeps_a_part_of_the_first_scores() -> None:
    first = [[(0, 10.0), (1, 8.0), (2, 6.0), (3, 1.0)]]
    reranked = [[(2, 0.9), (1, 0.5), (0, 0.4), (3, -7.0)]]
    [found] = interpolate_runs(first, reranked, 3, 0.0)
    assert [place for place, _ in found] == [2, 1, 0, 3]
    [found] = interpolate_runs(first, reranked, 3, 3.0)
    assert [place for place, _ in found] == [0, 1, 2, 3]
    assert [score for _, score in found] == [pytest.approx(one) for one in (0.75, 0.375 + 0.2 / 4, 0.25, -0.75)]


def test_bm25_finds_the_document_with_the_words_and_has_a_cost() -> None:
    pytest.importorskip("bm25s")
    documents = {"a": Document("", "heat in composite slabs"), "b": Document("", "the lift of wings")}
    collection = Collection("small", documents, {"1": "lifting wing"}, {"1": {"b": 1}})
    ranker = Bm25()
    run = ranker.rank(list(collection.queries.values()), [one.content for one in documents.values()], 10)
    assert [place for place, _ in run[0]] == [1]
    system = evaluate_run(collection, run, "BM25", ranker.cost)
    assert system.quality["nDCG@10"].value == 1.0
    assert difference(system, system).value == 0.0


@pytest.mark.parametrize("language", ["auto", "any", "ja", "en"])
def test_bm25_counts_pairs_of_characters_in_japanese(language: str) -> None:
    pytest.importorskip("bm25s")
    found = Bm25(language).rank(["首都は"], ["川が流れる", "日本の首都は東京"], 2)
    assert [place for place, _ in found[0]] == [1]


def test_the_language_is_that_of_the_documents() -> None:
    assert language_of(["the lift of wings", "heat"]) == "en"
    assert language_of(["the lift of wings", "日本の首都は東京、大阪は二番目です。"]) == "any"
    assert language_of(["Kyoto (京都) is a city in the Kansai region of Japan"]) == "en"
    assert language_of(["Die Stadt liegt am Meer, und die Burg ist alt.", "Er wohnt nicht mehr in der Hütte."]) == "any"
    assert language_of(["def add(one, other):\n    # the sum of the numbers\n    return one + other"]) == "en"
    assert language_of([]) == "en"


def test_english_words_are_those_of_bm25s() -> None:
    bm25s = pytest.importorskip("bm25s", reason="the extra `retrieval` is not installed")
    stemmer = pytest.importorskip("Stemmer", reason="the extra `retrieval` is not installed")
    from bm25s.stopwords import STOPWORDS_EN

    assert frozenset(STOPWORDS_EN) == ENGLISH_STOP_WORDS
    texts = ["The wings are not a problem: flows' boundary_layer 3 x 12.", "", "A b It"]
    expected = bm25s.tokenize(
        texts, stopwords="en", stemmer=stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    assert bm25_words(texts, "en") == expected
    assert expected[0][:3] == ["wing", "problem", "flow"]
