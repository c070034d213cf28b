import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.packed import IGNORED
from modernbert.stream.masking import mask_tokens
from modernbert.text.tokenizer import Vocabulary

SPECIAL = np.zeros(1000, dtype=np.bool_)
SPECIAL[[0, 1, 2, 3, 700, *range(990, 1000)]] = True
VOCABULARY = Vocabulary(1000, 0, 1, 2, 3, SPECIAL, np.ones(1000, dtype=np.int32))


@given(
    st.lists(st.integers(0, 999), min_size=1),
    st.floats(0.01, 0.99),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_masking_is_deterministic_and_never_predicts_special_tokens(ids, ratio, seed, step):
    ids = np.array(ids)
    inputs, labels = mask_tokens(ids, VOCABULARY, ratio=ratio, seed=seed, step=step)
    again = mask_tokens(ids.copy(), VOCABULARY, ratio=ratio, seed=seed, step=step)
    assert np.array_equal(inputs, again[0])
    assert np.array_equal(labels, again[1])
    chosen = labels != IGNORED
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(inputs[~chosen], ids[~chosen])
    assert not SPECIAL[ids[chosen]].any()
    replaced_ids = inputs[chosen]
    assert not SPECIAL[replaced_ids[replaced_ids != VOCABULARY.mask_id]].any()


@pytest.fixture(scope="module")
def many():
    ids = np.random.default_rng(0).choice(VOCABULARY.ordinary, 400_000)
    return ids, *mask_tokens(ids, VOCABULARY, ratio=0.3, seed=1, step=2)


def test_thirty_percent_are_predicted_and_replaced_by_80_10_10(many):
    ids, inputs, labels = many
    chosen = labels != IGNORED
    assert chosen.mean() == pytest.approx(0.3, abs=0.003)
    masked, kept = inputs[chosen] == VOCABULARY.mask_id, inputs[chosen] == ids[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.004)
    assert kept.mean() == pytest.approx(0.1, abs=0.003)
    assert (~masked & ~kept).mean() == pytest.approx(0.1, abs=0.003)


def test_random_replacements_are_uniform_over_ordinary_tokens(many):
    ids, inputs, labels = many
    replaced = (labels != IGNORED) & (inputs != VOCABULARY.mask_id) & (inputs != ids)
    counts = np.bincount(inputs[replaced], minlength=1000)[VOCABULARY.ordinary]
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    freedom = len(counts) - 1
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5  # four sigma of the chi-squared distribution


def test_neighbouring_seeds_differ_over_all_64_bits(many):
    ids = many[0][:1000]
    for seed in (0, 2**53, 2**63, 2**64 - 2):
        labels = [mask_tokens(ids, VOCABULARY, ratio=0.5, seed=s, step=1)[1] for s in (seed, seed + 1)]
        assert not np.array_equal(*labels)


def test_another_step_or_seed_masks_other_tokens(many):
    ids, _, labels = many
    for seed, step in ((1, 3), (2, 2)):
        other = mask_tokens(ids, VOCABULARY, ratio=0.3, seed=seed, step=step)[1]
        both = ((labels != IGNORED) & (other != IGNORED)).mean()
        assert both == pytest.approx(0.09, abs=0.003)
