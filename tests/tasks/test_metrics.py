"""Metrics agree with other implementations, and intervals contain their values."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from modernbert.tasks.answer.scores import squad_scores
from modernbert.tasks.metrics import (
    accuracy,
    binary_f1,
    bootstrap,
    f1_of_counts,
    macro_f1,
    matthews,
    mean,
    multilabel_f1,
    pearson,
    spearman,
)

PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)


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
def test_multilabel_metrics_agree_with_scikit_learn(rows):
    wanted = np.array(rows)
    predicted = np.roll(wanted, 1, axis=0)
    for average in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(wanted, predicted, average=average, zero_division=0.0)
        assert multilabel_f1(predicted, wanted, average) == pytest.approx(expected)
    assert accuracy(predicted, wanted) == sklearn.metrics.accuracy_score(wanted, predicted)


def test_correlations_agree_with_scipy_and_are_0_without_variance():
    generator = np.random.default_rng(0)
    wanted = generator.integers(0, 6, 100).astype(float)
    predicted = wanted + generator.normal(size=100)
    assert pearson(predicted, wanted) == pytest.approx(scipy.stats.pearsonr(predicted, wanted).statistic)
    assert spearman(predicted, wanted) == pytest.approx(scipy.stats.spearmanr(predicted, wanted).statistic)
    assert pearson(np.ones(100), wanted) == spearman(np.ones(100), wanted) == 0.0


def test_an_interval_contains_the_value_shrinks_with_examples_and_depends_on_the_seed():
    generator = np.random.default_rng(1)
    wanted = generator.integers(0, 2, 2000)
    predicted = np.where(generator.random(2000) < 0.8, wanted, 1 - wanted)
    interval = bootstrap(accuracy, predicted, wanted)
    assert interval.value == accuracy(predicted, wanted)
    assert interval.low < interval.value < interval.high
    error = np.sqrt(interval.value * (1 - interval.value) / 2000)  # of a binomial distribution
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


def test_a_missing_package_is_an_error_with_the_install_command(monkeypatch):
    import sys

    from modernbert.errors import DataError

    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(DataError, match=r"need scipy: pip install .*\[finetune\]'"):
        pearson([1, 2], [1, 2])
