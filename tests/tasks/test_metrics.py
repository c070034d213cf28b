import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

from modernbert.tasks.metrics import (
    accuracy,
    binary_f1,
    bootstrap,
    f1_of_counts,
    macro_f1,
    matthews,
    mean,
    multilabel_f1,
    normalized_answer,
    pearson,
    span_counts,
    span_scores,
    span_scores_by_label,
    spearman,
    squad_scores,
)
from modernbert.tasks.reading_spans import spans_of_tags
from modernbert.text.examples import Span

PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)
TAGS = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), min_size=1, max_size=8)


@given(PAIRS)
def test_class_metrics_agree_with_scikit_learn(pairs):
    predicted, wanted = map(list, zip(*pairs, strict=True))
    assert accuracy(predicted, wanted) == sklearn.metrics.accuracy_score(wanted, predicted)
    ones = [[one == 1 for one in values] for values in (predicted, wanted)]
    assert binary_f1(predicted, wanted) == pytest.approx(sklearn.metrics.f1_score(ones[1], ones[0], zero_division=0.0))
    expected = sklearn.metrics.f1_score(wanted, predicted, average="macro", zero_division=0)
    assert macro_f1(predicted, wanted) == pytest.approx(expected)
    if len({*predicted, *wanted}) > 1:  # scikit-learn warns of a single class
        assert matthews(predicted, wanted) == pytest.approx(sklearn.metrics.matthews_corrcoef(wanted, predicted))
    names = ["no", "yes", "maybe"]
    assert matthews([names[i] for i in predicted], [names[i] for i in wanted]) == matthews(predicted, wanted)


@given(st.integers(1, 10).flatmap(lambda n: st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=n)))
def test_metrics_of_several_labels_agree_with_scikit_learn(rows):
    wanted = np.array(rows)
    predicted = np.roll(wanted, 1, axis=0)
    for average in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(wanted, predicted, average=average, zero_division=0.0)
        assert multilabel_f1(predicted, wanted, average) == pytest.approx(expected)
    assert accuracy(predicted, wanted) == sklearn.metrics.accuracy_score(wanted, predicted)


def test_correlations_agree_with_scipy_and_are_0_where_nothing_varies():
    generator = np.random.default_rng(0)
    wanted = generator.integers(0, 6, 100).astype(float)
    predicted = wanted + generator.normal(size=100)
    assert pearson(predicted, wanted) == pytest.approx(scipy.stats.pearsonr(predicted, wanted).statistic)
    assert spearman(predicted, wanted) == pytest.approx(scipy.stats.spearmanr(predicted, wanted).statistic)
    assert pearson(np.ones(100), wanted) == spearman(np.ones(100), wanted) == 0.0


@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=6))
def test_span_f1_agrees_with_seqeval_on_the_same_predictions(texts):
    texts = [(one[: min(len(one), len(other))], other[: min(len(one), len(other))]) for one, other in texts]
    predicted, wanted = ([list(tags) for tags in side] for side in zip(*texts, strict=True))
    spans = [
        [spans_of_tags([(i, i + 1) for i in range(len(tags))], tags) for tags in side] for side in (predicted, wanted)
    ]
    ours = span_scores(*spans)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where there is nothing to count
        assert ours.f1 == pytest.approx(f1_score(wanted, predicted))
        assert ours.precision == pytest.approx(precision_score(wanted, predicted))
        assert ours.recall == pytest.approx(recall_score(wanted, predicted))
        if any(tag != "O" for side in (predicted, wanted) for tags in side for tag in tags):
            report = classification_report(wanted, predicted, output_dict=True)
            for label, scores in span_scores_by_label(*spans).items():
                assert scores.f1 == pytest.approx(report[label]["f1-score"])
                assert scores.wanted == report[label]["support"]


def test_a_span_counts_only_with_both_ends_and_its_label():
    wanted = [[Span(0, 3, "A"), Span(5, 7, "B")], []]
    predicted = [[Span(0, 3, "B"), Span(5, 7, "B"), Span(8, 9, "A")], [Span(0, 1, "A")]]
    assert span_counts(predicted, wanted).tolist() == [[1, 3, 2], [0, 1, 0]]
    scores = span_scores(predicted, wanted)
    assert (scores.precision, scores.recall, scores.f1) == (0.25, 0.5, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("a black cat", ["the cat"], 0, 2 / 3),
        ("black cat", ["white dog", "cat", "black"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("theatre", ["theatre"], 1, 1),
        ("1,000", ["1000"], 1, 1),
        ("U.S.", ["US"], 1, 1),
        ("dog", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("", ["the"], 1, 1),
        ("", ["cat"], 0, 0),
        ("cat", [], 0, 0),
        ("the", ["cat", "a"], 0, 0),
    ],
)
def test_answers_are_scored_by_the_definition_of_the_squad_script(predicted, answers, exact, f1):
    assert squad_scores([predicted], [answers]).tolist() == [[exact, pytest.approx(f1)]]


WORDS = st.lists(st.sampled_from(["the", "a", "cat", "Cat.", "dog"]), max_size=6).map(" ".join)


@given(WORDS, st.lists(WORDS, max_size=3))
def test_the_best_accepted_answer_counts_and_order_does_not(predicted, answers):
    [[exact, f1]] = squad_scores([predicted], [answers]).tolist()
    accepted = [answer for answer in answers if normalized_answer(answer)]
    alone = [squad_scores([predicted], [[answer]])[0] for answer in accepted] or [squad_scores([predicted], [[]])[0]]
    assert [exact, f1] == np.max(alone, axis=0).tolist()
    assert exact <= f1 <= 1
    assert squad_scores([predicted], [answers[::-1]]).tolist() == [[exact, f1]]


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("東京都", ["東京"], 0, 0.8),
        ("「東京」。", ["東京"], 1, 1),
        ("約１５メートル", ["約15メートル"], 1, 1),
        ("大阪", ["東京", "大 阪"], 1, 1),
        ("", ["東京"], 0, 0),
        ("", [], 1, 1),
        ("東京", [], 0, 0),
        ("ああい", ["あい"], 0, 0.8),
    ],
)
def test_japanese_answers_are_compared_by_characters(predicted, answers, exact, f1):
    assert squad_scores([predicted], [answers], unit="characters").tolist() == [[exact, pytest.approx(f1)]]


def test_the_interval_holds_the_value_is_narrow_with_many_examples_and_repeats_with_the_seed():
    generator = np.random.default_rng(1)
    wanted = generator.integers(0, 2, 2000)
    predicted = np.where(generator.random(2000) < 0.8, wanted, 1 - wanted)
    interval = bootstrap(accuracy, predicted, wanted)
    assert interval.value == accuracy(predicted, wanted)
    assert interval.low < interval.value < interval.high
    error = np.sqrt(interval.value * (1 - interval.value) / 2000)  # the binomial's own
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert bootstrap(accuracy, predicted, wanted) == interval
    assert bootstrap(accuracy, predicted, wanted, seed=1) != interval
    few = bootstrap(accuracy, predicted[:50], wanted[:50])
    assert few.high - few.low > 3 * (interval.high - interval.low)


def test_intervals_of_spans_answers_and_correlations():
    counts = np.array([[1, 2, 1], [2, 2, 2], [0, 1, 1]] * 20)
    assert bootstrap(f1_of_counts, counts, samples=200).value == f1_of_counts(counts)
    scores = squad_scores(["a cat", "dog"] * 20, [["cat"], ["a horse"]] * 20)
    interval = bootstrap(mean, scores[:, 1], samples=200)
    assert interval.low < interval.value == 0.5 < interval.high
    numbers = np.arange(50.0)
    assert bootstrap(pearson, numbers, numbers, samples=50).low == pytest.approx(1)


def test_a_missing_package_is_told_with_the_extra_that_brings_it(monkeypatch):
    import sys

    from modernbert.errors import DataError

    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(DataError, match=r"need scipy: pip install .*\[finetune\]'"):
        pearson([1, 2], [1, 2])
